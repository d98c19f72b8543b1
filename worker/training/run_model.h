// The model that a run works on: a model directory, or an adapter on its base.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "thaw/v1/added_part.pb.h"
#include "worker/model/model.h"

namespace thaw {

// Where config.json, tokenizer and chat template of the run's model are: model_dir, or the base's
// directory where that is an adapter.
const std::string& BaseDirectory(const internal::Run& run);

// Why the tokenizer of an adapter's model cannot be replaced.
absl::Status TokenizerOfAdapter();

struct RunModel {
  std::unique_ptr<Model> model;
  std::optional<v1::AddedPart> part;  // of the adapter
};

// Loads it with `head`, or with its own: an adapter's is what a config.json beside it says, else
// the base's. FAILED_PRECONDITION for an adapter without its base, INVALID_ARGUMENT for one that
// was trained with another head than `head`.
absl::StatusOr<RunModel> LoadRunModel(const internal::Run& run,
                                      const std::optional<HeadSpec>& head);

}  // namespace thaw
