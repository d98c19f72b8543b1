#include "worker/data/completion_rows.h"

#include <algorithm>
#include <string>

#include "common/base/status.h"

namespace thaw {
namespace {

constexpr EncodeOptions kBare = {.add_special_tokens = false};

void PutBefore(const std::vector<int32_t>& front, std::vector<int32_t>* ids) {
  ids->insert(ids->begin(), front.begin(), front.end());
}

}  // namespace

absl::StatusOr<std::vector<std::vector<int32_t>>> EncodePrompts(
    std::span<const std::string_view> prompts, const Tokenizer& tokenizer, int threads) {
  std::vector<TextInput> inputs;
  inputs.reserve(prompts.size());
  for (const std::string_view prompt : prompts) inputs.push_back({.text = prompt});
  THAW_ASSIGN_OR_RETURN(std::vector<Encoding> encodings,
                        tokenizer.EncodeBatch(inputs, kBare, threads));
  std::vector<std::vector<int32_t>> rows;
  rows.reserve(encodings.size());
  for (Encoding& encoding : encodings) {
    rows.push_back(std::move(encoding.ids));
    PutBefore(tokenizer.frame().before, &rows.back());
  }
  return rows;
}

absl::StatusOr<std::vector<PromptAndCompletion>> EncodeCompletions(
    std::span<const std::string_view> prompts, std::span<const std::string_view> completions,
    const Tokenizer& tokenizer, int threads) {
  std::vector<std::string> wholes;
  wholes.reserve(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    wholes.emplace_back(prompts[i]).append(completions[i]);
  }
  std::vector<TextInput> inputs;
  inputs.reserve(2 * prompts.size());
  for (const std::string_view prompt : prompts) inputs.push_back({.text = prompt});
  for (const std::string& whole : wholes) inputs.push_back({.text = whole});
  THAW_ASSIGN_OR_RETURN(std::vector<Encoding> encodings,
                        tokenizer.EncodeBatch(inputs, kBare, threads));
  std::vector<PromptAndCompletion> rows;
  rows.reserve(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::vector<int32_t>& prompt = encodings[i].ids;
    std::vector<int32_t>& whole = encodings[prompts.size() + i].ids;
    const size_t prompt_size = prompt.size();
    PromptAndCompletion row;
    if (whole.size() >= prompt_size && std::equal(prompt.begin(), prompt.end(), whole.begin())) {
      row.ids = std::move(whole);
    } else {
      THAW_ASSIGN_OR_RETURN(const Encoding alone,
                            tokenizer.Encode({.text = completions[i]}, kBare));
      row.ids = std::move(prompt);
      row.ids.insert(row.ids.end(), alone.ids.begin(), alone.ids.end());
    }
    PutBefore(tokenizer.frame().before, &row.ids);
    row.prompt_tokens = static_cast<int32_t>(tokenizer.frame().before.size() + prompt_size);
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace thaw
