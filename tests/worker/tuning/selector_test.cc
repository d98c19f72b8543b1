#include "worker/tuning/selector.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "common/base/status.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<Group>& ToyGroups() {
  static const auto* groups =
      new std::vector<Group>{{"embeddings", {"emb.weight"}},
                             {"block.0", {"layer.0.weight", "layer.0.bias"}},
                             {"block.1", {"layer.1.weight", "layer.1.bias"}},
                             {"head", {"pooler.weight", "classifier.weight", "classifier.bias"}}};
  return *groups;
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
       {"layer.1.weight", "layer.1.bias", "pooler.weight", "classifier.weight", "classifier.bias"}},
      {"last_blocks: 2 exclude_patterns: 'layer\\\\.1\\\\..*' exclude_patterns: 'pooler.*'",
       {"layer.0.weight", "layer.0.bias", "classifier.weight", "classifier.bias"}},
      {"everything: true",
       {"emb.weight", "layer.0.weight", "layer.0.bias", "layer.1.weight", "layer.1.bias",
        "pooler.weight", "classifier.weight", "classifier.bias"}},
      {"name_pattern: '.*bias'", {"layer.0.bias", "layer.1.bias", "classifier.bias"}},
      {"name_pattern: '.*bias' exclude_patterns: 'layer.*'", {"classifier.bias"}}};
  for (const SelectionCase& test : cases) {
    const auto names = SelectParameters(ParseSelector(test.selector), ToyGroups());
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
      {"name_pattern: '(bias'", "selector.name_pattern", "no RE2 expression"},
      {"head_only: true exclude_patterns: '['", "selector.exclude_patterns", "no RE2 expression"},
      {"head_only: true exclude_patterns: '.*'", "selector", "matches none"}};
  for (const RefusalCase& test : cases) {
    const auto names = SelectParameters(ParseSelector(test.selector), ToyGroups());
    ASSERT_EQ(names.status().code(), absl::StatusCode::kInvalidArgument) << test.selector;
    const auto violations = ViolationsOf(names.status());
    ASSERT_EQ(violations.size(), 1u) << test.selector;
    EXPECT_EQ(violations[0].field, test.field) << test.selector;
    EXPECT_THAT(violations[0].description, HasSubstr(test.description)) << test.selector;
  }
}

}  // namespace
}  // namespace thaw
