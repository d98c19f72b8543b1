// Which tokens a model's files give a part to play: beginning, end, padding and their like.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/text/tokenizer.h"

namespace thaw {

struct SpecialTokens {
  // The texts of bos_token, eos_token, unk_token, sep_token, pad_token, cls_token and mask_token,
  // by these names, as tokenizer_config.json has them (special_tokens_map.json for what it lacks).
  std::map<std::string, std::string> texts = {};
  std::vector<std::string> additional = {};  // additional_special_tokens

  // The id of the text in the tokenizer; without one, what config.json says (the first of a list).
  std::optional<int32_t> bos = {};
  std::optional<int32_t> eos = {};
  std::optional<int32_t> pad = {};
  std::optional<int32_t> unk = {};

  // Every id that ends generated text, without repetition: eos_token_id (a number or a list) of
  // generation_config.json, or of config.json if that has none, then the tokenizer's eos_token,
  // which for chat models is the end of a turn.
  std::vector<int32_t> stops = {};
};

// Reads the files named above in `directory`; one that is missing says nothing. INVALID_ARGUMENT
// names the file and the field that is wrong. Ids below 0 mean none.
absl::StatusOr<SpecialTokens> ReadSpecialTokens(const std::string& directory,
                                                const Tokenizer& tokenizer);

}  // namespace thaw
