#include "worker/text/special_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clean_text.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/status.h"

namespace thaw {
namespace {

using nlohmann::json;

constexpr const char* kSpecialNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                         "pad_token", "cls_token", "mask_token"};

// An empty object if there is no such file.
absl::StatusOr<json> ReadOptionalObject(const std::string& path) {
  if (!Exists(path)) return json::object();
  THAW_ASSIGN_OR_RETURN(json value, ReadJsonFile(path));
  if (!value.is_object()) return absl::InvalidArgumentError(path + ": is no JSON object");
  return value;
}

// A token is written as a string or as an object with its "content".
absl::StatusOr<std::string> TokenText(const json& value, const std::string& what) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string()) {
    return value["content"].get<std::string>();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is ", CleanText(value.dump(), 80),
                   ": must be a string or an object with \"content\""));
}

absl::Status AddTexts(const json& file, const std::string& path, SpecialTokens& tokens) {
  for (const char* name : kSpecialNames) {
    if (!file.contains(name) || file[name].is_null()) continue;
    THAW_ASSIGN_OR_RETURN(std::string text, TokenText(file[name], absl::StrCat(path, ": ", name)));
    tokens.texts.emplace(name, std::move(text));
  }
  const auto additional = file.find("additional_special_tokens");
  if (additional == file.end() || !additional->is_array() || !tokens.additional.empty()) {
    return absl::OkStatus();
  }
  for (const json& token : *additional) {
    THAW_ASSIGN_OR_RETURN(std::string text,
                          TokenText(token, path + ": additional_special_tokens[]"));
    tokens.additional.push_back(std::move(text));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ConfiguredIds(const json& file, const std::string& path,
                                                   const char* field) {
  std::vector<int32_t> ids;
  if (!file.contains(field) || file[field].is_null()) return ids;
  const json list = file[field].is_array() ? file[field] : json::array({file[field]});
  for (const json& id : list) {
    if (!id.is_number_integer() || id > INT32_MAX) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", field, " is ",
                                                     CleanText(file[field].dump(), 80),
                                                     ": must be a token id or a list of them"));
    }
    if (id >= 0) ids.push_back(id);
  }
  return ids;
}

}  // namespace

absl::StatusOr<SpecialTokens> ReadSpecialTokens(const std::string& directory,
                                                const Tokenizer& tokenizer) {
  SpecialTokens tokens;
  for (const char* name : {"/tokenizer_config.json", "/special_tokens_map.json"}) {
    const std::string path = directory + name;
    THAW_ASSIGN_OR_RETURN(const json file, ReadOptionalObject(path));
    THAW_RETURN_IF_ERROR(AddTexts(file, path, tokens));
  }
  const std::string config_path = directory + "/config.json";
  THAW_ASSIGN_OR_RETURN(const json config, ReadOptionalObject(config_path));
  const std::pair<const char*, std::optional<int32_t>*> parts[] = {{"bos_token", &tokens.bos},
                                                                   {"eos_token", &tokens.eos},
                                                                   {"pad_token", &tokens.pad},
                                                                   {"unk_token", &tokens.unk}};
  for (const auto& [name, id] : parts) {
    const auto text = tokens.texts.find(name);
    if (text != tokens.texts.end()) *id = tokenizer.TokenToId(text->second);
    if (*id) continue;
    const std::string field = absl::StrCat(name, "_id");
    THAW_ASSIGN_OR_RETURN(const auto ids, ConfiguredIds(config, config_path, field.c_str()));
    if (!ids.empty()) *id = ids.front();
  }
  const std::string generation_path = directory + "/generation_config.json";
  THAW_ASSIGN_OR_RETURN(const json generation, ReadOptionalObject(generation_path));
  THAW_ASSIGN_OR_RETURN(tokens.stops, ConfiguredIds(generation, generation_path, "eos_token_id"));
  if (tokens.stops.empty()) {
    THAW_ASSIGN_OR_RETURN(tokens.stops, ConfiguredIds(config, config_path, "eos_token_id"));
  }
  if (tokens.eos) tokens.stops.push_back(*tokens.eos);
  auto end = tokens.stops.begin();
  for (const int32_t id : tokens.stops) {
    if (std::find(tokens.stops.begin(), end, id) == end) *end++ = id;
  }
  tokens.stops.erase(end, tokens.stops.end());
  return tokens;
}

}  // namespace thaw
