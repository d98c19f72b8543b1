#include "worker/text/chat_template.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "worker/text/rust_calls.h"
#include "worker/text/thaw_text.h"

namespace thaw {
namespace {

using nlohmann::json;

struct RenderedDeleter {
  void operator()(thaw_rendered_owner* owner) const { thaw_rendered_free(owner); }
};

absl::Status NoTemplate(const std::string& directory) {
  return absl::NotFoundError(absl::StrCat(
      directory, " has no chat template: add chat_template.jinja, or train on prompt/completion"));
}

// "chat_template" of tokenizer_config.json.
absl::StatusOr<std::string> ConfiguredTemplate(const std::string& directory) {
  const std::string path = directory + "/tokenizer_config.json";
  if (!Exists(path)) return NoTemplate(directory);
  THAW_ASSIGN_OR_RETURN(const json config, ReadJsonFile(path));
  if (!config.is_object() || !config.contains("chat_template") ||
      config["chat_template"].is_null()) {
    return NoTemplate(directory);
  }
  const json& value = config["chat_template"];
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    for (const json& entry : value) {
      if (entry.is_object() && entry.value("name", json()) == "default" &&
          entry.value("template", json()).is_string()) {
        return entry["template"].get<std::string>();
      }
    }
  }
  return absl::FailedPreconditionError(absl::StrCat(
      path, ": chat_template must be a string, or a list with a template named \"default\""));
}

}  // namespace

absl::StatusOr<std::string> MessagesJson(std::span<const ChatMessage> messages) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages) {
    list.push_back({{"role", message.role}, {"content", message.content}});
  }
  try {
    return list.dump();
  } catch (const nlohmann::ordered_json::type_error&) {
    return absl::InvalidArgumentError("messages: role or content is not UTF-8");
  }
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(
    const std::string& directory, const Tokenizer& tokenizer, const SpecialTokens& special_tokens,
    int64_t unix_seconds) {
  const std::string file = directory + "/chat_template.jinja";
  const bool has_file = Exists(file);
  THAW_ASSIGN_OR_RETURN(const std::string source,
                        has_file ? ReadFile(file) : ConfiguredTemplate(directory));
  return FromSource(source, has_file ? "chat_template.jinja" : "chat_template", tokenizer,
                    special_tokens, unix_seconds);
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::FromSource(
    std::string_view source, std::string_view origin, const Tokenizer& tokenizer,
    const SpecialTokens& special_tokens, int64_t unix_seconds) {
  json variables = special_tokens.texts;
  if (!special_tokens.additional.empty()) {
    variables["additional_special_tokens"] = special_tokens.additional;
  }
  json closing = special_tokens.additional;
  for (const auto& [name, text] : special_tokens.texts) closing.push_back(text);
  for (const AddedToken& token : tokenizer.added_tokens()) {
    if (token.special) closing.push_back(token.text);
  }
  const std::string settings = json{
      {"origin", std::string(origin)},
      {"unix_seconds", unix_seconds},
      {"variables", std::move(variables)},
      {"special_tokens",
       std::move(closing)}}.dump();
  InitRust();
  thaw_template* handle = nullptr;
  char* error = nullptr;
  THAW_RETURN_IF_ERROR(
      StatusFromRust(thaw_template_compile(Bytes(source), source.size(), Bytes(settings),
                                           settings.size(), &handle, &error),
                     &error));
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(handle));
}

ChatTemplate::~ChatTemplate() { thaw_template_free(static_cast<thaw_template*>(handle_)); }

absl::StatusOr<RenderedChat> ChatTemplate::Call(std::string_view messages,
                                                const ChatOptions& options, bool find_spans) const {
  const thaw_render_request request = {
      .messages = Bytes(messages),
      .messages_len = messages.size(),
      .tools = options.tools.empty() ? nullptr : Bytes(options.tools),
      .tools_len = options.tools.size(),
      .variables = options.variables.empty() ? nullptr : Bytes(options.variables),
      .variables_len = options.variables.size(),
      .add_generation_prompt = options.add_generation_prompt,
      .find_spans = find_spans};
  thaw_rendered_view view;
  char* error = nullptr;
  THAW_RETURN_IF_ERROR(StatusFromRust(
      thaw_template_render(static_cast<const thaw_template*>(handle_), &request, &view, &error),
      &error));
  const std::unique_ptr<thaw_rendered_owner, RenderedDeleter> owner(view.owner);
  RenderedChat chat;
  chat.text.assign(reinterpret_cast<const char*>(view.text), view.text_len);
  for (size_t i = 0; i < view.span_count; ++i) {
    chat.assistant.push_back(
        {static_cast<int32_t>(view.spans[2 * i]), static_cast<int32_t>(view.spans[2 * i + 1])});
  }
  return chat;
}

absl::StatusOr<std::string> ChatTemplate::Render(std::string_view messages,
                                                 const ChatOptions& options) const {
  THAW_ASSIGN_OR_RETURN(RenderedChat chat, Call(messages, options, /*find_spans=*/false));
  return std::move(chat.text);
}

absl::StatusOr<RenderedChat> ChatTemplate::RenderWithSpans(std::string_view messages,
                                                           const ChatOptions& options) const {
  return Call(messages, options, /*find_spans=*/true);
}

}  // namespace thaw
