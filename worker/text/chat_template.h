// Conversations to text, as Hugging Face transformers' apply_chat_template does it. What templates
// may use, and the limits, are in docs/chat_templates.md.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/text/special_tokens.h"
#include "worker/text/tokenizer.h"

namespace thaw {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", …: the template decides
  std::string content;
};

// [{"role": …, "content": …}, …]; INVALID_ARGUMENT for what is not UTF-8.
absl::StatusOr<std::string> MessagesJson(std::span<const ChatMessage> messages);

struct ChatOptions {
  // Ends the text where the assistant's next turn begins.
  bool add_generation_prompt = false;
  // JSON array of function schemas for the variable `tools`; empty: none.
  std::string_view tools = {};
  // JSON object of further variables, such as {"enable_thinking": false}; empty: none.
  std::string_view variables = {};
};

struct RenderedChat {
  std::string text;
  // What the assistant says in `text`, in bytes and in order: from where generation would begin to
  // the end of the token that closes the turn.
  std::vector<TextSpan> assistant;
};

// A compiled template. Immutable; every method may be called from any number of threads at once.
//
// Messages are a JSON array of objects; all their fields reach the template. Errors:
// INVALID_ARGUMENT if they are no such JSON, or the template refuses them (raise_exception);
// FAILED_PRECONDITION if the template is broken or fails, with its origin and line;
// RESOURCE_EXHAUSTED if it exceeds a limit; where that was its 256 MiB, they stay taken until the
// process ends, which should be soon; UNAVAILABLE where the machine's limits leave no thread of
// 2 GiB of address space to render on.
class ChatTemplate {
 public:
  // The template of a model directory: chat_template.jinja, else "chat_template" of
  // tokenizer_config.json (of a list the one named "default"). NOT_FOUND if it has none.
  // `unix_seconds` is what strftime_now tells, in UTC: take the job's creation, so that an attempt
  // that resumes renders the same text. `special_tokens` are those of the directory.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& directory,
                                                            const Tokenizer& tokenizer,
                                                            const SpecialTokens& special_tokens,
                                                            int64_t unix_seconds);
  // The same from the source; `origin` is its name in messages.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> FromSource(
      std::string_view source, std::string_view origin, const Tokenizer& tokenizer,
      const SpecialTokens& special_tokens, int64_t unix_seconds);

  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  absl::StatusOr<std::string> Render(std::string_view messages, const ChatOptions& options) const;

  // The same text, and where the assistant speaks: what the template wraps in {% generation %}, or,
  // if it has no such tag, what each message of role "assistant" adds to the text of those before
  // it, rendered with add_generation_prompt. FAILED_PRECONDITION if that text does not stay the
  // same as the conversation goes on.
  absl::StatusOr<RenderedChat> RenderWithSpans(std::string_view messages,
                                               const ChatOptions& options) const;

 private:
  explicit ChatTemplate(void* handle) : handle_(handle) {}
  absl::StatusOr<RenderedChat> Call(std::string_view messages, const ChatOptions& options,
                                    bool find_spans) const;

  void* const handle_;  // owned; the Rust side's template
};

}  // namespace thaw
