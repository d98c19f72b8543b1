#include "worker/tuning/bottleneck.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/fresh_tensor.h"
#include "worker/tuning/target_modules.h"

namespace thaw {
namespace {

// Streams of the seed that nothing else has.
constexpr uint64_t kBottleneckStreams = uint64_t{1} << 21;
// As BERT's own layers are drawn.
constexpr double kDownDeviation = 0.02;

}  // namespace

absl::Status AddBottlenecks(const v1::BottleneckAdapter& adapter, uint64_t seed, Model* model) {
  const std::string field = "added_part.bottleneck";
  if (model->config().model_type == "awd_lstm") {
    return InvalidField(field, "awd_lstm has no blocks for it; train it whole");
  }
  if (adapter.reduction() < 1 || !adapter.has_scale()) {
    return InvalidField(field, "reduction and scale must be set");
  }
  const int64_t hidden = model->hidden_size();
  const int64_t width = std::max<int64_t>(1, hidden / adapter.reduction());
  uint64_t stream = kBottleneckStreams;
  const auto add = [&](int block, const char* place) {
    const auto tensor = [&](const char* name, const torch::Tensor& value) {
      return model->AddPart(absl::StrCat("block.", block, ".", place, ".", name), block + 1, value,
                            /*matrix=*/value.dim() == 2);
    };
    Bottleneck bottleneck;
    bottleneck.down =
        tensor("down.weight", NormalTensor({width, hidden}, kDownDeviation, seed, stream++));
    bottleneck.down_bias = tensor("down.bias", at::zeros({width}));
    bottleneck.up = tensor("up.weight", at::zeros({hidden, width}));
    bottleneck.up_bias = tensor("up.bias", at::zeros({hidden}));
    bottleneck.activation = adapter.place() == v1::BottleneckAdapter::HOULSBY
                                ? ActivationKind::kSilu
                                : ActivationKind::kRelu;
    bottleneck.scale = adapter.scale();
    return bottleneck;
  };
  model->added().blocks.resize(static_cast<size_t>(model->blocks()));
  for (int block = 0; block < model->blocks(); ++block) {
    AddedToBlock& added = model->added().blocks[static_cast<size_t>(block)];
    switch (adapter.place()) {
      case v1::BottleneckAdapter::PARALLEL:
        added.beside_feed_forward = add(block, "beside_feed_forward");
        break;
      case v1::BottleneckAdapter::HOULSBY:
        added.after_attention = add(block, "after_attention");
        if (model->first_decoder_block() > 0 && block >= model->first_decoder_block()) {
          added.after_cross_attention = add(block, "after_cross_attention");
        }
        [[fallthrough]];
      case v1::BottleneckAdapter::PFEIFFER:
        added.after_feed_forward = add(block, "after_feed_forward");
        break;
      default:
        return InvalidField(field + ".place", "must be set");
    }
  }
  return MarkBeside(field + ".modules_to_save", adapter.modules_to_save(), model);
}

}  // namespace thaw
