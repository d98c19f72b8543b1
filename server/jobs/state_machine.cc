#include "server/jobs/state_machine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {
namespace {

using v1::AttemptEnd;
using v1::Failure;
using v1::Job;

constexpr int kMaxMicroStepDivisor = 1 << 16;
constexpr char kHeldReason[] =
    "the server's disk is short: delete artifacts that nobody needs or ask the operator for room; "
    "the job goes on by itself when there is some";

Failure MakeFailure(Failure::Blame blame, const std::string& reason, const std::string& message,
                    int64_t step) {
  Failure failure;
  failure.set_blame(blame);
  failure.set_reason(reason);
  failure.set_message(message);
  failure.set_step(step);
  return failure;
}

// One input being applied: `decision` is what comes out.
class Transition {
 public:
  Transition(const JobLife& life, const v1::RetryLimits& limits, const JobInput& input)
      : limits_(limits), input_(input) {
    decision_.life = life;
  }

  JobDecision Apply() {
    const Job::State state = decision_.life.state;
    switch (input_.kind) {
      case JobInput::kAssign:
        if (state != Job::QUEUED) return Refuse("only a QUEUED job is given to a worker");
        MoveTo(Job::STARTING, absl::StrCat("worker ", input_.worker, " fetches its inputs"));
        break;
      case JobInput::kRunning:
        if (!HasLiveAttempt(state)) return RefuseStale();
        BeRunning();
        break;
      case JobInput::kCommitCheckpoint:
        if (!MayPublish()) return RefusePublication();
        BeRunning();
        decision_.life.losses_in_a_row = 0;
        break;
      case JobInput::kCommitResult:
        if (!MayPublish()) return RefusePublication();
        BeRunning();
        EndWith(Job::SUCCEEDED, "its result is published");
        break;
      case JobInput::kAttemptEnd:
        if (!HasLiveAttempt(state)) return RefuseStale();
        if (state == Job::CANCELLING) {
          EndWith(Job::CANCELLED, "cancelled; its trainer has stopped");
        } else {
          EndAttempt();
        }
        break;
      case JobInput::kAttemptLost:
        if (!HasLiveAttempt(state)) return RefuseStale();
        if (state == Job::CANCELLING) {
          EndWith(Job::CANCELLED, absl::StrCat("cancelled; ", input_.detail));
        } else {
          Lose(input_.detail);
        }
        break;
      case JobInput::kOfferWithdrawn:
        if (state == Job::CANCELLING) {
          EndWith(Job::CANCELLED, "cancelled before it began");
        } else if (state == Job::STARTING) {
          EndWith(Job::QUEUED, "its worker went before it was told of the job");
        } else {
          return Refuse("only an attempt that never began can be withdrawn");
        }
        break;
      case JobInput::kReattach:
        if (state != Job::QUEUED) return Refuse("only a QUEUED job takes a lost attempt back");
        decision_.life.losses_in_a_row = std::max(0, decision_.life.losses_in_a_row - 1);
        MoveTo(Job::STARTING, absl::StrCat("worker ", input_.worker, " is back with its attempt"));
        break;
      case JobInput::kCancel:
        return Cancel();
      case JobInput::kPause:
        return Pause();
      case JobInput::kResume:
        if (state != Job::PAUSED) return Refuse("only a PAUSED job can be resumed");
        MoveTo(Job::QUEUED, "resumed");
        break;
      case JobInput::kHold:
        return Hold();
      case JobInput::kRelease:
        if (state != Job::PAUSED || !decision_.life.held) {
          return Refuse("only a job that the server has paused goes on by itself");
        }
        MoveTo(Job::QUEUED, "the server's disk has room again");
        break;
    }
    return std::move(decision_);
  }

 private:
  void MoveTo(Job::State to, const std::string& reason) {
    decision_.steps.push_back({decision_.life.state, to, reason, std::nullopt});
    decision_.life.state = to;
    if (to != Job::PAUSING && to != Job::PAUSED) decision_.life.held = false;
  }
  // PAUSED says why it is if the server wanted it.
  std::string PausedReason(const std::string& otherwise) const {
    return decision_.life.held ? kHeldReason : otherwise;
  }
  void EndWith(Job::State to, const std::string& reason) {
    MoveTo(to, reason);
    decision_.attempt_over = true;
  }
  void Fail(Failure failure) {
    EndWith(Job::FAILED, failure.message());
    decision_.steps.back().failure = std::move(failure);
  }
  void BeRunning() {
    if (decision_.life.state == Job::STARTING) MoveTo(Job::RUNNING, "its trainer works");
  }

  JobDecision Refuse(absl::string_view why) {
    decision_.status = absl::FailedPreconditionError(
        absl::StrCat("the job is ", Job::State_Name(decision_.life.state), ": ", why));
    return std::move(decision_);
  }
  JobDecision RefuseStale() {
    decision_.status = WithReason(absl::FailedPreconditionError(absl::StrCat(
                                      "the attempt is not the job's any more, which is ",
                                      Job::State_Name(decision_.life.state))),
                                  "ATTEMPT_STALE");
    return std::move(decision_);
  }
  bool MayPublish() const {
    return HasLiveAttempt(decision_.life.state) && decision_.life.state != Job::CANCELLING;
  }
  JobDecision RefusePublication() {
    if (decision_.life.state != Job::CANCELLING) return RefuseStale();
    Refuse("nothing is published any more");
    decision_.status = WithReason(decision_.status, "JOB_CANCELLED");
    return std::move(decision_);
  }

  JobDecision Cancel() {
    const Job::State state = decision_.life.state;
    if (state == Job::SUCCEEDED || state == Job::FAILED) return Refuse("it has ended");
    if (state == Job::CANCELLING || state == Job::CANCELLED) return std::move(decision_);
    if (HasLiveAttempt(state)) {
      MoveTo(Job::CANCELLING, "cancelled; its trainer is being stopped");
    } else {
      MoveTo(Job::CANCELLED, "cancelled");
    }
    return std::move(decision_);
  }

  JobDecision Pause() {
    const Job::State state = decision_.life.state;
    if (IsTerminal(state)) return Refuse("it has ended");
    if (state == Job::CANCELLING) return Refuse("it is being cancelled");
    if (state == Job::RUNNING) {
      MoveTo(Job::PAUSING, "its trainer writes a checkpoint");
    } else if (state == Job::STARTING) {
      EndWith(Job::PAUSED, "paused before it began");
    } else if (state == Job::QUEUED) {
      MoveTo(Job::PAUSED, "paused while it was queued");
    } else if (decision_.life.held) {
      decision_.life.held = false;
      decision_.reason = state == Job::PAUSING ? "its trainer writes a checkpoint" : "paused";
    }
    return std::move(decision_);
  }

  JobDecision Hold() {
    const Job::State state = decision_.life.state;
    if (state != Job::STARTING && state != Job::RUNNING) {
      return Refuse("only a job that a worker has is held");
    }
    decision_.life.held = true;
    if (state == Job::RUNNING) {
      MoveTo(Job::PAUSING, absl::StrCat("its trainer writes a checkpoint: ", kHeldReason));
    } else {
      EndWith(Job::PAUSED, kHeldReason);
    }
    return std::move(decision_);
  }

  void EndAttempt() {
    const AttemptEnd& end = input_.end;
    const bool pausing = decision_.life.state == Job::PAUSING;
    switch (end.outcome()) {
      case AttemptEnd::FAILED:
        if (end.failure().blame() == Failure::INFRASTRUCTURE) return Lose(end.failure().message());
        return Fail(Complete(end.failure(), Failure::INTERNAL, "FAILED", "the attempt failed"));
      case AttemptEnd::CRASHED:
        return Crash(
            Complete(end.failure(), Failure::INTERNAL, "TRAINER_CRASHED", "the trainer crashed"));
      case AttemptEnd::OUT_OF_MEMORY:
        return RunOutOfMemory(Complete(end.failure(), Failure::RESOURCE, "OUT_OF_MEMORY",
                                       "the trainer ran out of memory"));
      case AttemptEnd::SUCCEEDED:
        // Success is a published result; one that was published has ended the attempt already.
        return Crash(MakeFailure(Failure::INTERNAL, "RESULT_MISSING",
                                 "the attempt ended without publishing its result", end.step()));
      case AttemptEnd::PAUSED:
        if (pausing) return EndWith(Job::PAUSED, PausedReason("paused; its checkpoint is kept"));
        return Lose("it stopped with a checkpoint");
      case AttemptEnd::HANDED_BACK:
        return Lose(absl::StrCat("worker ", input_.worker, " handed it back"));
      default:
        return Lose("it was stopped");
    }
  }

  Failure Complete(Failure failure, Failure::Blame blame, const std::string& reason,
                   const std::string& message) const {
    if (failure.blame() == Failure::BLAME_UNSPECIFIED) failure.set_blame(blame);
    if (failure.reason().empty()) failure.set_reason(reason);
    if (failure.message().empty()) failure.set_message(message);
    if (failure.step() == 0) failure.set_step(input_.end.step());
    return failure;
  }

  // Whether another attempt could add nothing: then the job fails here.
  bool RuntimeIsUp() {
    if (!input_.runtime_used_up || input_.has_checkpoint) return false;
    Fail(MakeFailure(Failure::RESOURCE, "MAX_RUNTIME",
                     "max_runtime has passed and no checkpoint was written: allow more time or "
                     "write checkpoints more often",
                     input_.end.step()));
    return true;
  }

  void TryAgain(const std::string& reason, int backoff) {
    if (decision_.life.state == Job::PAUSING) {
      return EndWith(Job::PAUSED, PausedReason(absl::StrCat("paused; ", reason)));
    }
    if (RuntimeIsUp()) return;
    EndWith(Job::QUEUED, absl::StrCat(reason, "; it will be tried again"));
    decision_.backoff = backoff;
  }

  void Lose(const std::string& how) {
    if (decision_.life.state == Job::PAUSING) return TryAgain(how, 0);
    const int losses = ++decision_.life.losses_in_a_row;
    if (losses >= std::max(1, LossLimit(limits_))) {
      return Fail(
          MakeFailure(Failure::INFRASTRUCTURE, "ATTEMPTS_LOST",
                      absl::StrCat(losses, losses == 1 ? " attempt was" : " attempts in a row were",
                                   " lost without a new checkpoint; the last: ", how),
                      input_.end.step()));
    }
    TryAgain(how, losses);
  }

  void Crash(Failure failure) {
    JobLife& life = decision_.life;
    const int crashes = ++life.crashes;
    const int64_t before = std::exchange(life.last_crash_step, input_.end.step());
    if (crashes > CrashLimit(limits_)) return Fail(std::move(failure));
    if (before > 0 && before == life.last_crash_step) {
      failure.set_message(
          absl::StrCat(failure.message(), " (for the second time at optimizer step ", before, ")"));
      return Fail(std::move(failure));
    }
    TryAgain(failure.message(), crashes);
  }

  void RunOutOfMemory(Failure failure) {
    JobLife& life = decision_.life;
    if (++life.out_of_memory > OutOfMemoryLimit(limits_)) return Fail(std::move(failure));
    life.micro_step_divisor = std::min(life.micro_step_divisor * 2, kMaxMicroStepDivisor);
    TryAgain(failure.message(), 0);
    if (life.state == Job::FAILED) return;
    v1::Warning warning;
    warning.set_reason("MICRO_STEP_HALVED");
    warning.set_message(absl::StrCat(
        "out of memory: from here on tokens_per_micro_step is divided by ", life.micro_step_divisor,
        " with as much more accumulation, so later steps are no longer bit-identical to a run "
        "without it"));
    decision_.warning = std::move(warning);
  }

  const v1::RetryLimits& limits_;
  const JobInput& input_;
  JobDecision decision_;
};

}  // namespace

JobDecision Decide(const JobLife& life, const v1::RetryLimits& limits, const JobInput& input) {
  return Transition(life, limits, input).Apply();
}

bool IsTerminal(Job::State state) {
  return state == Job::SUCCEEDED || state == Job::FAILED || state == Job::CANCELLED;
}

bool HasLiveAttempt(Job::State state) {
  return state == Job::STARTING || state == Job::RUNNING || state == Job::PAUSING ||
         state == Job::CANCELLING;
}

bool IsLegal(Job::State from, Job::State to) {
  switch (from) {
    case Job::STATE_UNSPECIFIED:
      return to == Job::QUEUED;
    case Job::QUEUED:
      return to == Job::STARTING || to == Job::PAUSED || to == Job::CANCELLED;
    case Job::STARTING:
      return to == Job::RUNNING || to == Job::QUEUED || to == Job::PAUSED ||
             to == Job::CANCELLING || to == Job::FAILED;
    case Job::RUNNING:
      return to == Job::SUCCEEDED || to == Job::FAILED || to == Job::QUEUED || to == Job::PAUSING ||
             to == Job::CANCELLING;
    case Job::PAUSING:
      return to == Job::PAUSED || to == Job::SUCCEEDED || to == Job::FAILED ||
             to == Job::CANCELLING;
    case Job::PAUSED:
      return to == Job::QUEUED || to == Job::CANCELLED;
    case Job::CANCELLING:
      return to == Job::CANCELLED;
    default:
      return false;
  }
}

int CrashLimit(const v1::RetryLimits& limits) {
  return limits.has_crashes() ? limits.crashes() : 3;
}
int OutOfMemoryLimit(const v1::RetryLimits& limits) {
  return limits.has_out_of_memory() ? limits.out_of_memory() : 1;
}
int LossLimit(const v1::RetryLimits& limits) {
  return limits.has_losses_in_a_row() ? limits.losses_in_a_row() : 5;
}

}  // namespace thaw
