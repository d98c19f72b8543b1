#include "absl/strings/str_cat.h"
#include "common/spec/spec.h"
#include "common/spec/spec_problems.h"

namespace thaw {
namespace {

constexpr int kMostReplayed = 10'000;

void ValidateAction(absl::string_view field, const v1::Steering& action, SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  const auto expect_true = [&](absl::string_view name, bool value) {
    if (!value) problems->Add(at(name), "is false; set it to true or give another action");
  };
  switch (action.action_case()) {
    case v1::Steering::kCheckpoint:
      return expect_true("checkpoint", action.checkpoint());
    case v1::Steering::kNextPhase:
      return expect_true("next_phase", action.next_phase());
    case v1::Steering::kStop:
      return expect_true("stop", action.stop());
    case v1::Steering::kScaleRate:
      return problems->ExpectWithin(at("scale_rate"), action.scale_rate(), {0.001, 1000});
    case v1::Steering::kExtendEpochs:
      return problems->ExpectWithin(at("extend_epochs"), action.extend_epochs(),
                                    {.low = 0, .high = 1000, .without_low = true});
    case v1::Steering::kExtendSteps:
      return problems->ExpectWithin(at("extend_steps"), action.extend_steps(), 1, 10'000'000);
    case v1::Steering::ACTION_NOT_SET:
      problems->Add(field,
                    "names nothing to do; give checkpoint, next_phase, scale_rate, "
                    "extend_epochs, extend_steps or stop");
  }
}

}  // namespace

absl::Status ValidateSteering(const v1::Steering& action) {
  SpecProblems problems;
  ValidateAction("action", action, &problems);
  return problems.ToStatus();
}

void ValidateReplay(absl::string_view field, const v1::Training& training, SpecProblems* problems) {
  if (training.replay_size() > kMostReplayed) {
    problems->Add(field, absl::StrCat("has ", training.replay_size(), " entries; give at most ",
                                      kMostReplayed));
    return;
  }
  int64_t before = 1;
  for (int i = 0; i < training.replay_size(); ++i) {
    const v1::SteeredStep& entry = training.replay(i);
    const std::string at = absl::StrCat(field, "[", i, "]");
    if (entry.step() < before) {
      problems->Add(absl::StrCat(at, ".step"),
                    absl::StrCat(entry.step(), " is below ", before,
                                 "; give steps from 1, in the order in which they are done"));
    } else {
      before = entry.step();
    }
    ValidateAction(absl::StrCat(at, ".action"), entry.action(), problems);
  }
}

}  // namespace thaw
