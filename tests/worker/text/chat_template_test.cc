// Against texts recorded from transformers (tests/data/chat_templates/record.py).
#include "worker/text/chat_template.h"

#include <sys/resource.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using json = nlohmann::ordered_json;

constexpr int64_t kRecordedNow = 1'772'694'489;  // 2026-03-05 07:08:09 UTC

std::string ChatData(const std::string& name) {
  return std::string(std::getenv("THAW_TEST_DATA")) + "/" + name;
}

std::string ChatFile(const std::string& name) {
  std::ifstream in(ChatData(name), std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<json> ChatCases(const std::string& name) {
  std::ifstream in(ChatData(name));
  std::vector<json> cases;
  for (std::string line; std::getline(in, line);) cases.push_back(json::parse(line));
  return cases;
}

const Tokenizer& SmolLm() {
  static const Tokenizer* const tokenizer = [] {
    auto loaded = Tokenizer::Load(ChatData("tokenizers/smollm2.tokenizer.json"));
    if (!loaded.ok()) std::abort();
    return loaded->release();
  }();
  return *tokenizer;
}

SpecialTokens SentencePieceNames() {
  return {.texts = {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}}};
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> Compile(std::string_view source) {
  return ChatTemplate::FromSource(source, "test.jinja", SmolLm(), SentencePieceNames(),
                                  kRecordedNow);
}

// The message of what rendering `messages` by `source` fails with, after its code.
std::string FailureOf(std::string_view source, std::string_view messages = "[]",
                      const ChatOptions& options = {}) {
  auto compiled = Compile(source);
  if (!compiled.ok()) return compiled.status().ToString();
  auto text = (*compiled)->Render(messages, options);
  return text.ok() ? "rendered " + *text : text.status().ToString();
}

std::vector<std::string> Said(const RenderedChat& chat) {
  std::vector<std::string> said;
  for (const TextSpan& span : chat.assistant) {
    said.push_back(chat.text.substr(span.begin, span.end - span.begin));
  }
  return said;
}

TEST(ChatTemplateTest, EqualsTransformers) {
  std::map<std::string, int> seen;
  for (const json& recorded : ChatCases("chat_templates/cases.jsonl")) {
    const std::string name = recorded["template"];
    SCOPED_TRACE(recorded.dump());
    ++seen[name];
    auto compiled = Compile(ChatFile("chat_templates/" + name + ".jinja"));
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    const std::string messages = recorded["messages"].dump();
    const std::string tools = recorded["tools"].is_null() ? "" : recorded["tools"].dump();
    const std::string variables = recorded["variables"].dump();
    const ChatOptions options = {recorded["add_generation_prompt"], tools, variables};
    auto text = (*compiled)->Render(messages, options);
    if (recorded.contains("error")) {
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(text.status().message()),
                  HasSubstr("refuses the messages: " + recorded["error"].get<std::string>()));
      continue;
    }
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, recorded["text"].get<std::string>());
    if (!recorded.contains("spans")) continue;
    auto chat = (*compiled)->RenderWithSpans(messages, options);
    ASSERT_TRUE(chat.ok()) << chat.status();
    EXPECT_EQ(chat->text, *text);
    std::vector<std::vector<int32_t>> spans;
    for (const TextSpan& span : chat->assistant) spans.push_back({span.begin, span.end});
    EXPECT_EQ(spans, recorded["spans"].get<std::vector<std::vector<int32_t>>>());
  }
  EXPECT_EQ(seen.size(), 7u);
}

TEST(ChatTemplateTest, EqualsSmolLm2AndItsTokens) {
  auto compiled = Compile(ChatFile("chat_templates/smollm2.jinja"));
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  const auto cases = ChatCases("tokenizers/smollm2.chat.jsonl");
  ASSERT_EQ(cases.size(), 20u);
  for (const json& recorded : cases) {
    SCOPED_TRACE(recorded.dump());
    auto text = (*compiled)->Render(
        recorded["messages"].dump(),
        {.add_generation_prompt = recorded["add_generation_prompt"].get<bool>()});
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, recorded["text"].get<std::string>());
    auto encoding = SmolLm().Encode({*text}, {.add_special_tokens = false});
    ASSERT_TRUE(encoding.ok());
    EXPECT_EQ(encoding->ids, recorded["ids"].get<std::vector<int32_t>>());
  }
}

TEST(ChatTemplateTest, FindsTheTurnsOfTemplatesWithoutGenerationTags) {
  const std::vector<ChatMessage> chat = {{"user", "Hi"},
                                         {"assistant", "Hello \xC3\xA9"},
                                         {"user", "<|im_end|> assistant"},
                                         {"assistant", " Bye.\n"}};
  auto messages = MessagesJson(chat);
  ASSERT_TRUE(messages.ok());
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"smollm2", {"Hello \xC3\xA9<|im_end|>", " Bye.\n<|im_end|>"}},
      {"qwen", {"Hello \xC3\xA9<|im_end|>", " Bye.\n<|im_end|>"}},
      {"mistral", {" Hello \xC3\xA9</s>", "  Bye.\n</s>"}},
      {"zephyr", {"Hello \xC3\xA9</s>", " Bye.\n</s>"}},
      // SmolLM2's tokenizer knows no such tokens, so the line break after them stays.
      {"gemma", {"Hello \xC3\xA9<end_of_turn>\n", "Bye.<end_of_turn>\n"}},
      {"llama3", {"Hello \xC3\xA9<|eot_id|>", "Bye.<|eot_id|>"}},
  };
  for (const auto& [name, said] : cases) {
    auto compiled = Compile(ChatFile("chat_templates/" + name + ".jinja"));
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    for (const bool prompt : {false, true}) {
      auto rendered = (*compiled)->RenderWithSpans(*messages, {.add_generation_prompt = prompt});
      ASSERT_TRUE(rendered.ok()) << name << ": " << rendered.status();
      EXPECT_EQ(Said(*rendered), said) << name;
      EXPECT_EQ(rendered->text, *(*compiled)->Render(*messages, {.add_generation_prompt = prompt}));
    }
  }
}

// The whole way of a training example: one text, one tokenisation, a mask from offsets.
TEST(ChatTemplateTest, MasksTheTokensOfTheAssistant) {
  for (const std::string name : {"smollm2", "generation"}) {
    auto compiled = Compile(ChatFile("chat_templates/" + name + ".jinja"));
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    const std::vector<ChatMessage> messages = {{"user", "Hi"},
                                               {"assistant", "Hello \xF0\x9F\x98\x80"},
                                               {"user", "Bye"},
                                               {"assistant", ""}};
    auto chat = (*compiled)->RenderWithSpans(*MessagesJson(messages), {});
    ASSERT_TRUE(chat.ok()) << chat.status();
    auto encoding = SmolLm().Encode({chat->text}, {.add_special_tokens = false, .offsets = true});
    ASSERT_TRUE(encoding.ok());
    const auto inside = TokensInside(encoding->bytes, chat->assistant);
    std::vector<int32_t> supervised;
    for (size_t i = 0; i < inside.size(); ++i) {
      if (inside[i]) supervised.push_back(encoding->ids[i]);
    }
    EXPECT_EQ(*SmolLm().Decode(supervised, false), "Hello \xF0\x9F\x98\x80<|im_end|><|im_end|>");
  }
}

TEST(ChatTemplateTest, TokensThatTouchASpanAreInside) {
  const std::vector<TextSpan> spans = {{2, 5}, {5, 6}, {10, 12}};
  const std::vector<TextSpan> tokens = {{0, 0}, {0, 2},  {1, 3},   {4, 5},   {5, 9},
                                        {6, 9}, {8, 10}, {11, 14}, {12, 14}, {0, 0}};
  EXPECT_THAT(TokensInside(tokens, spans), ElementsAre(0, 0, 1, 1, 1, 0, 0, 1, 0, 0));
  EXPECT_THAT(TokensInside(tokens, {}), testing::Each(0));
}

TEST(ChatTemplateTest, ReadsLineEndsAsJinja2Does) {
  EXPECT_EQ(FailureOf("a\r\n{% if true %}\r\nb\rc{{ '\r\n' }}{% endif %}\r\n"),
            "rendered a\nb\nc\n");
}

TEST(ChatTemplateTest, SaysWhenATurnCannotBeFound) {
  // The thought of an earlier turn is left out once a question follows.
  auto compiled = Compile(ChatFile("chat_templates/qwen.jinja"));
  ASSERT_TRUE(compiled.ok());
  auto chat = (*compiled)->RenderWithSpans(
      *MessagesJson(std::vector<ChatMessage>{
          {"user", "a"}, {"assistant", "<think>\nb\n</think>\n\nc"}, {"user", "d"}}),
      {});
  EXPECT_EQ(chat.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(chat.status().message()), HasSubstr("test.jinja: cannot tell where"));
  EXPECT_THAT(std::string(chat.status().message()), HasSubstr("messages[1]"));
  EXPECT_THAT(std::string(chat.status().message()), HasSubstr("{% generation %}"));
  // What the beginning renders to is refused.
  compiled = Compile(
      "{% if messages|length < 2 %}{{ raise_exception('too short') }}{% endif %}"
      "{% for m in messages %}{{ m.content }}{% endfor %}");
  ASSERT_TRUE(compiled.ok());
  chat = (*compiled)->RenderWithSpans(
      *MessagesJson(std::vector<ChatMessage>{{"user", "a"}, {"assistant", "b"}}), {});
  EXPECT_EQ(chat.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(chat.status().message()), HasSubstr("refuses the messages: too short"));
}

TEST(ChatTemplateTest, NamesLineAndReason) {
  EXPECT_THAT(FailureOf("a\nb\n{% if %}"),
              HasSubstr("FAILED_PRECONDITION: test.jinja line 3: syntax error"));
  EXPECT_THAT(FailureOf("\n{{ messages[0].role.name }}"), HasSubstr("test.jinja line 2: "));
  EXPECT_THAT(FailureOf("{{ x.y }}"),
              HasSubstr("FAILED_PRECONDITION: test.jinja line 1: undefined"));
  EXPECT_THAT(
      FailureOf("{% macro m() %}\n\n{{ raise_exception('no' ~ 1) }}{% endmacro %}{{ m() }}"),
      HasSubstr("INVALID_ARGUMENT: test.jinja line 3 refuses the messages: no1"));
  EXPECT_THAT(FailureOf("{{ nothing | tojson }}"), HasSubstr("tojson: undefined is not JSON"));
  EXPECT_THAT(FailureOf("{% generation %}"), HasSubstr("FAILED_PRECONDITION"));
  EXPECT_THAT(FailureOf("{% include 'other' %}"), HasSubstr("FAILED_PRECONDITION"));
  EXPECT_THAT(FailureOf("\xff"), HasSubstr("not UTF-8"));
}

TEST(ChatTemplateTest, RefusesWhatIsNotAConversation) {
  EXPECT_THAT(FailureOf("x", ""), HasSubstr("INVALID_ARGUMENT: messages: no JSON"));
  EXPECT_THAT(FailureOf("x", "{}"), HasSubstr("INVALID_ARGUMENT: messages is no JSON array"));
  EXPECT_THAT(FailureOf("x", "[{}, 1]"), HasSubstr("messages[1] is no JSON object"));
  EXPECT_THAT(FailureOf("x", "[\"\xff\"]"), HasSubstr("messages is not UTF-8 at byte 2"));
  EXPECT_THAT(FailureOf("x", std::string(200, '[')), HasSubstr("recursion limit"));
  EXPECT_THAT(FailureOf("x", "[]", {.tools = "{}"}), HasSubstr("tools is no JSON array"));
  EXPECT_THAT(FailureOf("x", "[]", {.variables = "[]"}), HasSubstr("variables is no JSON object"));
  EXPECT_EQ(MessagesJson(std::vector<ChatMessage>{{"user", "\xff"}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateTest, HostileTemplatesEnd) {
  EXPECT_THAT(
      FailureOf("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
      HasSubstr("RESOURCE_EXHAUSTED: test.jinja"));
  EXPECT_THAT(FailureOf("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), HasSubstr("recursion"));
  EXPECT_THAT(FailureOf("{% for a in range(999) %}{{ 'x' * 99999 }}{% endfor %}"),
              HasSubstr("RESOURCE_EXHAUSTED: test.jinja: renders over"));
  EXPECT_THAT(FailureOf(std::string(99'999, '(')), HasSubstr("rendered (((("));
  EXPECT_THAT(FailureOf("{{ " + std::string(99'999, '(')), HasSubstr("FAILED_PRECONDITION"));
  EXPECT_THAT(FailureOf(std::string((1 << 20) + 1, 'x')), HasSubstr("is over 1048576 bytes"));
  EXPECT_THAT(FailureOf("{{ strftime_now('%99999d') }}"), HasSubstr("the result is too long"));
}

// What a template holds is bounded, however it comes to be. A template that takes too much leaves a
// thread that holds it, as its trainer ends soon.
TEST(ChatTemplateTest, HostileTemplatesHoldLittle) {
  constexpr char kTooMuch[] = "RESOURCE_EXHAUSTED: test.jinja: rendering takes over 256 MiB";
  const std::string begin = "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}";
  for (const std::string& body : {
           begin + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
           begin + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
           std::string("{% macro m(x, n) %}{% if n %}{{ m(x + x, n - 1) }}{% endif %}{% endmacro %}"
                       "{{ m('x' * 99999, 14) }}"),
           std::string("{{ ('x' * 99999) | replace('x', 'y' * 99999) }}"),
           std::string("{{ ([[]] * 9999999999) | list | length }}"),
       }) {
    EXPECT_THAT(FailureOf(body), HasSubstr(kTooMuch)) << body;
  }
}

// Nobody is to blame but the machine: where it gives no thread, the job may be tried elsewhere.
TEST(ChatTemplateTest, NoThreadToRenderOnIsUnavailable) {
  std::ifstream statm("/proc/self/statm");
  rlim_t pages = 0;
  ASSERT_TRUE(statm >> pages);
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_AS, &limit), 0);
  const rlimit tight = {pages * 4096 + (1UL << 30), limit.rlim_max};
  std::string failure;
  std::thread([&] {  // one that has not rendered before
    ASSERT_EQ(setrlimit(RLIMIT_AS, &tight), 0);
    failure = FailureOf("{{ 1 }}");
    ASSERT_EQ(setrlimit(RLIMIT_AS, &limit), 0);
  })
      .join();
  EXPECT_THAT(failure, HasSubstr("UNAVAILABLE: test.jinja: there is no thread to render on"));
}

TEST(ChatTemplateTest, NestingWithoutEndHarmsNobody) {
  const std::string nest =
      "{% set ns = namespace(x=[], y=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}"
      "{% set ns.y = [ns.y] %}{% endfor %}";
  EXPECT_EQ(FailureOf(nest + "gone"), "rendered gone");
  EXPECT_EQ(FailureOf(nest + "{{ ns.x == ns.y }}"), "rendered True");
  for (const char* use : {"{{ ns.x }}", "{{ ns.x | string }}", "{{ ns.x | tojson }}",
                          "{{ {'a': ns.x} }}", "{{ [ns.x] | join }}", "{{ ns.x | trim }}"}) {
    EXPECT_THAT(FailureOf(nest + use), HasSubstr("test.jinja line 1: ")) << use;
    EXPECT_THAT(FailureOf(nest + use), HasSubstr("nested too deeply")) << use;
  }
  EXPECT_THAT(FailureOf(nest + "{{ ns.x ~ '' }}"), HasSubstr("rendered [[["));
}

// The marks of one rendering are guessed by nobody, and gone when it fails.
TEST(ChatTemplateTest, MarksLeaveNoTrace) {
  auto compiled = Compile(
      "{% macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
      "{% for m in messages %}{{ say(m) }}|{% if m.stop %}{{ raise_exception('x') }}{% endif %}"
      "{% endfor %}");
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  EXPECT_FALSE((*compiled)->RenderWithSpans(R"([{"content": "a", "stop": true}])", {}).ok());
  EXPECT_EQ(*(*compiled)->Render(R"([{"content": "a"}])", {}), "a|");
  auto chat = (*compiled)->RenderWithSpans(R"([{"content": "a"}, {"content": "()bc"}])", {});
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->text, "a|()bc|");
  EXPECT_EQ(Said(*chat), (std::vector<std::string>{"a", "()bc"}));
}

class ChatDirectoryTest : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(directory_ + "/" + name, std::ios::binary) << text;
  }
  std::string Rendered() const {
    auto special = ReadSpecialTokens(directory_, SmolLm());
    if (!special.ok()) return special.status().ToString();
    auto loaded = ChatTemplate::Load(directory_, SmolLm(), *special, kRecordedNow);
    if (!loaded.ok()) return loaded.status().ToString();
    auto text = (*loaded)->Render("[]", {});
    return text.ok() ? *text : text.status().ToString();
  }
  const TempDir own_;
  const std::string directory_ = own_.path();
};

TEST_F(ChatDirectoryTest, TakesTheTemplateFromWhereTransformersDoes) {
  EXPECT_THAT(Rendered(), HasSubstr("NOT_FOUND"));
  Write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_THAT(Rendered(), HasSubstr("has no chat template: add chat_template.jinja"));
  Write(
      "tokenizer_config.json",
      R"({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null,
            "chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token }}"})");
  EXPECT_EQ(Rendered(), "<s></s>");
  Write(
      "special_tokens_map.json",
      R"({"eos_token": "other", "pad_token": {"content": "<pad>"}, "additional_special_tokens": ["a"]})");
  EXPECT_EQ(Rendered(), "<s></s><pad>");
  Write("tokenizer_config.json",
        R"({"chat_template": [{"name": "rag", "template": "r"},
                              {"name": "default", "template": "{{ additional_special_tokens }}"}]})");
  EXPECT_EQ(Rendered(), "['a']");
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "r"}]})");
  EXPECT_THAT(Rendered(), HasSubstr("a template named \"default\""));
  Write("chat_template.jinja", "file\n");
  EXPECT_EQ(Rendered(), "file");
  Write("tokenizer_config.json", R"({"bos_token": 7})");
  EXPECT_THAT(Rendered(), HasSubstr("bos_token is 7: must be a string or an object"));
}

TEST_F(ChatDirectoryTest, FindsTheIdsOfSpecialTokens) {
  auto special = ReadSpecialTokens(directory_, SmolLm());
  ASSERT_TRUE(special.ok()) << special.status();
  EXPECT_EQ(special->eos, std::nullopt);
  EXPECT_TRUE(special->stops.empty());
  Write("config.json", R"({"eos_token_id": 0, "bos_token_id": 1, "pad_token_id": -1})");
  Write("tokenizer_config.json", R"({"eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"})");
  special = ReadSpecialTokens(directory_, SmolLm());
  ASSERT_TRUE(special.ok()) << special.status();
  EXPECT_EQ(special->bos, 1);
  EXPECT_EQ(special->eos, 2);
  EXPECT_EQ(special->unk, 0);
  EXPECT_EQ(special->pad, std::nullopt);
  EXPECT_EQ(special->stops, (std::vector<int32_t>{0, 2}));
  Write("generation_config.json", R"({"eos_token_id": [7, 2, 7]})");
  special = ReadSpecialTokens(directory_, SmolLm());
  ASSERT_TRUE(special.ok()) << special.status();
  EXPECT_EQ(special->stops, (std::vector<int32_t>{7, 2}));
  Write("generation_config.json", R"({"eos_token_id": "x"})");
  EXPECT_THAT(std::string(ReadSpecialTokens(directory_, SmolLm()).status().message()),
              HasSubstr("generation_config.json: eos_token_id is \"x\": must be a token id"));
}

}  // namespace
}  // namespace thaw
