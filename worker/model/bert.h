// BERT encoder with pooler and classifier (arXiv 1810.04805; post-norm blocks).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "worker/model/model.h"

namespace thaw {

// As LoadModel, for a configuration of model_type "bert".
absl::StatusOr<std::unique_ptr<Model>> LoadBert(ModelConfig config, const std::string& directory,
                                                const std::optional<HeadSpec>& head);

}  // namespace thaw
