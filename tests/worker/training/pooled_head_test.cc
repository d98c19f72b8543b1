// Heads on pooled hidden states: trained, stored, read back, gone on from.
#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/delta/delta.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/model.h"
#include "worker/model/tensor_view.h"
#include "worker/training/features.h"
#include "worker/training/forward.h"
#include "worker/training/linear_optimum.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kAdamW[] =
    "validation_fraction: 0.2 "
    "phases { name: 'head' selector { head_only: true } learning_rate: 0.05 epochs: 3 } ";
constexpr char kLbfgs[] =
    "validation_fraction: 0.2 phases { name: 'head' selector { head_only: true } "
    "convergence { max_iterations: 300 tolerance: 1e-7 l2: 0.5 } } ";

class PooledHeadTest : public ::testing::Test {
 protected:
  PooledHeadTest()
      : model_(MakeToyModel(FreshDirectory("model"), 0.1)),
        dataset_(MakeToyDataset(FreshDirectory("dataset"), 90, 5)) {}

  internal::Run Job(const std::string& training) { return ToyTraining(model_, dataset_, training); }
  std::string Trained(const internal::Run& run) {
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(run, &sink);
    EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    return run.work_dir() + "/result";
  }
  std::string Failure(const internal::Run& run) {
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(run, &sink);
    EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::FAILED);
    return ended.end().failure().message();
  }
  static std::vector<std::string> TensorsOf(const std::string& path) {
    std::vector<std::string> names;
    const auto file = SafetensorsFile::Open(path);
    EXPECT_TRUE(file.ok()) << file.status();
    for (const TensorInfo& tensor : (*file)->tensors()) names.push_back(tensor.name);
    return names;
  }
  static torch::Tensor TensorIn(const std::string& path, const std::string& name) {
    const auto file = SafetensorsFile::Open(path);
    EXPECT_TRUE(file.ok()) << file.status();
    return ViewTensor(*file, *(*file)->Find(name)).clone();
  }

  const std::string model_, dataset_;
};

TEST_F(PooledHeadTest, ResultsHoldItBesideTheBase) {
  const std::string pooled = std::string(kAdamW) + "pooled_head { blocks: 2 pooling: MAX } ";
  const std::string full = Trained(Job(pooled)), delta = Trained(Job(pooled + "output: DELTA"));
  const auto config = ReadJsonFile(full + "/config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ((*config)["thaw_pooled_head"],
            nlohmann::json::parse(R"({"format_version": 1, "blocks": 2, "pooling": "max",
                                      "normalize": false, "hidden_size": 0, "dropout": 0.0})"));
  EXPECT_FALSE(config->contains("architectures"));
  EXPECT_EQ((*config)["id2label"]["1"], "middle");
  EXPECT_THAT(TensorsOf(delta + "/delta.safetensors"),
              ElementsAre("pooled_head.0.bias", "pooled_head.0.weight"));
  const std::string rebuilt = FreshDirectory("rebuilt") + "/model.safetensors";
  ASSERT_TRUE(RebuildWeights(delta, model_, rebuilt).ok());
  EXPECT_EQ(*ReadFile(rebuilt), *ReadFile(full + "/model.safetensors"));
  // The base's own tensors, of blocks that do not run too, are as they were.
  for (const std::string& name : TensorsOf(model_ + "/model.safetensors")) {
    if (name.rfind("classifier.", 0) == 0) continue;
    EXPECT_TRUE(at::equal(TensorIn(full + "/model.safetensors", name),
                          TensorIn(model_ + "/model.safetensors", name)))
        << name;
  }
}

TEST_F(PooledHeadTest, AnswersAsThePooledRowsOfTheHiddenStatesDo) {
  const std::string result =
      Trained(Job(std::string(kAdamW) + "pooled_head { normalize: true hidden_size: 6 }"));
  const std::string weights = result + "/model.safetensors";
  const internal::Run embed = ToyPrediction(model_, dataset_, "embed {}");
  internal::Run embedding = embed;
  embedding.mutable_assignment()->mutable_spec()->mutable_prediction()->mutable_embed();
  const torch::Tensor vectors =
      TensorIn(Trained(embedding) + "/embeddings.safetensors", "embeddings");
  const auto layer = [&](const torch::Tensor& x, const char* name) {
    return at::addmm(TensorIn(weights, absl::StrCat(name, ".bias")), x,
                     TensorIn(weights, absl::StrCat(name, ".weight")).t());
  };
  const torch::Tensor expected = layer(at::relu(layer(vectors, "pooled_head.0")), "pooled_head.2");
  const std::string lines =
      *ReadFile(Trained(ToyPrediction(result, dataset_, "classify {}")) + "/predictions.jsonl");
  int64_t row = 0;
  for (size_t begin = 0; begin < lines.size(); begin = lines.find('\n', begin) + 1, ++row) {
    const auto line = nlohmann::json::parse(lines.substr(begin, lines.find('\n', begin) - begin));
    const torch::Tensor logits = torch::tensor(line["logits"].get<std::vector<float>>());
    EXPECT_LT((logits - expected[row]).abs().max().item<float>(), 1e-5) << row;
  }
  EXPECT_EQ(row, 90);
}

TEST_F(PooledHeadTest, IsGoneOnFromWhereLabelsAreTheSame) {
  const std::string result =
      Trained(Job(std::string(kAdamW) + "pooled_head { blocks: 1 pooling: LAST }"));
  const std::string idle =
      "validation_fraction: 0 phases { selector { head_only: true } learning_rate: 1e-30 steps: 1 "
      "}";
  for (const bool again : {false, true}) {
    const std::string more = Trained(ToyTraining(
        result, dataset_, idle + (again ? " pooled_head { blocks: 1 pooling: LAST }" : "")));
    EXPECT_TRUE(at::equal(TensorIn(more + "/model.safetensors", "pooled_head.0.weight"),
                          TensorIn(result + "/model.safetensors", "pooled_head.0.weight")));
  }
  // Another form is another head.
  const std::string other =
      Trained(ToyTraining(result, dataset_, idle + " pooled_head { blocks: 2 pooling: LAST }"));
  EXPECT_FALSE(at::equal(TensorIn(other + "/model.safetensors", "pooled_head.0.weight"),
                         TensorIn(result + "/model.safetensors", "pooled_head.0.weight")));
  // Other labels too, in the same form.
  const std::string numbers = MakeToyTexts(FreshDirectory("numbers"), 40, 3);
  const std::string regression = Trained(ToyTraining(
      result, numbers, idle + " regression { text_column: 'text' target_column: 'number' }"));
  const auto config = ReadJsonFile(regression + "/config.json");
  EXPECT_EQ((*config)["thaw_pooled_head"]["blocks"], 1);
  EXPECT_EQ((*config)["problem_type"], "regression");
}

TEST_F(PooledHeadTest, TrainsWithAnyProgram) {
  for (const char* program :
       {"phases { selector { last_blocks: 1 } learning_rate: 0.003 steps: 4 }",
        "phases { selector { everything: true } learning_rate: 0.003 steps: 4 }",
        "phases { selector { kind: ADDED_PARTS } learning_rate: 0.003 steps: 4 } "
        "added_part { lora { rank: 2 alpha: 4 } } output: ADAPTER"}) {
    SCOPED_TRACE(program);
    const internal::Run run = Job(
        absl::StrCat("validation_fraction: 0.2 pooled_head { pooling: MEAN blocks: 2 } ", program));
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(run, &sink);
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    // The result's files answer as the trainer did: its receipt has looked.
    EXPECT_LT(ReceiptOf(run).probes().greatest_difference(), 1e-5);
    ASSERT_EQ(sink.Series("loss").size(), 4U);
  }
  EXPECT_THAT(Failure(Job("validation_fraction: 0 pooled_head { blocks: 1 } phases { selector { "
                          "last_blocks: 2 } learning_rate: 0.01 steps: 1 }")),
              HasSubstr("the model has 1 blocks"));
  EXPECT_THAT(Failure(Job("validation_fraction: 0 pooled_head { blocks: 9 } phases { selector { "
                          "head_only: true } learning_rate: 0.01 steps: 1 }")),
              HasSubstr("pooled_head.blocks"));
}

TEST_F(PooledHeadTest, GradientsReachTheRows) {
  at::manual_seed(4);
  for (const Pooling pooling : {Pooling::kMean, Pooling::kCls, Pooling::kLast, Pooling::kMax}) {
    HeadSpec head{.labels = {"a", "b"}, .seed = 7};
    head.pooled = PooledHeadConfig{.pooling = pooling, .normalize = true, .hidden_size = 4};
    const auto loaded = LoadModel(model_, head);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    Model* model = loaded->get();
    const std::string name = "bert.encoder.layer.0.output.dense.bias";
    torch::Tensor bias = model->parameters().Find(name)->tensor.clone().requires_grad_(true);
    ASSERT_TRUE(model->parameters().SetTensor(name, bias).ok());
    PackedBatch batch;
    batch.token_ids = {2, 10, 20, 30, 3, 2, 40, 3};
    batch.token_type_ids.resize(8);
    batch.cu_seqlens = {0, 5, 8};
    batch.rows = {0, 1};
    const TrainedGroups trained(*model, {name});
    const auto loss = [&] {
      const torch::Tensor logits = Logits(model, batch, trained, {});
      return (logits * torch::tensor({{1.0F, -2.0F}, {0.5F, 3.0F}})).sum();
    };
    // Dropout is a function of its key: the same in every call.
    loss().backward();
    const torch::Tensor gradient = bias.grad().clone();
    const torch::Tensor direction = at::randn_like(bias);
    const auto at = [&](double by) {
      const torch::NoGradGuard no_grad;
      bias.add_(direction, by);
      const double value = loss().item<double>();
      bias.sub_(direction, by);
      return value;
    };
    const double numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
    const double analytic = (gradient * direction).sum().item<double>();
    EXPECT_NEAR(numeric, analytic, 2e-2 * std::max(std::abs(analytic), 0.05))
        << static_cast<int>(pooling);
  }
}

TEST_F(PooledHeadTest, ConvergesToTheOptimum) {
  internal::Run run = Job(std::string(kLbfgs) + "pooled_head { export_features: true }");
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  const auto losses = sink.Series("loss");
  EXPECT_GT(losses.size(), 5U);
  EXPECT_EQ(static_cast<int64_t>(losses.size()), ended.end().step());
  EXPECT_LT(losses.rbegin()->second, losses.begin()->second);
  ASSERT_EQ(sink.Evaluations().size(), 1U);
  EXPECT_EQ(sink.Evaluations()[0].step(), ended.end().step());
  EXPECT_THAT(sink.LogLines(), ::testing::Contains(HasSubstr("converged after")));
  // The gradient of the objective over the exported features is next to nothing.
  const std::string features = run.work_dir() + "/result/features.safetensors";
  const std::string weights = run.work_dir() + "/result/model.safetensors";
  const torch::Tensor x = TensorIn(features, "training").to(torch::kFloat64);
  const torch::Tensor y = TensorIn(features, "training_targets");
  const torch::Tensor w = TensorIn(weights, "pooled_head.0.weight").to(torch::kFloat64);
  const torch::Tensor b = TensorIn(weights, "pooled_head.0.bias").to(torch::kFloat64);
  torch::Tensor d = at::softmax(at::addmm(b, x, w.t()), 1);
  d.scatter_add_(1, y.unsqueeze(1), at::full({y.size(0), 1}, -1.0, d.options()));
  const double rows = static_cast<double>(x.size(0));
  EXPECT_LT(((d.t().matmul(x) + w * 0.5) / rows).abs().max().item<double>(), 1e-6);
  EXPECT_LT((d.sum(0) / rows).abs().max().item<double>(), 1e-6);
}

TEST_F(PooledHeadTest, ConvergenceGivenUpBeginsAgainWithTheSameBits) {
  const std::string program = std::string(kLbfgs) +
                              "phases { name: 'all' selector { everything: true } learning_rate: "
                              "0.002 steps: 4 } pooled_head {} checkpoint { every_steps: 3 }";
  const internal::Run straight = Job(program);
  RecordingSink straight_sink;
  const internal::Ended straight_end = RunAttempt(straight, &straight_sink);
  ASSERT_EQ(straight_end.end().outcome(), v1::AttemptEnd::SUCCEEDED);
  for (const int64_t pause_at : {int64_t{2}, straight_end.end().step() - 2}) {
    internal::Run run = Job(program);
    RecordingSink sink;
    Control control;
    sink.on_point = [&](const v1::MetricPoint& point) {
      if (point.step() == pause_at) control.RequestPause();
    };
    const internal::Ended paused = RunAttempt(run, &sink, &control);
    ASSERT_EQ(paused.end().outcome(), v1::AttemptEnd::PAUSED) << paused.ShortDebugString();
    EXPECT_EQ(paused.end().step(), pause_at == 2 ? 0 : pause_at);
    ASSERT_FALSE(sink.checkpoints.empty());
    internal::Run resumed = Job(program);
    resumed.set_checkpoint_dir(run.work_dir() + "/" + sink.checkpoints.back().dir());
    RecordingSink resumed_sink;
    const internal::Ended ended = RunAttempt(resumed, &resumed_sink);
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    EXPECT_EQ(ended.end().step(), straight_end.end().step());
    EXPECT_EQ(ResultWeights(resumed), ResultWeights(straight));
    EXPECT_EQ(ReceiptOf(resumed).history_sha256(), ReceiptOf(straight).history_sha256());
  }
}

TEST_F(PooledHeadTest, ConvergesWithSeveralLabelsAndNumbers) {
  const std::string texts = MakeToyTexts(FreshDirectory("texts"), 60, 3);
  for (const char* task : {"text_classification { multi_label: true label_column: 'labels' }",
                           "regression { target_column: 'number' }"}) {
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(
        ToyTraining(model_, texts, absl::StrCat(kLbfgs, "pooled_head {} ", task)), &sink);
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    EXPECT_THAT(sink.LogLines(), ::testing::Contains(HasSubstr("converged after")));
  }
}

TEST_F(PooledHeadTest, StandsOnFamiliesThatWrite) {
  for (const std::string& base : {MakeToyWriter(FreshDirectory("gpt2"), "gpt2", 0.1),
                                  MakeToyLstm(FreshDirectory("lstm"), 1)}) {
    const internal::Run run =
        ToyTraining(base, dataset_, std::string(kLbfgs) + "pooled_head { pooling: LAST }");
    const std::string result = Trained(run);
    EXPECT_LT(ReceiptOf(run).probes().greatest_difference(), 1e-5);
    EXPECT_NE(
        ReadFile(Trained(ToyPrediction(result, dataset_, "classify {}")) + "/predictions.jsonl")
            ->find("\"logits\""),
        std::string::npos);
  }
}

TEST_F(PooledHeadTest, ConvergenceSaysWhatItNeeds) {
  const std::string phase = "validation_fraction: 0 phases { convergence { max_iterations: 2 } ";
  EXPECT_THAT(Failure(Job(phase + "selector { head_only: true } }")),
              HasSubstr("phases[0].convergence: needs a linear pooled head"));
  EXPECT_THAT(Failure(Job(phase + "selector { head_only: true } } pooled_head { hidden_size: 3 }")),
              HasSubstr("needs a linear pooled head"));
  EXPECT_THAT(Failure(Job(phase + "selector { name_pattern: '.*layer.0.output.dense.*' } } "
                                  "pooled_head {}")),
              HasSubstr("below the head"));
  EXPECT_THAT(Failure(Job("validation_fraction: 0 phases { selector { everything: true } "
                          "learning_rate: 0.1 steps: 1 } pooled_head { export_features: true }")),
              HasSubstr("pooled_head.export_features"));
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(Job(phase + "selector { head_only: true } } pooled_head {}"), &sink)
                .end()
                .outcome(),
            v1::AttemptEnd::SUCCEEDED);
  EXPECT_EQ(sink.Warnings().back().reason(), "NOT_CONVERGED");
}

TEST_F(PooledHeadTest, ExportsFeaturesOfAllRows) {
  const std::string result =
      Trained(Job(std::string(kAdamW) + "pooled_head { pooling: CLS export_features: true }"));
  const std::string file = result + "/features.safetensors";
  EXPECT_THAT(TensorsOf(file), ::testing::UnorderedElementsAre(
                                   "training", "training_rows", "training_targets", "validation",
                                   "validation_rows", "validation_targets"));
  internal::Run embed = ToyPrediction(model_, dataset_, "embed { pooling: CLS normalize: false }");
  embed.mutable_assignment()->mutable_spec()->mutable_prediction()->mutable_embed()->set_pooling(
      v1::Embed::CLS);
  embed.mutable_assignment()->mutable_spec()->mutable_prediction()->mutable_embed()->set_normalize(
      false);
  const torch::Tensor vectors = TensorIn(Trained(embed) + "/embeddings.safetensors", "embeddings");
  std::vector<torch::Tensor> parts;
  for (const char* side : {"training", "validation"}) {
    const torch::Tensor features = TensorIn(file, side);
    const torch::Tensor lines = TensorIn(file, absl::StrCat(side, "_rows"));
    EXPECT_LT((features - vectors.index_select(0, lines - 1)).abs().max().item<float>(), 1e-5);
    parts.push_back(features);
  }
  const std::string npy = *ReadFile(result + "/features.npy");
  const torch::Tensor all = at::cat(parts).contiguous();
  const size_t header = npy.size() - all.nbytes();
  EXPECT_EQ(header % 64, 0U);
  EXPECT_EQ(npy.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  EXPECT_THAT(npy.substr(10, header - 10),
              HasSubstr(absl::StrCat("'shape': (90, ", all.size(1), ")")));
  EXPECT_EQ(std::memcmp(npy.data() + header, all.const_data_ptr(), all.nbytes()), 0);
}

}  // namespace
}  // namespace thaw
