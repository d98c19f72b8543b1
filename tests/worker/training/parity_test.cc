// Ten optimizer steps through our own parts against the trace that transformers left.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "absl/strings/match.h"
#include "tests/worker/model/model_fixture.h"
#include "worker/model/ops.h"
#include "worker/training/forward.h"
#include "worker/tuning/schedule.h"
#include "worker/tuning/selector.h"
#include "worker/tuning/trainables.h"

namespace thaw {
namespace {

std::vector<int64_t> Numbers(const torch::Tensor& tensor) {
  const torch::Tensor ids = tensor.contiguous();
  return {ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel()};
}

PackedBatch ToBatch(const FixtureBatch& fixture) {
  PackedBatch batch;
  batch.token_ids = Numbers(fixture.packed.token_ids);
  batch.cu_seqlens = fixture.packed.cu_seqlens;
  batch.labels = Numbers(fixture.labels);
  batch.token_type_ids = fixture.packed.token_type_ids.defined()
                             ? Numbers(fixture.packed.token_type_ids)
                             : std::vector<int64_t>(batch.token_ids.size());
  for (size_t i = 0; i + 1 < batch.cu_seqlens.size(); ++i) {
    batch.rows.push_back(static_cast<int64_t>(i));
  }
  return batch;
}

// The recipe of the fixtures: AdamW at 5e-4, falling to 0 in a straight line over ten steps, decay
// 0.01 but for biases and norms, gradients clipped at norm 1, batches 0, 1, 2 in turn.
TEST(Parity, TenStepsAreThoseOfTransformers) {
  constexpr int kSteps = 10;
  ModelFixture fixture("bert-cls", std::nullopt);
  Model& model = *fixture.model;
  v1::Selector everything;
  everything.set_everything(true);
  v1::Schedule linear;
  linear.set_shape(v1::Schedule::LINEAR);
  const auto names = *SelectParameters(everything, model.groups());
  const GroupRates rates(model.groups().size(), 5e-4);
  auto trainables = *Trainables::Create(&model.parameters(), names, rates, {});
  const TrainedGroups trained(model, names);
  double worst_loss = 0, worst_norm = 0;
  for (int step = 0; step < kSteps; ++step) {
    const PackedBatch batch = ToBatch(fixture.Batch(step % 3));
    const auto units = static_cast<double>(batch.labels.size());
    const torch::Tensor loss =
        CrossEntropySum(Logits(&model, batch, trained, DropoutKey()), Labels(batch)) / units;
    loss.backward();
    const double norm = trainables->Norms().all;
    ASSERT_TRUE(trainables->CheckComplete().ok());
    trainables->Update(RateShare(linear, step, kSteps),
                       {.weight_decay = 0.01, .gradient_scale = std::min(1.0, 1 / (norm + 1e-6))});
    const double expected_loss = fixture.json["train"]["losses"][step];
    const double expected_norm = fixture.json["train"]["grad_norm_before_clip"][step];
    worst_loss = std::max(worst_loss, std::abs(loss.item<double>() / expected_loss - 1));
    worst_norm = std::max(worst_norm, std::abs(norm / expected_norm - 1));
  }
  std::printf("[ FIGURE   ] ten steps: losses differ by at most %.1e, gradient norms by %.1e\n",
              worst_loss, worst_norm);
  EXPECT_LT(worst_loss, 1e-5);
  EXPECT_LT(worst_norm, 1e-4);
}

}  // namespace
}  // namespace thaw
