#include "worker/model/decoder_start.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/status.h"

namespace thaw {

absl::StatusOr<int32_t> DecoderStart(const std::string& model_dir, const ModelConfig& config) {
  if (!config.encoder_decoder) return -1;
  constexpr char kField[] = "decoder_start_token_id";
  const std::string path = model_dir + "/generation_config.json";
  nlohmann::json own;
  if (Exists(path)) {
    THAW_ASSIGN_OR_RETURN(own, ReadJsonFile(path));
  }
  for (const auto& [file, source] :
       {std::pair("generation_config.json", own), {"config.json", config.source}}) {
    if (!source.is_object() || !source.contains(kField) || source[kField].is_null()) continue;
    const nlohmann::json& value = source[kField];
    if (value.is_number_integer() && value.get<int64_t>() >= 0 &&
        value.get<int64_t>() < config.vocab_size) {
      return value.get<int32_t>();
    }
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", kField, " is ", value.dump(),
                                                   "; expected a token id below ", "vocab_size ",
                                                   config.vocab_size, ": correct it there"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("neither config.json nor generation_config.json has ", kField,
                   ", so a decoder has nothing to begin from: add it to the model's config.json"));
}

}  // namespace thaw
