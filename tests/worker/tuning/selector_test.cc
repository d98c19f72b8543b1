#include "worker/tuning/selector.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "common/base/status.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct ToyParameter {
  const char* name;
  int group;
  ParameterKind kind;
  bool bias = false;
};
constexpr ToyParameter kToyParameters[] = {{"emb.weight", 0, ParameterKind::kEmbedding},
                                           {"layer.0.weight", 1, ParameterKind::kAttention},
                                           {"layer.0.bias", 1, ParameterKind::kAttention, true},
                                           {"layer.1.weight", 2, ParameterKind::kFeedForward},
                                           {"layer.1.bias", 2, ParameterKind::kFeedForward, true},
                                           {"layer.1.norm.weight", 2, ParameterKind::kNorm},
                                           {"layer.1.norm.bias", 2, ParameterKind::kNorm, true},
                                           {"pooler.weight", 3, ParameterKind::kOther},
                                           {"classifier.weight", 3, ParameterKind::kOther},
                                           {"classifier.bias", 3, ParameterKind::kOther, true}};

// The groups of a model with these parameters.
struct ToyModel {
  ToyModel() {
    for (const ToyParameter& toy : kToyParameters) {
      Parameter parameter;
      parameter.name = toy.name;
      parameter.group = parameter.first_use = toy.group;
      parameter.kind = toy.kind;
      parameter.bias = toy.bias;
      parameters.Add(std::move(parameter));
      groups[toy.group].parameters.push_back(toy.name);
    }
  }
  std::vector<Group> groups = {{"embeddings", {}}, {"block.0", {}}, {"block.1", {}}, {"head", {}}};
  Parameters parameters;
};

absl::StatusOr<std::vector<std::string>> Select(const v1::Selector& selector) {
  const ToyModel model;
  return SelectParameters("selector", selector, model.groups, model.parameters);
}

v1::Selector ParseSelector(const std::string& text) {
  v1::Selector selector;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &selector)) << text;
  return selector;
}

struct SelectionCase {
  std::string selector;
  std::vector<std::string> expected;
};

TEST(Selector, ChoosesByGroupAndByName) {
  const std::vector<SelectionCase> cases = {
      {"head_only: true", {"pooler.weight", "classifier.weight", "classifier.bias"}},
      {"last_blocks: 0", {"pooler.weight", "classifier.weight", "classifier.bias"}},
      {"last_blocks: 1",
       {"layer.1.weight", "layer.1.bias", "layer.1.norm.weight", "layer.1.norm.bias",
        "pooler.weight", "classifier.weight", "classifier.bias"}},
      {"last_blocks: 2 exclude_patterns: 'layer\\\\.1\\\\..*' exclude_patterns: 'pooler.*'",
       {"layer.0.weight", "layer.0.bias", "classifier.weight", "classifier.bias"}},
      {"everything: true",
       {"emb.weight", "layer.0.weight", "layer.0.bias", "layer.1.weight", "layer.1.bias",
        "layer.1.norm.weight", "layer.1.norm.bias", "pooler.weight", "classifier.weight",
        "classifier.bias"}},
      {"name_pattern: '.*bias'",
       {"layer.0.bias", "layer.1.bias", "layer.1.norm.bias", "classifier.bias"}},
      {"name_pattern: '.*bias' exclude_patterns: 'layer.*'", {"classifier.bias"}},
      {"kind: BIASES", {"layer.0.bias", "layer.1.bias", "layer.1.norm.bias", "classifier.bias"}},
      {"kind: NORMS", {"layer.1.norm.weight", "layer.1.norm.bias"}},
      {"kind: EMBEDDINGS", {"emb.weight"}},
      {"kind: ATTENTION", {"layer.0.weight", "layer.0.bias"}},
      {"kind: FEED_FORWARD", {"layer.1.weight", "layer.1.bias"}},
      // Nothing twice, and in the model's order.
      {"any_of { values { head_only: true } values { kind: BIASES } values { kind: EMBEDDINGS } }",
       {"emb.weight", "layer.0.bias", "layer.1.bias", "layer.1.norm.bias", "pooler.weight",
        "classifier.weight", "classifier.bias"}},
      {"kind: BIASES and_not { kind: NORMS } and_not { head_only: true }",
       {"layer.0.bias", "layer.1.bias"}},
      // One block alone; what is taken out may have exceptions of its own.
      {"last_blocks: 2 and_not { last_blocks: 1 }", {"layer.0.weight", "layer.0.bias"}},
      {"everything: true and_not { any_of { values { kind: NORMS } values { last_blocks: 2 } } "
       "and_not { name_pattern: 'pooler.*' } }",
       {"emb.weight", "pooler.weight"}}};
  for (const SelectionCase& test : cases) {
    const auto names = Select(ParseSelector(test.selector));
    ASSERT_TRUE(names.ok()) << test.selector << ": " << names.status();
    EXPECT_EQ(*names, test.expected) << test.selector;
  }
}

struct RefusalCase {
  std::string selector;
  std::string field;
  std::string description;
};

TEST(Selector, RefusesWithFieldAndRemedy) {
  const std::vector<RefusalCase> cases = {
      {"", "selector", "is not set"},
      {"last_blocks: 3", "selector.last_blocks", "the model has 2 blocks"},
      {"last_blocks: -1", "selector.last_blocks", "out of range"},
      {"name_pattern: 'bias'", "selector", "matches none"},
      // The nearest names, by what stands in the pattern for itself.
      {"name_pattern: 'clasifier\\\\.bias'", "selector", "nearest are \"classifier.bias\", "},
      {"name_pattern: '.*layer.1.nrm.*weigt'", "selector", "nearest are \"layer.1.norm.weight\", "},
      {"kind: ADDED_PARTS", "selector",
       "no parameters of this kind, but BIASES, NORMS, EMBEDDINGS, ATTENTION, FEED_FORWARD"},
      {"any_of { values { head_only: true } values { name_pattern: 'emb' } }",
       "selector.any_of.values[1]", "\"emb.weight\""},
      {"everything: true and_not { name_pattern: 'poller' }", "selector.and_not[0]",
       "\"pooler.weight\""},
      {"kind: NORMS and_not { last_blocks: 2 }", "selector", "such as \"layer.1.norm.weight\""},
      {"and_not { head_only: true }", "selector", "is not set"},
      {"name_pattern: '(bias'", "selector.name_pattern", "no RE2 expression"},
      {"head_only: true exclude_patterns: '['", "selector.exclude_patterns[0]",
       "no RE2 expression"},
      {"head_only: true exclude_patterns: '.*'", "selector", "takes out again all"}};
  for (const RefusalCase& test : cases) {
    const auto names = Select(ParseSelector(test.selector));
    ASSERT_EQ(names.status().code(), absl::StatusCode::kInvalidArgument) << test.selector;
    const auto violations = ViolationsOf(names.status());
    ASSERT_EQ(violations.size(), 1u) << test.selector;
    EXPECT_EQ(violations[0].field, test.field) << test.selector;
    EXPECT_THAT(violations[0].description, HasSubstr(test.description)) << test.selector;
  }
}

}  // namespace
}  // namespace thaw
