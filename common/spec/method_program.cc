#include "common/spec/method_program.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace thaw {
namespace {

constexpr int kMostPhases = 64;
constexpr double kUlmfitDecay = 2.6;

// Chosen on the validation split of the demo's data.
struct MethodDefaults {
  Method method;
  absl::string_view name;
  double epochs;
  double learning_rate;
};
constexpr MethodDefaults kMethods[] = {{Method::kHead, "head", 2, 5e-3},
                                       {Method::kPartial, "partial", 2, 5e-4},
                                       {Method::kGradual, "gradual", 1, 1e-3},
                                       {Method::kFull, "full", 2, 1e-4}};
constexpr double kEpochsPerBlock = 0.25;

v1::Phase SlantedPhase(absl::string_view name, double learning_rate, double decay, double epochs) {
  v1::Phase phase;
  phase.set_name(std::string(name));
  phase.set_learning_rate(learning_rate);
  phase.set_learning_rate_decay(decay);
  phase.mutable_schedule()->set_shape(v1::Schedule::SLANTED_TRIANGULAR);
  phase.set_epochs(epochs);
  return phase;
}

}  // namespace

absl::StatusOr<Method> ParseMethod(absl::string_view name) {
  for (const MethodDefaults& one : kMethods) {
    if (one.name == name) return one.method;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("method \"", name, "\" is not known; give head, partial, gradual or full"));
}

std::vector<v1::Phase> MethodProgram(Method method, int blocks, const MethodOptions& options) {
  const MethodDefaults& defaults =
      *std::find_if(std::begin(kMethods), std::end(kMethods),
                    [&](const MethodDefaults& one) { return one.method == method; });
  const double rate = options.learning_rate > 0 ? options.learning_rate : defaults.learning_rate;
  const double epochs = options.epochs > 0 ? options.epochs : defaults.epochs;
  std::vector<v1::Phase> phases;
  const auto add = [&](absl::string_view name, double phase_rate, double decay, double passes) {
    phases.push_back(SlantedPhase(name, phase_rate, decay, passes));
    return phases.back().mutable_selector();
  };
  switch (method) {
    case Method::kHead:
      add("head", rate, 1, epochs)->set_head_only(true);
      break;
    case Method::kPartial: {
      const int last = options.last_blocks > 0 ? options.last_blocks : (blocks + 2) / 3;
      add(absl::StrCat("last ", last, " blocks"), rate, 1, epochs)->set_last_blocks(last);
      break;
    }
    case Method::kGradual: {
      const double passes =
          options.epochs_per_block > 0 ? options.epochs_per_block : kEpochsPerBlock;
      add("head", rate, 1, passes)->set_head_only(true);
      const int stride = (blocks + kMostPhases - 3) / (kMostPhases - 2);
      for (int last = stride; last <= blocks; last += stride) {
        add(absl::StrCat("last ", last, last == 1 ? " block" : " blocks"), rate, kUlmfitDecay,
            passes)
            ->set_last_blocks(last);
      }
      add("everything", rate, kUlmfitDecay, epochs)->set_everything(true);
      break;
    }
    case Method::kFull:
      add("everything", rate, 1, epochs)->set_everything(true);
      break;
  }
  return phases;
}

}  // namespace thaw
