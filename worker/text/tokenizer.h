// Text to token ids and back, exactly as Hugging Face `tokenizers` does it from a `tokenizer.json`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace thaw {

// What one sequence (or a pair of sequences, for models that compare two texts) is encoded from.
struct TextInput {
  std::string_view text;
  std::optional<std::string_view> pair = std::nullopt;
};

struct EncodeOptions {
  // Adds what the model expects around a sequence, such as [CLS] and [SEP].
  bool add_special_tokens = true;
  // Most tokens of one encoding, special tokens included; 0 means no limit. The end of the text is
  // cut, of a pair the longer text first, and special tokens are always kept. At least
  // SpecialTokens() + 1.
  int32_t max_length = 0;
  // Cuts the beginning of the text instead: what comes last is kept.
  bool truncate_left = false;
  // Whether special tokens that are written in the text become these tokens, as in transformers
  // and as a rendered chat needs it. Without, "<|im_end|>" in the text is encoded like any other
  // word (transformers: split_special_tokens). The first such call costs a copy of the tokenizer.
  bool parse_special_tokens = true;
  // Fills Encoding::bytes. Costs about 8 % of the speed.
  bool offsets = false;
};

// Where a token came from: [begin, end) of the text (of the second one for tokens of a pair).
struct TextSpan {
  int32_t begin = 0;
  int32_t end = 0;
  bool operator==(const TextSpan&) const = default;
};

// All vectors have one entry per token, except `bytes`, which is empty unless offsets were asked
// for.
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;  // 0 first text, 1 second text
  std::vector<uint8_t> special;   // 1 for tokens that were added, not read from the text
  std::vector<TextSpan> bytes;    // offsets in bytes of the UTF-8 text
  bool truncated = false;         // tokens were dropped to respect max_length
};

// What add_special_tokens puts around one text, such as [CLS] and [SEP] or BOS and EOS.
struct TextFrame {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
};

// A token that the file lists beside the model's vocabulary (it may be in both).
struct AddedToken {
  int32_t id = 0;
  std::string text;
  bool special = false;  // left out by Decode with skip_special_tokens
};

// A loaded tokenizer. Immutable; every method may be called from any number of threads at once. The
// file's own truncation and padding settings are ignored: EncodeOptions alone decide.
//
// Errors: INVALID_ARGUMENT for text that is not UTF-8 (names the byte) or a max_length without
// room; FAILED_PRECONDITION for a file that is no tokenizer, or has no token for something in the
// text; NOT_FOUND or another I/O status when it cannot be read; INTERNAL if the library panicked.
class Tokenizer {
 public:
  // Reads `path`, a tokenizer.json of at most 128 MiB.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path);
  // The same from the file's contents.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(std::string_view json);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  absl::StatusOr<Encoding> Encode(const TextInput& input, const EncodeOptions& options) const;

  // Encodes all inputs on up to `threads` threads; results are in the order of the inputs. The
  // first failing input (by index) decides the error, whose message names its index.
  absl::StatusOr<std::vector<Encoding>> EncodeBatch(std::span<const TextInput> inputs,
                                                    const EncodeOptions& options,
                                                    int threads) const;

  // Ids outside the vocabulary are skipped, as `tokenizers` does.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  // Number of tokens, added ones included.
  int32_t vocab_size() const { return vocab_size_; }
  // One more than the greatest token id: what an embedding table must have rows for.
  int32_t id_limit() const { return id_limit_; }
  // How many tokens add_special_tokens adds to one text or to a pair.
  int32_t SpecialTokens(bool pair) const { return pair ? pair_special_ : single_special_; }

  const TextFrame& frame() const { return frame_; }
  // In the order of their ids.
  const std::vector<AddedToken>& added_tokens() const { return added_tokens_; }

  std::optional<int32_t> TokenToId(std::string_view token) const;
  std::optional<std::string> IdToToken(int32_t id) const;
  // IdToToken of 0 … id_limit() - 1: the whole vocabulary, for mapping one onto another. The
  // tokens are as the model spells them ("Ġhello", "▁hello", "##ing", "<0x0A>").
  std::vector<std::optional<std::string>> Vocabulary() const;

 private:
  explicit Tokenizer(void* handle);
  absl::Status ReadAdded();  // fills frame_ and added_tokens_

  void* const handle_;  // owned; the Rust side's tokenizer
  int32_t vocab_size_ = 0;
  int32_t id_limit_ = 0;
  int32_t single_special_ = 0;
  int32_t pair_special_ = 0;
  TextFrame frame_;
  std::vector<AddedToken> added_tokens_;
};

// `bytes` of `text` counted in Unicode code points, as Python counts. `text` must be UTF-8.
std::vector<TextSpan> ToCodePoints(std::string_view text, std::span<const TextSpan> bytes);

// 1 for each token of `tokens` that shares at least one byte with one of `spans`, in the order of
// `tokens`. Tokens that were added, not read from the text, share none. `spans` are in order and do
// not overlap: where the assistant speaks, for a loss mask.
std::vector<uint8_t> TokensInside(std::span<const TextSpan> tokens,
                                  std::span<const TextSpan> spans);

}  // namespace thaw
