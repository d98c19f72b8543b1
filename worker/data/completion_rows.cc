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

bool BeginsWith(const std::vector<int32_t>& ids, const std::vector<int32_t>& front) {
  return ids.size() >= front.size() && std::equal(front.begin(), front.end(), ids.begin());
}

// The tokens of a text that stands behind another one: after a line break, so that those tokenizers
// that put a space before every text do not put one here, unless the break would change its tokens.
absl::StatusOr<std::vector<int32_t>> EncodeContinuation(std::string_view text,
                                                        const Tokenizer& tokenizer) {
  THAW_ASSIGN_OR_RETURN(const Encoding line, tokenizer.Encode({.text = "\n"}, kBare));
  const std::string both = std::string("\n").append(text);
  THAW_ASSIGN_OR_RETURN(Encoding behind, tokenizer.Encode({.text = both}, kBare));
  if (BeginsWith(behind.ids, line.ids)) {
    behind.ids.erase(behind.ids.begin(),
                     behind.ids.begin() + static_cast<std::ptrdiff_t>(line.ids.size()));
    return std::move(behind.ids);
  }
  THAW_ASSIGN_OR_RETURN(Encoding alone, tokenizer.Encode({.text = text}, kBare));
  return std::move(alone.ids);
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
    if (BeginsWith(whole, prompt)) {
      row.ids = std::move(whole);
    } else {
      THAW_ASSIGN_OR_RETURN(const std::vector<int32_t> rest,
                            EncodeContinuation(completions[i], tokenizer));
      row.ids = std::move(prompt);
      row.ids.insert(row.ids.end(), rest.begin(), rest.end());
    }
    PutBefore(tokenizer.frame().before, &row.ids);
    row.prompt_tokens = static_cast<int32_t>(tokenizer.frame().before.size() + prompt_size);
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace thaw
