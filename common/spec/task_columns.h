// Inside common/spec: which columns a task reads, and whether a dataset has them.
#pragma once

#include "absl/strings/string_view.h"
#include "common/spec/spec_problems.h"
#include "thaw/v1/artifact.pb.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// What the rows of a dataset are, with what it meant before there was that field.
v1::DatasetSummary::Task TaskOf(const v1::DatasetSummary& dataset);

// The defaults of the columns. `dataset` is the training dataset, or null while it is not known.
void FillColumns(const v1::Artifact* dataset, v1::Training* training);
void FillColumns(const v1::Artifact* dataset, v1::Prediction* prediction);

// Notes where `dataset`, named by the field `dataset_field`, does not serve a training: other rows,
// other columns, rows without an answer. The columns of `training` are filled in. False if the rows
// are of another task, so that nothing more can be said.
bool CheckColumns(absl::string_view dataset_field, const v1::Artifact& dataset,
                  const v1::Training& training, SpecProblems* problems);

// The same for the dataset of a prediction.
void CheckColumns(const v1::Artifact& dataset, const v1::Prediction& prediction,
                  SpecProblems* problems);

}  // namespace thaw
