// Inside common/spec: the artifacts behind a spec's ids.
#pragma once

#include <optional>
#include <set>
#include <string>

#include "absl/strings/string_view.h"
#include "common/spec/spec.h"
#include "common/spec/spec_problems.h"

namespace thaw {

// Null if the context does not have it.
const v1::Artifact* FindArtifact(const SpecContext& context, const std::string& id);

// Null, with the reason noted, unless the artifact is there, of one of these kinds and ready. An
// empty id is null without a note.
const v1::Artifact* FindReady(absl::string_view field, const std::string& id,
                              const std::set<v1::Artifact::Kind>& kinds, absl::string_view wanted,
                              const SpecContext& context, SpecProblems* problems);

// A model or result of a known type; null, with the reason noted, otherwise.
const v1::Artifact* FindModel(absl::string_view field, const std::string& id,
                              const SpecContext& context, SpecProblems* problems);

// What prediction.model stands for, with `weights` and `checkpoint` resolved in `prediction`: an
// artifact, the result of a training that has ended (whose id takes the place of the job's), or the
// model that a training is at, made of its base model and task, under the job's id. Nothing, with
// the reason noted, if it cannot be used.
std::optional<v1::Artifact> ResolveModel(const SpecContext& context, v1::Prediction* prediction,
                                         SpecProblems* problems);

}  // namespace thaw
