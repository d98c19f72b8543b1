#include "worker/training/vocabulary_change.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "worker/model/config.h"
#include "worker/model/family.h"
#include "worker/model/tensor_view.h"
#include "worker/model/weights.h"
#include "worker/text/special_tokens.h"
#include "worker/text/tokenizer.h"
#include "worker/training/result.h"

namespace thaw {
namespace {

bool IsTokenTable(const Family& family, const TensorOfModel& tensor, int64_t vocab_size) {
  const std::vector<int64_t>& shape = tensor.info->shape;
  if (shape.empty() || shape[0] != vocab_size) return false;
  return std::any_of(family.token_tables.begin(), family.token_tables.end(), [&](const char* name) {
    return tensor.name == name || absl::EndsWith(tensor.name, absl::StrCat(".", name));
  });
}

// For each new id the old one of the same text, or -1.
std::vector<int64_t> OldIds(const Tokenizer& before, const Tokenizer& after, int64_t vocab_size) {
  std::vector<int64_t> old_ids;
  for (const std::optional<std::string>& token : after.Vocabulary()) {
    const std::optional<int32_t> id = token ? before.TokenToId(*token) : std::nullopt;
    old_ids.push_back(id && *id < vocab_size ? *id : -1);
  }
  return old_ids;
}

torch::Tensor NewTable(const torch::Tensor& table, int64_t tokens,
                       const std::vector<int64_t>& old_ids) {
  std::vector<int64_t> shape = table.sizes().vec();
  shape[0] = static_cast<int64_t>(old_ids.size());
  torch::Tensor result = torch::empty(shape, table.scalar_type());
  // Rows beyond the old tokenizer's are padding of the table, never trained.
  const torch::Tensor mean =
      table.slice(0, 0, tokens).to(torch::kFloat64).mean(0).to(table.scalar_type()).contiguous();
  const auto row_bytes = static_cast<size_t>(mean.nbytes());
  const auto* from = static_cast<const char*>(table.const_data_ptr());
  auto* to = static_cast<char*>(result.mutable_data_ptr());
  for (const int64_t id : old_ids) {
    std::memcpy(to, id < 0 ? mean.const_data_ptr() : from + static_cast<size_t>(id) * row_bytes,
                row_bytes);
    to += row_bytes;
  }
  return result;
}

std::optional<int32_t> NewId(const std::string& field, int32_t id, const Tokenizer& before,
                             const Tokenizer& after, const SpecialTokens& special) {
  if (field == "eos_token_id" && special.eos) return special.eos;
  if (field == "bos_token_id" && special.bos) return special.bos;
  if (field == "pad_token_id" && special.pad) return special.pad;
  const std::optional<std::string> text = before.IdToToken(id);
  const std::optional<int32_t> same = text ? after.TokenToId(*text) : std::nullopt;
  // Where the decoder begins with the padding, as in T5.
  if (!same && field == "decoder_start_token_id") return special.pad;
  return same;
}

void ChangeIds(const Family& family, const Tokenizer& before, const Tokenizer& after,
               const SpecialTokens& special, nlohmann::json* config) {
  nlohmann::json old = *config;
  // What the file leaves unsaid stands for the old tokenizer's token too.
  if (!old.contains("pad_token_id") && family.default_padding >= 0) {
    old["pad_token_id"] = family.default_padding;
  }
  for (const auto& [field, old_value] : old.items()) {
    if (!absl::EndsWith(field, "_token_id")) continue;
    const nlohmann::json value =
        old_value.is_array() && !old_value.empty() ? old_value[0] : old_value;
    if (!value.is_number_integer()) continue;
    const auto id = NewId(field, value.get<int32_t>(), before, after, special);
    (*config)[field] = id ? nlohmann::json(*id) : nlohmann::json();
  }
}

absl::Status CheckPadding(const Family& family, const nlohmann::json& before,
                          const nlohmann::json& after) {
  if (!family.positions_follow_padding) return absl::OkStatus();
  const nlohmann::json old = before.value("pad_token_id", nlohmann::json(family.default_padding));
  const nlohmann::json& now = after["pad_token_id"];
  if (now == old) return absl::OkStatus();
  return InvalidField(
      "tokenizer",
      absl::StrCat("its padding token has the id ", now.dump(), ", that of the base model ",
                   old.dump(), ", from which positions of a ", family.model_type,
                   " count: give a tokenizer whose padding token has the id ", old.dump()));
}

}  // namespace

absl::Status ChangeVocabulary(const std::string& model_dir, const std::string& tokenizer_dir,
                              const std::string& directory) {
  THAW_ASSIGN_OR_RETURN(const auto before, Tokenizer::Load(model_dir + "/tokenizer.json"));
  THAW_ASSIGN_OR_RETURN(const auto after, Tokenizer::Load(tokenizer_dir + "/tokenizer.json"));
  THAW_ASSIGN_OR_RETURN(const std::string config_text, ReadFile(model_dir + "/config.json"));
  THAW_ASSIGN_OR_RETURN(const ModelConfig parsed, ParseModelConfig(config_text));
  const Family& family = *FindFamily(parsed.model_type);
  // Then all rows are drawn, those of the new tokens as well as those of the old.
  const bool drawn = family.draws_weights && !Weights::AreIn(model_dir);
  std::vector<TensorOfModel> found;
  if (!drawn) {
    THAW_ASSIGN_OR_RETURN(found, TensorsIn(model_dir));
  }
  const int64_t vocab_size = parsed.vocab_size;
  constexpr int64_t kMostTokens = int64_t{1} << 22;
  if (after->id_limit() > kMostTokens) {
    return InvalidField("tokenizer", absl::StrCat("it has token ids up to ", after->id_limit() - 1,
                                                  "; give one with ids below ", kMostTokens));
  }
  const std::vector<int64_t> old_ids = OldIds(*before, *after, vocab_size);
  const int64_t tokens = std::min<int64_t>(before->id_limit(), vocab_size);
  std::vector<TensorToWrite> tensors;
  std::vector<torch::Tensor> tables;
  for (const TensorOfModel& tensor : found) {
    const TensorInfo& info = *tensor.info;
    if (IsTokenTable(family, tensor, vocab_size)) {
      tables.push_back(NewTable(ViewTensor(tensor.file, info), tokens, old_ids));
      tensors.push_back(ToWrite(tensor.name, tables.back()));
    } else {
      tensors.push_back({tensor.name, info.type, info.shape, tensor.file->Data(info)});
    }
  }
  if (tables.empty() && !drawn) {
    return InvalidField(
        "tokenizer", absl::StrCat("the base model has no table of ", vocab_size,
                                  " tokens, so its tokenizer cannot be replaced: leave it empty"));
  }
  THAW_ASSIGN_OR_RETURN(const SpecialTokens special, ReadSpecialTokens(tokenizer_dir, *after));
  nlohmann::json config = parsed.source;
  ChangeIds(family, *before, *after, special, &config);
  THAW_RETURN_IF_ERROR(CheckPadding(family, parsed.source, config));
  config["vocab_size"] = old_ids.size();
  THAW_RETURN_IF_ERROR(MakeDirectories(directory));
  if (!drawn) {
    THAW_RETURN_IF_ERROR(WriteSafetensors(directory + "/model.safetensors", std::move(tensors)));
  }
  THAW_RETURN_IF_ERROR(WriteFileAtomically(directory + "/config.json", config.dump(2)));
  THAW_RETURN_IF_ERROR(CopyLicence(model_dir, directory));
  return CopyTokenizerFiles(tokenizer_dir, directory);
}

}  // namespace thaw
