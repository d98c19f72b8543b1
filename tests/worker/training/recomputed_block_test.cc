// Blocks whose activations are computed again give the same bits, and no graph is kept of them.
#include "worker/training/recomputed_block.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/worker/model/model_fixture.h"
#include "tests/worker/training/toy_job.h"
#include "worker/training/forward.h"

namespace thaw {
namespace {

using torch::Tensor;

TEST(RecomputedBlock, RunsAgainInTheBackwardPassAlone) {
  const Tensor weight = at::full({2, 2}, 0.5).set_requires_grad(true);
  int runs = 0;
  bool built_graph = false;
  const auto run = [&](const Rows& rows) {
    ++runs;
    built_graph = torch::GradMode::is_enabled();
    return Rows{at::tanh(at::matmul(rows.data, weight)), rows.cu_seqlens, rows.other, {}};
  };
  const Tensor data = at::arange(6, torch::kFloat).view({3, 2}).mul(0.1);
  for (const bool input_trains : {false, true}) {
    const Tensor in = data.clone().set_requires_grad(input_trains);
    Rows rows = RecomputedRows({in, {0, 3}, {}, {}}, run);
    EXPECT_TRUE(rows.data.requires_grad());
    EXPECT_EQ(rows.cu_seqlens, (std::vector<int32_t>{0, 3}));
    EXPECT_EQ(runs, 1);
    EXPECT_FALSE(built_graph);
    rows.data.square().sum().backward();
    EXPECT_EQ(runs, 2);
    const Tensor got = weight.grad().clone();
    weight.mutable_grad().reset();
    const Tensor own = data.clone().set_requires_grad(input_trains);
    run({own, {0, 3}, {}, {}}).data.square().sum().backward();
    EXPECT_TRUE(at::equal(got, weight.grad()));
    EXPECT_EQ(in.grad().defined(), input_trains);
    if (input_trains) {
      EXPECT_TRUE(at::equal(in.grad(), own.grad()));
    }
    weight.mutable_grad().reset();
    runs = 0;
  }
}

// How many of the graph's nodes behind `result` are blocks that are computed again.
size_t RecomputedBlocksBehind(const Tensor& result) {
  std::set<torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> open = {result.grad_fn().get()};
  size_t count = 0;
  while (!open.empty()) {
    torch::autograd::Node* const node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    count += absl::StrContains(node->name(), "Recomputed") ? 1 : 0;
    for (const torch::autograd::Edge& edge : node->next_edges())
      open.push_back(edge.function.get());
  }
  return count;
}

TEST(RecomputedBlock, ATrainingRecomputesTheBlocksAboveTheFrozenOnes) {
  ModelFixture fixture("bert-cls", std::nullopt);
  Model* const model = fixture.model.get();
  TokenizedDataset rows;
  rows.token_ids = {5, 6, 7};
  rows.offsets.push_back(3);
  rows.labels = {0};
  std::vector<std::string> all, last;
  for (const Parameter& parameter : model->parameters().all()) {
    all.push_back(parameter.name);
    if (parameter.group >= model->blocks()) last.push_back(parameter.name);
  }
  const auto recomputed = [&](const std::vector<std::string>& names, bool recomputes) {
    for (const Parameter& parameter : model->parameters().all()) {
      parameter.tensor.set_requires_grad(absl::c_linear_search(names, parameter.name));
    }
    const TrainedGroups trained(*model, names, false, recomputes);
    const std::vector<int64_t> row = {0};
    return RecomputedBlocksBehind(Logits(model, Pack(rows, row), trained, DropoutKey()));
  };
  EXPECT_EQ(recomputed(all, true), model->blocks());
  EXPECT_EQ(recomputed(last, true), 1);
  EXPECT_EQ(recomputed(all, false), 0);
}

TEST(RecomputedBlock, TheOtherStreamPassesThrough) {
  const Tensor data = at::ones({2, 2}).set_requires_grad(true);
  const Tensor other = at::full({1, 2}, 3.0).set_requires_grad(true);
  const Rows rows = RecomputedRows({data, {0, 2}, other, {0, 1}}, [](const Rows& in) {
    return Rows{in.data + in.other, in.cu_seqlens, in.other, in.other_bounds};
  });
  EXPECT_EQ(rows.other_bounds, (std::vector<int32_t>{0, 1}));
  (rows.data.sum() + 2 * rows.other.sum()).backward();
  EXPECT_TRUE(at::equal(data.grad(), at::ones({2, 2})));
  EXPECT_TRUE(at::equal(other.grad(), at::full({1, 2}, 4.0)));
}

struct RecomputedTraining {
  const char* name;
  const char* fixture;  // empty: the classifier
  const char* training;
};

struct Trained {
  std::string weights;
  std::map<int64_t, double> losses;
  std::vector<std::string> log;
};

Trained TrainedWith(const RecomputedTraining& test, const std::string& recompute, int divisor = 1) {
  const bool writes = *test.fixture != '\0';
  const std::string model = writes ? MakeToyWriter(FreshDirectory("model"), test.fixture, 0.1)
                                   : MakeToyModel(FreshDirectory("model"), 0.1);
  const std::string data = writes ? MakeToyTexts(FreshDirectory("dataset"), 24, 5)
                                  : MakeToyDataset(FreshDirectory("dataset"), 24, 5);
  internal::Run run =
      ToyTraining(model, data,
                  absl::StrCat(test.training,
                               " validation_fraction: 0 batch { examples_per_step: 6 "
                               "tokens_per_micro_step: 40 } recompute_activations: ",
                               recompute));
  run.mutable_assignment()->set_micro_step_divisor(divisor);
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  return {ResultWeights(run), sink.Series("loss"), sink.LogLines()};
}

TEST(RecomputedBlock, ChangesNoBitOfATraining) {
  const std::string everything =
      "phases { selector { everything: true } learning_rate: 0.01 steps: 4 }";
  const std::string parts =
      "phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 steps: 4 }";
  const std::string low_rank = parts +
                               " added_part { lora { rank: 4 alpha: 8 dropout: 0.1 } }"
                               " output: MERGED completion {}";
  const std::string written = everything + " completion {}";
  const std::string bits = everything + " precision: BF16";
  const std::string to_sequence = everything + " sequence_to_sequence {}";
  const RecomputedTraining kTrainings[] = {
      {"full", "", everything.c_str()},
      {"last block", "", "phases { selector { last_blocks: 1 } learning_rate: 0.01 steps: 4 }"},
      {"in bf16", "", bits.c_str()},
      {"gpt2", "gpt2", written.c_str()},
      {"low rank", "llama", low_rank.c_str()},
  };
  for (const RecomputedTraining& training : kTrainings) {
    SCOPED_TRACE(training.name);
    // No EXPECT_EQ, which would print them.
    EXPECT_TRUE(TrainedWith(training, "ALWAYS").weights == TrainedWith(training, "NEVER").weights);
  }
  // Blocks that share a table add to its gradient in another order.
  const RecomputedTraining shared = {"t5", "t5", to_sequence.c_str()};
  const Trained again = TrainedWith(shared, "ALWAYS"), kept = TrainedWith(shared, "NEVER");
  ASSERT_EQ(again.losses.size(), 4u);
  for (const auto& [step, loss] : again.losses) {
    EXPECT_NEAR(loss, kept.losses.at(step), 1e-6 * loss) << step;
  }
}

TEST(RecomputedBlock, BeginsOnceMemoryRanOut) {
  const RecomputedTraining training = {
      "", "", "phases { selector { everything: true } learning_rate: 0.01 steps: 2 }"};
  const auto recomputes = [&](const char* when, int divisor) {
    const Trained trained = TrainedWith(training, when, divisor);
    return std::count(trained.log.begin(), trained.log.end(),
                      "activations of trained blocks are computed twice");
  };
  EXPECT_EQ(recomputes("AFTER_OUT_OF_MEMORY", 1), 0);
  EXPECT_EQ(recomputes("AFTER_OUT_OF_MEMORY", 2), 1);
  EXPECT_EQ(recomputes("NEVER", 2), 0);
  EXPECT_EQ(recomputes("ALWAYS", 1), 1);
}

}  // namespace
}  // namespace thaw
