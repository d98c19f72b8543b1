#include "worker/tuning/virtual_tokens.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/family.h"
#include "worker/model/fresh_tensor.h"
#include "worker/model/packed_rows.h"
#include "worker/tuning/module_names.h"
#include "worker/tuning/target_modules.h"

namespace thaw {
namespace {

using torch::Tensor;

// A stream of the seed that nothing of the base has.
constexpr uint64_t kVirtualTokenStreams = uint64_t{1} << 20;

absl::Status TakePositions(const std::string& field, int32_t count, Model* model) {
  if (count < 1) return InvalidField(field, "must be set");
  if (count >= model->max_positions()) {
    return InvalidField(field, absl::StrCat(count, "; the model has ", model->max_positions(),
                                            " positions, so give fewer"));
  }
  model->TakeVirtualTokens(count);
  return absl::OkStatus();
}

// [vocabulary, hidden]: what the embeddings look tokens up in.
Tensor WordTable(const Model& model) {
  const Family* family = FindFamily(model.config().model_type);
  for (const Parameter& parameter : model.parameters().all()) {
    if (parameter.first_use > 0 || parameter.kind != ParameterKind::kEmbedding) continue;
    for (const char* table : family->token_tables) {
      if (NamesModule(parameter.name, table)) return parameter.tensor;
    }
  }
  TORCH_CHECK(false, model.config().model_type, " has no table of words");
}

Tensor IdsToBeginWith(std::span<const int32_t> text, int64_t rows, int64_t vocabulary,
                      uint64_t seed) {
  if (text.empty()) {
    const Tensor drawn = UniformTensor({rows}, 0.5, seed, kVirtualTokenStreams) + 0.5;
    return (drawn * static_cast<double>(vocabulary)).to(torch::kInt64).clamp(0, vocabulary - 1);
  }
  std::vector<int64_t> ids;
  for (int64_t r = 0; r < rows; ++r) ids.push_back(text[static_cast<size_t>(r) % text.size()]);
  return torch::tensor(ids, torch::kInt64);
}

}  // namespace

int PrefixOfLayer(int layer, int layers, bool encoder_decoder) {
  return encoder_decoder ? 2 * layer % layers : layer;
}

absl::Status AddPrompt(const v1::PromptTuning& prompt, uint64_t seed, std::span<const int32_t> text,
                       Model* model) {
  if (model->config().model_type == "awd_lstm") {
    return InvalidField("added_part.prompt_tuning", "awd_lstm takes no prompts; train it whole");
  }
  THAW_RETURN_IF_ERROR(
      TakePositions("added_part.prompt_tuning.virtual_tokens", prompt.virtual_tokens(), model));
  const int64_t rows = int64_t{prompt.virtual_tokens()} * (model->config().encoder_decoder ? 2 : 1);
  Tensor first;
  if (prompt.random()) {
    first = NormalTensor({rows, model->hidden_size()}, 1, seed, kVirtualTokenStreams);
  } else {
    const Tensor words = WordTable(*model);
    const Tensor ids = IdsToBeginWith(text, rows, words.size(0), seed);
    CheckIds(ids, words.size(0), "token id of added_part.prompt_tuning.initial_text");
    first = GatherRows(words, ids.to(words.device())).to(torch::kFloat32).clone();
  }
  model->added().prompt = model->AddPart(kPromptName, 0, first);
  return MarkBeside("added_part.prompt_tuning.modules_to_save", prompt.modules_to_save(), model);
}

absl::Status AddPrefix(const v1::PrefixTuning& prefix, uint64_t seed, Model* model) {
  const Model::KeyShape shape = model->PrefixShape();
  if (shape.heads == 0) {
    return InvalidField("added_part.prefix_tuning",
                        absl::StrCat(model->config().model_type,
                                     " takes no keys before its own; give prompt_tuning or lora"));
  }
  THAW_RETURN_IF_ERROR(
      TakePositions("added_part.prefix_tuning.virtual_tokens", prefix.virtual_tokens(), model));
  std::vector<AddedToBlock>& blocks = model->added().blocks;
  blocks.resize(static_cast<size_t>(model->blocks()));
  const int first = model->first_decoder_block(), layers = model->blocks() - first;
  const auto of_layer = [&](int layer) {
    return PrefixOfLayer(layer, layers, model->config().encoder_decoder);
  };
  for (int number = 0; number < layers; ++number) {
    // Of the lowest block that reads it.
    int lowest = 0;
    while (lowest + 1 < layers && of_layer(lowest) != number) ++lowest;
    const Parameter* parameter =
        model->AddPart(absl::StrCat(kPrefixName, number), first + lowest + 1,
                       NormalTensor({prefix.virtual_tokens(), 2 * shape.heads * shape.head_dim}, 1,
                                    seed, kVirtualTokenStreams + static_cast<uint64_t>(number)));
    for (int layer = 0; layer < layers; ++layer) {
      if (of_layer(layer) == number) blocks[static_cast<size_t>(first + layer)].prefix = parameter;
    }
  }
  return MarkBeside("added_part.prefix_tuning.modules_to_save", prefix.modules_to_save(), model);
}

}  // namespace thaw
