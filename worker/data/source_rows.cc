#include "worker/data/source_rows.h"

#include "common/base/status.h"

namespace thaw {

bool EndsTexts(const Tokenizer& tokenizer, std::optional<int32_t> end) {
  return end && !tokenizer.frame().after.empty() && tokenizer.frame().after.back() == *end;
}

absl::StatusOr<std::vector<Encoding>> EncodeSources(std::span<const TextInput> sources,
                                                    const Tokenizer& tokenizer,
                                                    std::optional<int32_t> end, int32_t max_length,
                                                    int threads) {
  const bool append = end && !EndsTexts(tokenizer, end);
  THAW_ASSIGN_OR_RETURN(
      std::vector<Encoding> encodings,
      tokenizer.EncodeBatch(sources, {.max_length = max_length - append}, threads));
  if (append) {
    for (Encoding& encoding : encodings) encoding.ids.push_back(*end);
  }
  return encodings;
}

}  // namespace thaw
