// The model that a run works on: a model directory, or an adapter on its base.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "thaw/v1/added_part.pb.h"
#include "thaw/v1/job_spec.pb.h"
#include "worker/model/model.h"

namespace thaw {

struct RunModel {
  std::unique_ptr<Model> model;
  std::optional<v1::AddedPart> part;  // of the adapter
};

// Loads it, computing as the run asks, from `directory` (ModelDirectory), with `head`, or with its
// own: an adapter's is what a config.json beside it says, else the base's. INVALID_ARGUMENT for an
// adapter that was trained with another head than `head`.
absl::StatusOr<RunModel> LoadRunModel(const internal::Run& run, const std::string& directory,
                                      const std::optional<HeadSpec>& head);

// Adds the part of a training, as its seed draws it, to its model, whose tokenizer lies in
// `tokenizer_dir`. INVALID_ARGUMENT as AddPart, and for an initial_text without tokens.
absl::Status AddTrainingsPart(const v1::Training& training, const std::string& tokenizer_dir,
                              Model* model);

// The model that the run has left in `result_dir`, as a prediction would load it.
absl::StatusOr<std::unique_ptr<Model>> LoadResult(const internal::Run& run,
                                                  const std::string& result_dir);

}  // namespace thaw
