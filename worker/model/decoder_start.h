// What a decoder reads before its first token: in training, scoring and generation alike.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "worker/model/config.h"

namespace thaw {

// decoder_start_token_id of generation_config.json in `model_dir`, from which generation begins,
// or, where that is silent, of `config`; -1 for a model without encoder and decoder.
// INVALID_ARGUMENT if a model with both names none or one beyond its vocabulary.
absl::StatusOr<int32_t> DecoderStart(const std::string& model_dir, const ModelConfig& config);

}  // namespace thaw
