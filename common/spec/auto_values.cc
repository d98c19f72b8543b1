#include "common/spec/auto_values.h"

#include <algorithm>
#include <cmath>

#include "common/spec/model_abilities.h"

namespace thaw {
namespace {

// For training all of a model at one rate.
constexpr double kBaseRate = 1e-4;
constexpr double kBaseParameters = 25e6;
constexpr double kSizeExponent = 0.4;
constexpr double kUnknownParameters = 100e6;
constexpr double kLeastRate = 1e-5, kMostRate = 2e-4;
constexpr double kRecurrentRate = 1e-3;
// A head drawn anew has all of its way before it, whatever the model's size.
constexpr double kNewHeadRate = 5e-3;
// Few parameters, or the topmost of rates that fall by ULMFiT's rule or near it.
constexpr double kPartFactor = 5, kSmallFactor = 10;
constexpr double kSteepDecay = 2;

constexpr double kRowsToSee = 8000;
constexpr double kLeastEpochs = 2, kMostEpochs = 10;
constexpr int64_t kOneEpochRows = 50'000;

// To two digits, so that people can read and repeat it.
double Rounded(double value) {
  const double unit = std::pow(10, std::floor(std::log10(value)) - 1);
  const double digits = std::round(value / unit);
  // By division where the unit is below 1: 1e-4, not 1.0000000000000001e-4.
  return unit < 1 ? digits / std::round(1 / unit) : digits * unit;
}

double FullRate(const TrainingSize& size) {
  if (size.recurrent) return kRecurrentRate;
  const double parameters =
      size.parameters > 0 ? static_cast<double>(size.parameters) : kUnknownParameters;
  return Rounded(std::clamp(kBaseRate * std::pow(kBaseParameters / parameters, kSizeExponent),
                            kLeastRate, kMostRate));
}

double RateOf(const v1::Selector& selector, bool steep, const TrainingSize& size) {
  const double full = FullRate(size);
  switch (selector.include_case()) {
    case v1::Selector::kHeadOnly:
      return size.new_head ? kNewHeadRate : kPartFactor * full;
    case v1::Selector::kLastBlocks:
      if (selector.last_blocks() == 0) return size.new_head ? kNewHeadRate : kPartFactor * full;
      return (steep ? kSmallFactor : kPartFactor) * full;
    case v1::Selector::kEverything:
      return (steep ? kSmallFactor : 1) * full;
    case v1::Selector::kKind: {
      const bool small = selector.kind() == v1::Selector::BIASES ||
                         selector.kind() == v1::Selector::NORMS ||
                         selector.kind() == v1::Selector::ADDED_PARTS;
      return (small ? kSmallFactor : 1) * full;
    }
    case v1::Selector::kAnyOf: {
      double least = 1;
      for (const v1::Selector& one : selector.any_of().values()) {
        least = std::min(least, RateOf(one, steep, size));
      }
      return least;
    }
    case v1::Selector::kNamePattern:
    case v1::Selector::INCLUDE_NOT_SET:
      break;
  }
  return full;
}

// The model's classifier answers with these labels already.
bool KeepsHead(const v1::Training& training, const v1::Artifact& model,
               const v1::Artifact* dataset) {
  // What head the model has, its summary does not say.
  if (training.has_pooled_head() || training.preset().name() == v1::Preset::FEATURES) return false;
  if (HeadOf(model.model()) != HeadAfter(training)) return false;
  if (!training.has_text_classification()) return true;
  const auto& labels = model.model().labels();
  if (dataset == nullptr || dataset->dataset().labels_size() != labels.size()) return false;
  for (int i = 0; i < labels.size(); ++i) {
    if (dataset->dataset().labels(i).label() != labels.Get(i)) return false;
  }
  return true;
}

}  // namespace

TrainingSize SizeOf(const v1::Training& training, const v1::Artifact* model,
                    const v1::Artifact* dataset) {
  TrainingSize size;
  // How many rows joined texts make is known to the tokenizer alone.
  if (dataset != nullptr && !training.has_language_modeling()) {
    size.rows = dataset->dataset().rows();
  }
  const bool classifies = training.has_text_classification() || training.has_regression();
  size.new_head = classifies && (model == nullptr || !KeepsHead(training, *model, dataset));
  if (model == nullptr) return size;
  size.recurrent = model->model().model_type() == "awd_lstm";
  size.parameters = model->model().parameters();
  return size;
}

double AutoLearningRate(const v1::Phase& phase, const TrainingSize& size) {
  return Rounded(RateOf(phase.selector(), phase.learning_rate_decay() >= kSteepDecay, size));
}

double AutoEpochs(const TrainingSize& size) {
  if (size.rows >= kOneEpochRows) return 1;
  if (size.rows == 0) return kLeastEpochs;
  const double epochs =
      std::clamp(kRowsToSee / static_cast<double>(size.rows), kLeastEpochs, kMostEpochs);
  return std::ceil(2 * epochs) / 2;
}

int AutoExamplesPerStep(const TrainingSize& size) {
  if (size.rows >= 100'000) return 64;
  if (size.rows >= 20'000) return 32;
  return size.rows >= 1000 || size.rows == 0 ? 16 : 8;
}

}  // namespace thaw
