// Ten optimizer steps through our own parts against the traces that transformers left.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "tests/worker/model/model_fixture.h"
#include "worker/training/forward.h"
#include "worker/training/training_task.h"
#include "worker/tuning/schedule.h"
#include "worker/tuning/selector.h"
#include "worker/tuning/trainables.h"

namespace thaw {
namespace {

template <typename T>
std::vector<T> Numbers(const torch::Tensor& tensor) {
  const torch::Tensor flat = tensor.contiguous();
  return {flat.const_data_ptr<T>(), flat.const_data_ptr<T>() + flat.numel()};
}

// The recorded batch as our data would have packed it.
PackedBatch ToBatch(const FixtureBatch& fixture, HeadKind head) {
  PackedBatch batch;
  batch.token_ids = Numbers<int64_t>(fixture.packed.token_ids);
  batch.cu_seqlens = fixture.packed.cu_seqlens;
  batch.token_type_ids = fixture.packed.token_type_ids.defined()
                             ? Numbers<int64_t>(fixture.packed.token_type_ids)
                             : std::vector<int64_t>(batch.token_ids.size());
  for (size_t i = 0; i + 1 < batch.cu_seqlens.size(); ++i) {
    batch.rows.push_back(static_cast<int64_t>(i));
  }
  if (fixture.packed.target_ids.defined()) {
    batch.target_ids = Numbers<int64_t>(fixture.packed.target_ids);
    batch.target_bounds = fixture.packed.target_bounds;
  }
  if (head == HeadKind::kLanguageModel) {
    const std::vector<int64_t> labels = Numbers<int64_t>(fixture.labels);
    for (size_t row = 0; row < labels.size(); ++row) {
      if (labels[row] == -100) continue;
      batch.loss_rows.push_back(static_cast<int64_t>(row));
      batch.next_ids.push_back(labels[row]);
    }
  } else if (fixture.labels.is_floating_point()) {
    batch.outputs = Numbers<float>(fixture.labels);
  } else {
    batch.labels = Numbers<int64_t>(fixture.labels);
  }
  return batch;
}

// How far ten steps are off, relatively.
struct OffBy {
  double loss = 0, gradient_norm = 0;
};

// The recipe of the fixtures: AdamW at 5e-4, falling to 0 in a straight line over ten steps, decay
// 0.01 but for biases and norms, gradients clipped at norm 1, batches 0, 1, 2 in turn.
OffBy TenSteps(const char* name, bool half) {
  constexpr int kSteps = 10;
  ModelFixture fixture(name, std::nullopt, half);
  Model& model = *fixture.model;
  const auto task = TaskFor(model.config(), 0);
  v1::Selector everything;
  everything.set_everything(true);
  v1::Schedule linear;
  linear.set_shape(v1::Schedule::LINEAR);
  const auto names = *SelectParameters("selector", everything, model.groups(), model.parameters());
  const std::vector<double> rates(names.size(), 5e-4);
  auto trainables = *Trainables::Create(&model.parameters(), names, rates, {});
  const TrainedGroups trained(model, names);
  OffBy worst;
  for (int step = 0; step < kSteps; ++step) {
    const FixtureBatch recorded = fixture.Batch(step % 3);
    const PackedBatch batch = ToBatch(recorded, model.config().head);
    // Several labels: the recorded units are the decisions, ours the sequences.
    const auto units =
        static_cast<double>(model.config().head == HeadKind::kLanguageModel ? batch.loss_rows.size()
                                                                            : batch.rows.size());
    const torch::Tensor loss =
        task->LossSum(&model, batch, trained, DropoutKey(), nullptr, nullptr) / units;
    loss.backward();
    const double norm = trainables->GradientNorms().all;
    EXPECT_TRUE(trainables->CheckComplete().ok());
    trainables->Update(RateShare(linear, step, kSteps),
                       {.weight_decay = 0.01, .gradient_scale = std::min(1.0, 1 / (norm + 1e-6))});
    const double expected_loss = fixture.json["train"]["losses"][step];
    const double expected_norm = fixture.json["train"]["grad_norm_before_clip"][step];
    worst.loss = std::max(worst.loss, std::abs(loss.item<double>() / expected_loss - 1));
    worst.gradient_norm = std::max(worst.gradient_norm, std::abs(norm / expected_norm - 1));
  }
  std::printf(
      "[ FIGURE   ] %s%s, ten steps: losses differ by at most %.1e, gradient norms by %.1e\n", name,
      half ? " in bf16" : "", worst.loss, worst.gradient_norm);
  return worst;
}

class Parity : public ::testing::TestWithParam<const char*> {};

TEST_P(Parity, TenStepsAreThoseOfTransformers) {
  const OffBy worst = TenSteps(GetParam(), /*half=*/false);
  EXPECT_LT(worst.loss, 1e-5);
  EXPECT_LT(worst.gradient_norm, 1e-4);
}

// Of its fp32: what rounding changes, and not more.
TEST_P(Parity, TenStepsInBf16AreNearThoseOfTransformers) {
  const OffBy worst = TenSteps(GetParam(), /*half=*/true);
  EXPECT_LT(worst.loss, 2e-2);
  EXPECT_LT(worst.gradient_norm, 0.2);
  EXPECT_GT(worst.loss, 1e-6) << "nothing was rounded";
}

INSTANTIATE_TEST_SUITE_P(Tasks, Parity,
                         ::testing::Values("bert-cls", "bert-regression", "distilbert-multilabel",
                                           "roberta-cls", "gpt2-cls", "llama-cls", "gpt2", "llama",
                                           "mistral", "qwen2", "qwen3", "bloom-5heads", "t5",
                                           "t5-v1.1"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' || c == '.' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace thaw
