// A pooled head on every family: what runs below it, what trains, what files hold.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "common/base/files.h"
#include "common/base/json.h"
#include "tests/worker/model/model_fixture.h"
#include "worker/model/packed_rows.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;
using torch::Tensor;

HeadSpec PooledSpec(int64_t blocks) {
  HeadSpec head{.labels = {"x", "y"}, .seed = 3};
  head.pooled = PooledHeadConfig{.blocks = blocks, .hidden_size = 5};
  return head;
}

// Of the last row of each sequence.
Tensor PooledLogitsOf(Model& model, const Packed& batch) {
  const RunContext context{.all_rows = true};
  const Rows rows = RowsOf(model, batch, context);
  return model.PooledLogits(LastRows(model.LastHidden(rows, context), rows.cu_seqlens), context);
}

class PooledHeadOnTest : public ::testing::TestWithParam<const char*> {};

TEST_P(PooledHeadOnTest, ReadsWhatItSaysAndLeavesTheRest) {
  ModelFixture plain(GetParam(), HeadSpec{.kind = HeadKind::kNone});
  const Packed batch = plain.Batch(0).packed;
  const int all = plain.model->blocks();
  for (const int64_t blocks : {int64_t{-1}, int64_t{1}, int64_t{0}}) {
    SCOPED_TRACE(blocks);
    const auto loaded = LoadModel(FixtureDirectory(GetParam()), PooledSpec(blocks));
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    Model& model = **loaded;
    const int runs = blocks < 0 ? all : static_cast<int>(blocks);
    ASSERT_EQ(model.blocks(), runs);
    EXPECT_EQ(model.config().pooled->blocks, runs);
    EXPECT_EQ(model.config().head, HeadKind::kClassifier);
    EXPECT_THAT(model.groups().back().parameters,
                UnorderedElementsAre("pooled_head.0.weight", "pooled_head.0.bias",
                                     "pooled_head.2.weight", "pooled_head.2.bias"));
    std::set<std::string> selectable;
    for (size_t i = 0; i < model.groups().size(); ++i) {
      for (const std::string& name : model.groups()[i].parameters) {
        EXPECT_TRUE(selectable.insert(name).second) << name;
        EXPECT_EQ(model.parameters().Find(name)->group, static_cast<int>(i)) << name;
      }
    }
    for (const LinearLayer& linear : model.linears()) {
      EXPECT_EQ(selectable.count(linear.weight->name), 1U) << linear.name;
    }
    const RunContext context{.all_rows = true};
    Rows rows = plain.model->Embed(batch, context);
    for (int i = 0; i < runs; ++i) rows = plain.model->Block(i, rows, context);
    const Tensor expected = runs == all ? plain.model->Hidden(rows, context) : rows.data;
    const Rows found = RowsOf(model, batch, context);
    EXPECT_EQ(MaxDifference(model.LastHidden(found, context), expected), 0);
    // The final norm, where there is one, runs below the head, and trains with the last block.
    for (const Parameter& parameter : plain.model->parameters().all()) {
      const bool top = parameter.group == all + 1 && parameter.kind == ParameterKind::kNorm;
      if (top) {
        EXPECT_EQ(selectable.count(parameter.name), runs == all ? 1U : 0U) << parameter.name;
      }
      EXPECT_NE(model.parameters().Find(parameter.name), nullptr) << parameter.name;
    }
    const std::string directory = NewTestDirectory();
    ASSERT_TRUE(SaveModel(model, directory).ok());
    const auto again = LoadModel(directory, std::nullopt);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE((*again)->warnings().empty()) << (*again)->warnings().front();
    EXPECT_EQ(MaxDifference(PooledLogitsOf(**again, batch), PooledLogitsOf(model, batch)), 0);
    // Another head finds the base below it.
    const auto other = LoadModel(directory, HeadSpec{.kind = HeadKind::kNone});
    ASSERT_TRUE(other.ok()) << other.status();
    EXPECT_FALSE((*other)->config().pooled);
    EXPECT_EQ((*other)->blocks(), all);
  }
  const auto refused = LoadModel(FixtureDirectory(GetParam()), PooledSpec(all + 1));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("pooled_head.blocks"));
}

INSTANTIATE_TEST_SUITE_P(Families, PooledHeadOnTest,
                         ::testing::Values("bert", "bert-cls", "roberta", "distilbert", "gpt2",
                                           "gpt2-cls", "bloom-4heads", "llama", "mistral", "qwen2",
                                           "qwen3"),
                         [](const auto& info) { return FixtureTestName(info.param); });

TEST(PooledHeadConfigTest, IsReadStrictly) {
  const auto parse = [](const std::string& json) {
    const auto head = ParsePooledHead(*ParseJson(json));
    return head.ok() ? "blocks " + std::to_string(head->blocks)
                     : std::string(head.status().message());
  };
  EXPECT_EQ(parse(R"({"format_version": 1, "blocks": 2, "pooling": "max"})"), "blocks 2");
  const struct {
    const char *json, *says;
  } cases[] = {
      {"[]", "expected an object"},
      {R"({"blocks": 2, "pooling": "max"})", "format_version"},
      {R"({"format_version": 2, "blocks": 2, "pooling": "max"})", "a newer thaw"},
      {R"({"format_version": 1, "pooling": "max"})", "blocks"},
      {R"({"format_version": 1, "blocks": -1, "pooling": "max"})", "blocks"},
      {R"({"format_version": 1, "blocks": 2, "pooling": "sum"})", "only mean, cls, last and max"},
      {R"({"format_version": 1, "blocks": 2, "pooling": "max", "dropout": 1})", "dropout"},
      {R"({"format_version": 1, "blocks": 2, "pooling": "max", "gate": 1})", "gate"},
  };
  for (const auto& [json, says] : cases) EXPECT_THAT(parse(json), HasSubstr(says)) << json;
}

}  // namespace
}  // namespace thaw
