#include "worker/training/generated_answers.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/edit_distance.h"

namespace thaw {
namespace {

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
// What a minus behind it subtracts from.
bool EndsOperand(char c) {
  return IsDigit(c) || c == ')' || c == ']' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (static_cast<unsigned char>(c) & 0x80) != 0;
}

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

// The last number of `text`, or all of it.
std::string LastNumber(std::string_view text) {
  text = Trimmed(text);
  size_t end = text.size();
  while (end > 0 && !IsDigit(text[end - 1])) --end;
  if (end == 0) return std::string(text);
  size_t begin = end - 1;
  while (begin > 0) {
    const char before = text[begin - 1];
    const bool between = (before == '.' || before == ',') && begin > 1 &&
                         IsDigit(text[begin - 2]) && IsDigit(text[begin]);
    if (!IsDigit(before) && !between) break;
    --begin;
  }
  const bool minus =
      begin > 0 && text[begin - 1] == '-' && (begin == 1 || !EndsOperand(text[begin - 2]));
  std::string number(text.substr(begin - minus, end - begin + minus));
  number.erase(std::remove(number.begin(), number.end(), ','), number.end());
  return number;
}

// The characters of UTF-8, each with all its bytes in one number.
std::vector<uint32_t> Characters(std::string_view text) {
  std::vector<uint32_t> characters;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0) != 0x80 || characters.empty()) {
      characters.push_back(byte);
    } else {
      characters.back() = characters.back() << 8 | byte;
    }
  }
  return characters;
}

}  // namespace

bool ExactMatch(std::string_view expected, std::string_view generated) {
  return Trimmed(expected) == Trimmed(generated);
}

double DigitMatch(std::string_view expected, std::string_view generated) {
  const std::vector<uint32_t> a = Characters(LastNumber(expected));
  const std::vector<uint32_t> b = Characters(LastNumber(generated));
  const size_t longer = std::max(a.size(), b.size());
  if (longer == 0) return 1;
  return 1 - static_cast<double>(EditDistance(a, b)) / static_cast<double>(longer);
}

absl::StatusOr<std::optional<AnswerFigures>> EvaluateAnswers(Model* model,
                                                             const Tokenizer& tokenizer,
                                                             const TokenizedDataset& dataset,
                                                             const AnswerOptions& options) {
  std::vector<std::vector<int32_t>> prompts;
  for (int64_t row = 0; row < static_cast<int64_t>(dataset.expected.size()); ++row) {
    std::span<const int32_t> ids = dataset.row(row);
    // Of a completion's row: what comes before the answer.
    if (!dataset.answers.empty()) {
      ids = ids.first(static_cast<size_t>(dataset.answers[row].front().begin));
    }
    prompts.emplace_back(ids.begin(), ids.end());
  }
  std::vector<std::string> texts(prompts.size());
  GenerationListener listener;
  listener.on_done = [&](int64_t row, const GeneratedRow& result) {
    texts[static_cast<size_t>(row)] = result.text;
  };
  listener.go_on = options.go_on;
  const absl::Status status = Generate(model, tokenizer, prompts, options.generation, listener);
  if (absl::IsCancelled(status)) return std::optional<AnswerFigures>();
  if (!status.ok()) return status;
  // In row order, so that the cutting into batches changes nothing.
  AnswerFigures figures;
  for (size_t row = 0; row < texts.size(); ++row) {
    figures.exact_match += ExactMatch(dataset.expected[row], texts[row]);
    figures.digit_match += DigitMatch(dataset.expected[row], texts[row]);
  }
  figures.exact_match /= static_cast<double>(texts.size());
  figures.digit_match /= static_cast<double>(texts.size());
  return std::optional<AnswerFigures>(figures);
}

}  // namespace thaw
