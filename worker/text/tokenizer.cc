#include "worker/text/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"
#include "worker/text/rust_calls.h"
#include "worker/text/thaw_text.h"

namespace thaw {
namespace {

constexpr int64_t kMaxTokenizerBytes = int64_t{128} << 20;
// Offsets are 32-bit; no text of a dataset comes near.
constexpr size_t kMaxTextBytes = size_t{1} << 30;

const thaw_tokenizer* Handle(const void* handle) {
  return static_cast<const thaw_tokenizer*>(handle);
}

struct EncodingDeleter {
  void operator()(thaw_encoding_owner* owner) const { thaw_encoding_free(owner); }
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  THAW_ASSIGN_OR_RETURN(const std::string json, ReadFile(path, kMaxTokenizerBytes));
  auto tokenizer = FromJson(json);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view json) {
  InitRust();
  thaw_tokenizer* handle = nullptr;
  char* error = nullptr;
  THAW_RETURN_IF_ERROR(
      StatusFromRust(thaw_tokenizer_load(Bytes(json), json.size(), &handle, &error), &error));
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(handle));
  thaw_tokenizer_description description;
  THAW_RETURN_IF_ERROR(
      StatusFromRust(thaw_tokenizer_describe(handle, &description, &error), &error));
  if (description.id_limit > INT32_MAX || description.vocab_size > INT32_MAX) {
    return absl::FailedPreconditionError("not a usable tokenizer: token ids exceed 31 bits");
  }
  tokenizer->vocab_size_ = static_cast<int32_t>(description.vocab_size);
  tokenizer->id_limit_ = static_cast<int32_t>(description.id_limit);
  tokenizer->single_special_ = static_cast<int32_t>(description.single_special);
  tokenizer->pair_special_ = static_cast<int32_t>(description.pair_special);
  THAW_RETURN_IF_ERROR(tokenizer->ReadAdded());
  return tokenizer;
}

absl::Status Tokenizer::ReadAdded() {
  char* error = nullptr;
  thaw_encoding_view view;
  THAW_RETURN_IF_ERROR(
      StatusFromRust(thaw_tokenizer_frame(Handle(handle_), &view, &error), &error));
  const std::unique_ptr<thaw_encoding_owner, EncodingDeleter> owner(view.owner);
  bool seen_text = false;
  for (size_t i = 0; i < view.len; ++i) {
    if (view.special[i]) {
      (seen_text ? frame_.after : frame_.before).push_back(static_cast<int32_t>(view.ids[i]));
    } else {
      seen_text = true;
    }
  }
  uint8_t* bytes = nullptr;
  size_t len = 0;
  THAW_RETURN_IF_ERROR(
      StatusFromRust(thaw_tokenizer_added_tokens(Handle(handle_), &bytes, &len, &error), &error));
  for (const auto& token : nlohmann::json::parse(TakeBytes(bytes, len))) {
    added_tokens_.push_back({token[0], token[1], token[2]});
  }
  return absl::OkStatus();
}

Tokenizer::Tokenizer(void* handle) : handle_(handle) {}
Tokenizer::~Tokenizer() { thaw_tokenizer_free(static_cast<thaw_tokenizer*>(handle_)); }

absl::StatusOr<Encoding> Tokenizer::Encode(const TextInput& input,
                                           const EncodeOptions& options) const {
  const std::string_view pair = input.pair.value_or(std::string_view());
  if (options.max_length < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_length is ", options.max_length, ": must be 0 (no limit) or more"));
  }
  if (input.text.size() > kMaxTextBytes || pair.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError("text is over 1 GiB");
  }
  const thaw_encode_options c_options = {.add_special_tokens = options.add_special_tokens,
                                         .max_length = static_cast<uint32_t>(options.max_length),
                                         .offsets = options.offsets,
                                         .truncate_left = options.truncate_left,
                                         .parse_special_tokens = options.parse_special_tokens};
  thaw_encoding_view view;
  char* error = nullptr;
  THAW_RETURN_IF_ERROR(
      StatusFromRust(thaw_tokenizer_encode(Handle(handle_), Bytes(input.text), input.text.size(),
                                           input.pair ? Bytes(pair) : nullptr, pair.size(),
                                           &c_options, &view, &error),
                     &error));
  const std::unique_ptr<thaw_encoding_owner, EncodingDeleter> owner(view.owner);
  Encoding encoding;
  encoding.ids.assign(view.ids, view.ids + view.len);
  encoding.type_ids.assign(view.type_ids, view.type_ids + view.len);
  encoding.special.assign(view.special, view.special + view.len);
  if (options.offsets) {
    encoding.bytes.resize(view.len);
    for (size_t i = 0; i < view.len; ++i) {
      encoding.bytes[i] = {static_cast<int32_t>(view.offsets[2 * i]),
                           static_cast<int32_t>(view.offsets[2 * i + 1])};
    }
  }
  encoding.truncated = view.truncated != 0;
  return encoding;
}

absl::StatusOr<std::vector<Encoding>> Tokenizer::EncodeBatch(std::span<const TextInput> inputs,
                                                             const EncodeOptions& options,
                                                             int threads) const {
  constexpr size_t kChunk = 32;  // inputs taken at a time: evens out long and short texts
  std::vector<Encoding> encodings(inputs.size());
  std::vector<absl::Status> statuses(inputs.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t begin; (begin = next.fetch_add(kChunk)) < inputs.size();) {
      for (size_t i = begin; i < std::min(begin + kChunk, inputs.size()); ++i) {
        auto encoding = Encode(inputs[i], options);
        statuses[i] = encoding.status();
        if (encoding.ok()) encodings[i] = *std::move(encoding);
      }
    }
  };
  const size_t chunks = (inputs.size() + kChunk - 1) / kChunk;
  std::vector<std::thread> others;
  for (size_t i = 1; i < std::min<size_t>(std::max(threads, 1), chunks); ++i) {
    others.emplace_back(work);
  }
  work();
  for (std::thread& thread : others) thread.join();
  for (size_t i = 0; i < statuses.size(); ++i) {
    if (!statuses[i].ok()) return Annotate(statuses[i], absl::StrCat("input ", i));
  }
  return encodings;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids,
                                              bool skip_special_tokens) const {
  const std::vector<uint32_t> unsigned_ids(ids.begin(), ids.end());
  uint8_t* bytes = nullptr;
  size_t len = 0;
  char* error = nullptr;
  THAW_RETURN_IF_ERROR(
      StatusFromRust(thaw_tokenizer_decode(Handle(handle_), unsigned_ids.data(), ids.size(),
                                           skip_special_tokens, &bytes, &len, &error),
                     &error));
  return TakeBytes(bytes, len);
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  int64_t id = -1;
  char* error = nullptr;
  const absl::Status status = StatusFromRust(
      thaw_tokenizer_token_to_id(Handle(handle_), Bytes(token), token.size(), &id, &error), &error);
  if (!status.ok() || id < 0) return std::nullopt;
  return static_cast<int32_t>(id);
}

std::optional<std::string> Tokenizer::IdToToken(int32_t id) const {
  uint8_t* bytes = nullptr;
  size_t len = 0;
  char* error = nullptr;
  const absl::Status status = StatusFromRust(
      thaw_tokenizer_id_to_token(Handle(handle_), static_cast<uint32_t>(id), &bytes, &len, &error),
      &error);
  if (!status.ok() || bytes == nullptr) return std::nullopt;
  return TakeBytes(bytes, len);
}

std::vector<std::optional<std::string>> Tokenizer::Vocabulary() const {
  std::vector<std::optional<std::string>> tokens(static_cast<size_t>(id_limit_));
  for (int32_t id = 0; id < id_limit_; ++id) tokens[id] = IdToToken(id);
  return tokens;
}

std::vector<TextSpan> ToCodePoints(std::string_view text, std::span<const TextSpan> bytes) {
  // starts[b]: how many code points begin before byte b.
  std::vector<int32_t> starts(text.size() + 1);
  for (size_t b = 0; b < text.size(); ++b) {
    starts[b + 1] = starts[b] + ((static_cast<uint8_t>(text[b]) & 0xC0) != 0x80);
  }
  std::vector<TextSpan> points;
  points.reserve(bytes.size());
  for (const TextSpan& span : bytes) {
    // A begin inside a character belongs to that character.
    const bool inside = static_cast<size_t>(span.begin) < text.size() &&
                        (static_cast<uint8_t>(text[span.begin]) & 0xC0) == 0x80;
    points.push_back({starts[span.begin] - inside, starts[span.end]});
  }
  return points;
}

std::vector<uint8_t> TokensInside(std::span<const TextSpan> tokens,
                                  std::span<const TextSpan> spans) {
  std::vector<uint8_t> inside(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const TextSpan& token = tokens[i];
    // Tokens are nearly, not always, in order: those of one character share its bytes.
    const auto span = std::upper_bound(
        spans.begin(), spans.end(), token.begin,
        [](int32_t position, const TextSpan& other) { return position < other.end; });
    inside[i] = token.begin < token.end && span != spans.end() && span->begin < token.end;
  }
  return inside;
}

}  // namespace thaw
