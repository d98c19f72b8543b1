// What is done to a training while it runs: by its user, by the replay of another run, by the
// clock.
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/training/training_loop.h"

namespace thaw {

absl::Status TrainingLoop::Steer() {
  context_.control->TakeSteerings(&steerings_);
  while (const v1::SteeredStep* due = program_->DueReplay()) {
    v1::SteeringRecord done;
    *done.mutable_action() = due->action();
    TellSteering(done, program_->Replay());
    if (due->action().has_checkpoint()) THAW_RETURN_IF_ERROR(Checkpoint());
  }
  TellOfBefore();
  // One after the other: what an attempt before this one has done after a step that is still to
  // come is done first.
  while (true) {
    const auto next = steerings_.find(program_->state().steering() + 1);
    if (next == steerings_.end()) break;
    const v1::SteeringRecord& record = next->second;
    if (record.applied() && step() < record.step()) break;
    if (!program_->Takes(record.action())) break;
    const bool effect = program_->Steer(record);
    if (!record.applied()) {
      TellSteering(record, effect);
      if (record.action().has_checkpoint()) THAW_RETURN_IF_ERROR(Checkpoint());
    }
    steerings_.erase(next);
  }
  return absl::OkStatus();
}

void TrainingLoop::TellOfBefore() {
  const internal::ProgramState& state = program_->state();
  const auto end = steerings_.upper_bound(state.steering());
  std::vector<v1::SteeringRecord> untold;
  int noted = state.steered_size();
  // The newest are untold: from the last to the first each finds its own note.
  for (auto it = end; it != steerings_.begin();) {
    const v1::SteeringRecord& record = std::prev(it)->second;
    --it;
    if (record.applied()) continue;
    const std::string action = record.action().SerializeAsString();
    untold.push_back(record);
    untold.back().set_step(step());
    for (int i = noted - 1; i >= 0; --i) {
      if (state.steered(i).action().SerializeAsString() != action) continue;
      untold.back().set_step(state.steered(i).step());
      noted = i;
      break;
    }
  }
  steerings_.erase(steerings_.begin(), end);
  for (auto record = untold.rbegin(); record != untold.rend(); ++record) Tell(*record);
}

void TrainingLoop::TellSteering(const v1::SteeringRecord& done, bool effect) {
  if (!effect) {
    reporter_.Warn("PHASE_NOT_EXTENDED",
                   absl::StrCat("phase ", program_->state().phase() + 1,
                                " ends by the clock or at its optimum and cannot be made longer: "
                                "it goes on as it was"));
  }
  v1::SteeringRecord told = done;
  told.set_step(step());
  Tell(std::move(told));
}

void TrainingLoop::Tell(v1::SteeringRecord done) {
  done.set_applied(true);
  v1::Event event;
  *event.mutable_steering_applied() = std::move(done);
  reporter_.Emit(std::move(event));
}

absl::Status TrainingLoop::EndOfTime() {
  if (step() == 0) {
    return WithReason(absl::ResourceExhaustedError(
                          "max_runtime was over before the first optimizer step: give more"),
                      "MAX_RUNTIME");
  }
  reporter_.Warn("MAX_RUNTIME", absl::StrCat("max_runtime is over after optimizer step ", step(),
                                             ": the job ends with what it has"));
  ran_out_of_time_at_ = step();
  program_->StopByClock();
  return absl::OkStatus();
}

}  // namespace thaw
