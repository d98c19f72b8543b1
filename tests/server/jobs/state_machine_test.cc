#include "server/jobs/state_machine.h"

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using v1::AttemptEnd;
using v1::Failure;
using v1::Job;

constexpr Job::State kAllStates[] = {Job::QUEUED,    Job::STARTING, Job::RUNNING,
                                     Job::PAUSING,   Job::PAUSED,   Job::CANCELLING,
                                     Job::SUCCEEDED, Job::FAILED,   Job::CANCELLED};

JobInput End(AttemptEnd::Outcome outcome, Failure::Blame blame = Failure::BLAME_UNSPECIFIED,
             int64_t step = 0) {
  JobInput input{.kind = JobInput::kAttemptEnd, .worker = "w"};
  input.end.set_outcome(outcome);
  input.end.mutable_failure()->set_blame(blame);
  input.end.set_step(step);
  return input;
}

struct NamedInput {
  std::string name;
  JobInput input;
};
std::vector<NamedInput> AllInputs() {
  return {{"assign", {.kind = JobInput::kAssign, .worker = "w"}},
          {"running", {.kind = JobInput::kRunning}},
          {"checkpoint", {.kind = JobInput::kCommitCheckpoint}},
          {"result", {.kind = JobInput::kCommitResult}},
          {"end succeeded", End(AttemptEnd::SUCCEEDED)},
          {"end failed by user", End(AttemptEnd::FAILED, Failure::USER)},
          {"end failed by infrastructure", End(AttemptEnd::FAILED, Failure::INFRASTRUCTURE)},
          {"end stopped", End(AttemptEnd::STOPPED)},
          {"end paused", End(AttemptEnd::PAUSED)},
          {"end handed back", End(AttemptEnd::HANDED_BACK)},
          {"end crashed", End(AttemptEnd::CRASHED)},
          {"end out of memory", End(AttemptEnd::OUT_OF_MEMORY)},
          {"lost", {.kind = JobInput::kAttemptLost, .detail = "gone"}},
          {"withdrawn", {.kind = JobInput::kOfferWithdrawn}},
          {"reattach", {.kind = JobInput::kReattach, .worker = "w"}},
          {"cancel", {.kind = JobInput::kCancel}},
          {"pause", {.kind = JobInput::kPause}},
          {"resume", {.kind = JobInput::kResume}},
          {"hold", {.kind = JobInput::kHold}},
          {"release", {.kind = JobInput::kRelease}}};
}

// "Q" … one letter a state after the input, "-" if the input is refused.
char Letter(Job::State state) {
  switch (state) {
    case Job::QUEUED:
      return 'Q';
    case Job::STARTING:
      return 'S';
    case Job::RUNNING:
      return 'R';
    case Job::PAUSING:
      return 'p';
    case Job::PAUSED:
      return 'P';
    case Job::CANCELLING:
      return 'c';
    case Job::SUCCEEDED:
      return '+';
    case Job::FAILED:
      return 'F';
    case Job::CANCELLED:
      return 'C';
    default:
      return '?';
  }
}

// Every state with every input, with all budgets untouched. Columns as in kAllStates.
TEST(StateMachine, EveryStateWithEveryInput) {
  const std::map<std::string, std::string> expected = {
      //                                  QSRpPc+FC
      {"assign", "S--------"},
      {"running", "-RRp-c---"},
      {"checkpoint", "-RRp-----"},
      {"result", "-+++-----"},
      {"end succeeded", "-QQP-C---"},
      {"end failed by user", "-FFF-C---"},
      {"end failed by infrastructure", "-QQP-C---"},
      {"end stopped", "-QQP-C---"},
      {"end paused", "-QQP-C---"},
      {"end handed back", "-QQP-C---"},
      {"end crashed", "-QQP-C---"},
      {"end out of memory", "-QQP-C---"},
      {"lost", "-QQP-C---"},
      {"withdrawn", "-Q---C---"},
      {"reattach", "S--------"},
      {"cancel", "CcccCc--C"},
      {"pause", "PPppP----"},
      {"resume", "----Q----"},
      {"hold", "-Pp------"},
      {"release", "---------"},
  };
  for (const NamedInput& named : AllInputs()) {
    std::string actual;
    for (Job::State state : kAllStates) {
      JobLife life;
      life.state = state;
      const JobDecision decision = Decide(life, v1::RetryLimits(), named.input);
      if (!decision.status.ok()) {
        EXPECT_EQ(decision.life, life) << "refused, yet changed";
        EXPECT_TRUE(decision.steps.empty());
        EXPECT_FALSE(decision.attempt_over);
      }
      actual += decision.status.ok() ? Letter(decision.life.state) : '-';
    }
    ASSERT_TRUE(expected.count(named.name)) << named.name;
    EXPECT_EQ(actual, expected.at(named.name)) << named.name;
  }
}

// A job that the server has paused, while its trainer writes a checkpoint or after that.
JobLife Held(Job::State state) {
  JobLife life;
  life.state = state;
  life.held = true;
  return life;
}

TEST(StateMachine, WhatTheServerPausedGoesOnByItself) {
  JobLife life;
  life.state = Job::RUNNING;
  const JobDecision hold = Decide(life, {}, {.kind = JobInput::kHold});
  EXPECT_EQ(hold.life, Held(Job::PAUSING));
  EXPECT_NE(hold.steps[0].reason.find("disk is short"), std::string::npos);
  for (const JobInput& input : {End(AttemptEnd::PAUSED), End(AttemptEnd::CRASHED),
                                JobInput{.kind = JobInput::kAttemptLost, .detail = "gone"}}) {
    const JobDecision paused = Decide(hold.life, {}, input);
    EXPECT_EQ(paused.life.state, Job::PAUSED);
    EXPECT_TRUE(paused.life.held);
    EXPECT_NE(paused.steps[0].reason.find("goes on by itself"), std::string::npos);
    const JobDecision released = Decide(paused.life, {}, {.kind = JobInput::kRelease});
    EXPECT_EQ(released.life.state, Job::QUEUED);
    EXPECT_FALSE(released.life.held);
  }
  EXPECT_FALSE(Decide(hold.life, {}, {.kind = JobInput::kRelease}).status.ok())
      << "its checkpoint is still being written";
}

TEST(StateMachine, AUserTakesOverWhatTheServerPaused) {
  for (const Job::State state : {Job::PAUSING, Job::PAUSED}) {
    const JobDecision paused = Decide(Held(state), {}, {.kind = JobInput::kPause});
    ASSERT_TRUE(paused.status.ok());
    EXPECT_TRUE(paused.steps.empty());
    EXPECT_EQ(paused.life.state, state);
    EXPECT_FALSE(paused.life.held);
    ASSERT_TRUE(paused.reason.has_value());
    EXPECT_EQ(paused.reason->find("disk"), std::string::npos);
  }
  const JobDecision resumed = Decide(Held(Job::PAUSED), {}, {.kind = JobInput::kResume});
  EXPECT_EQ(resumed.life.state, Job::QUEUED);
  EXPECT_FALSE(resumed.life.held);
  // And what a user has paused is no concern of the server's.
  JobLife paused;
  paused.state = Job::PAUSED;
  EXPECT_FALSE(Decide(paused, {}, {.kind = JobInput::kHold}).status.ok());
  EXPECT_FALSE(Decide(paused, {}, {.kind = JobInput::kRelease}).status.ok());
}

TEST(StateMachine, TerminalStatesAreLeftByNothing) {
  for (Job::State from : kAllStates) {
    for (Job::State to : kAllStates) {
      if (IsTerminal(from)) {
        EXPECT_FALSE(IsLegal(from, to));
      }
      EXPECT_FALSE(IsLegal(from, from)) << Job::State_Name(from);
    }
  }
}

// A job at work, driven through many inputs.
class Life {
 public:
  explicit Life(v1::RetryLimits limits = {}) : limits_(std::move(limits)) {}
  JobDecision Apply(const JobInput& input) {
    JobDecision decision = Decide(life_, limits_, input);
    life_ = decision.life;
    return decision;
  }
  // Gives it a worker and lets it run until `input`.
  JobDecision RunUntil(const JobInput& input) {
    Apply({.kind = JobInput::kAssign, .worker = "w"});
    Apply({.kind = JobInput::kRunning});
    return Apply(input);
  }
  const JobLife& life() const { return life_; }

 private:
  v1::RetryLimits limits_;
  JobLife life_;
};

const JobInput kLost = {.kind = JobInput::kAttemptLost, .worker = "w", .detail = "gone"};

TEST(StateMachine, FiveLossesInARowEndTheJob) {
  Life job;
  for (int i = 1; i <= 4; ++i) {
    const JobDecision decision = job.RunUntil(kLost);
    EXPECT_EQ(decision.life.state, Job::QUEUED);
    EXPECT_EQ(decision.backoff, i);
    EXPECT_TRUE(decision.attempt_over);
  }
  const JobDecision last = job.RunUntil(kLost);
  EXPECT_EQ(last.life.state, Job::FAILED);
  EXPECT_EQ(last.steps.back().failure->reason(), "ATTEMPTS_LOST");
  EXPECT_EQ(last.steps.back().failure->blame(), Failure::INFRASTRUCTURE);
}

TEST(StateMachine, ACheckpointBreaksTheRowOfLosses) {
  Life job;
  for (int i = 0; i < 20; ++i) {
    job.RunUntil({.kind = JobInput::kCommitCheckpoint});
    EXPECT_EQ(job.Apply(kLost).life.state, Job::QUEUED) << i;
  }
}

TEST(StateMachine, ReattachingTakesTheLossBack) {
  Life job;
  for (int i = 0; i < 20; ++i) {
    job.RunUntil(kLost);
    EXPECT_EQ(job.Apply({.kind = JobInput::kReattach, .worker = "w"}).life.state, Job::STARTING);
    EXPECT_EQ(job.life().losses_in_a_row, 0);
    job.Apply({.kind = JobInput::kRunning});
    job.Apply({.kind = JobInput::kPause});
    job.Apply(End(AttemptEnd::PAUSED));
    job.Apply({.kind = JobInput::kResume});
  }
}

TEST(StateMachine, TheFourthCrashEndsTheJob) {
  Life job;
  for (int i = 1; i <= 3; ++i) {
    EXPECT_EQ(job.RunUntil(End(AttemptEnd::CRASHED, Failure::INTERNAL, i)).life.state, Job::QUEUED);
  }
  const JobDecision last = job.RunUntil(End(AttemptEnd::CRASHED, Failure::INTERNAL, 4));
  EXPECT_EQ(last.life.state, Job::FAILED);
  EXPECT_EQ(last.steps.back().failure->reason(), "TRAINER_CRASHED");
  EXPECT_EQ(last.steps.back().failure->step(), 4);
}

TEST(StateMachine, ASecondCrashAtTheSameStepEndsTheJob) {
  Life job;
  EXPECT_EQ(job.RunUntil(End(AttemptEnd::CRASHED, Failure::INTERNAL, 7)).life.state, Job::QUEUED);
  EXPECT_EQ(job.RunUntil(End(AttemptEnd::CRASHED, Failure::INTERNAL, 7)).life.state, Job::FAILED);
}

TEST(StateMachine, CrashesBeforeTheFirstStepAreNotAtOneStep) {
  Life job;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(job.RunUntil(End(AttemptEnd::CRASHED)).life.state, Job::QUEUED);
  }
  EXPECT_EQ(job.RunUntil(End(AttemptEnd::CRASHED)).life.state, Job::FAILED);
}

TEST(StateMachine, OutOfMemoryHalvesTheMicroStepOnce) {
  Life job;
  const JobDecision first = job.RunUntil(End(AttemptEnd::OUT_OF_MEMORY));
  EXPECT_EQ(first.life.state, Job::QUEUED);
  EXPECT_EQ(first.life.micro_step_divisor, 2);
  EXPECT_EQ(first.backoff, 0);
  ASSERT_TRUE(first.warning.has_value());
  EXPECT_EQ(first.warning->reason(), "MICRO_STEP_HALVED");
  const JobDecision second = job.RunUntil(End(AttemptEnd::OUT_OF_MEMORY));
  EXPECT_EQ(second.life.state, Job::FAILED);
  EXPECT_FALSE(second.warning.has_value());
  EXPECT_EQ(second.steps.back().failure->blame(), Failure::RESOURCE);
}

TEST(StateMachine, LimitsOfTheSpecCount) {
  v1::RetryLimits limits;
  limits.set_crashes(0);
  limits.set_out_of_memory(2);
  limits.set_losses_in_a_row(1);
  EXPECT_EQ(Life(limits).RunUntil(End(AttemptEnd::CRASHED)).life.state, Job::FAILED);
  EXPECT_EQ(Life(limits).RunUntil(kLost).life.state, Job::FAILED);
  Life job(limits);
  job.RunUntil(End(AttemptEnd::OUT_OF_MEMORY));
  EXPECT_EQ(job.RunUntil(End(AttemptEnd::OUT_OF_MEMORY)).life.micro_step_divisor, 4);
  EXPECT_EQ(job.life().state, Job::QUEUED);
}

TEST(StateMachine, MaxRuntimeEndsAJobWithoutACheckpoint) {
  JobInput lost = kLost;
  lost.runtime_used_up = true;
  const JobDecision without = Life().RunUntil(lost);
  EXPECT_EQ(without.life.state, Job::FAILED);
  EXPECT_EQ(without.steps.back().failure->reason(), "MAX_RUNTIME");
  // With one, another attempt publishes the best so far.
  lost.has_checkpoint = true;
  EXPECT_EQ(Life().RunUntil(lost).life.state, Job::QUEUED);
}

TEST(StateMachine, CrashWhilePausingStillCounts) {
  v1::RetryLimits limits;
  limits.set_crashes(0);
  Life job(limits);
  job.RunUntil({.kind = JobInput::kPause});
  EXPECT_EQ(job.Apply(End(AttemptEnd::CRASHED)).life.state, Job::FAILED);
}

TEST(StateMachine, PublishingIsRefusedWithTheRightReason) {
  Life job;
  job.RunUntil({.kind = JobInput::kCancel});
  EXPECT_EQ(ReasonOf(job.Apply({.kind = JobInput::kCommitResult}).status), "JOB_CANCELLED");
  EXPECT_EQ(ReasonOf(job.Apply({.kind = JobInput::kCommitCheckpoint}).status), "JOB_CANCELLED");
  job.Apply(kLost);
  EXPECT_EQ(ReasonOf(job.Apply({.kind = JobInput::kCommitResult}).status), "ATTEMPT_STALE");
}

TEST(StateMachine, AResultBeforeTheFirstReportPassesThroughRunning) {
  Life job;
  job.Apply({.kind = JobInput::kAssign, .worker = "w"});
  const JobDecision decision = job.Apply({.kind = JobInput::kCommitResult});
  ASSERT_EQ(decision.steps.size(), 2u);
  EXPECT_EQ(decision.steps[0].to, Job::RUNNING);
  EXPECT_EQ(decision.steps[1].to, Job::SUCCEEDED);
}

// Whatever comes in whatever order: legal histories, one end, live attempts only where they belong.
TEST(StateMachine, RandomWalksKeepEveryPromise) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const std::vector<NamedInput> inputs = AllInputs();
  std::set<Job::State> reached;
  for (int walk = 0; walk < 3'000; ++walk) {
    v1::RetryLimits limits;
    limits.set_crashes(random() % 4);
    limits.set_losses_in_a_row(random() % 6);
    JobLife life;
    int ends = 0;
    for (int step = 0; step < 60; ++step) {
      JobInput input = inputs[random() % inputs.size()].input;
      input.end.set_step(random() % 3);
      input.runtime_used_up = random() % 8 == 0;
      input.has_checkpoint = random() % 2 == 0;
      const JobDecision decision = Decide(life, limits, input);
      Job::State state = life.state;
      for (const JobStep& taken : decision.steps) {
        ASSERT_EQ(taken.from, state);
        ASSERT_TRUE(IsLegal(state, taken.to))
            << Job::State_Name(state) << " to " << Job::State_Name(taken.to);
        ASSERT_EQ(taken.failure.has_value(), taken.to == Job::FAILED);
        ASSERT_FALSE(taken.reason.empty());
        if (state == Job::CANCELLING) {
          ASSERT_EQ(taken.to, Job::CANCELLED);
        }
        state = taken.to;
        ends += IsTerminal(state) ? 1 : 0;
      }
      ASSERT_EQ(decision.life.state, state);
      ASSERT_EQ(decision.attempt_over, HasLiveAttempt(life.state) && !HasLiveAttempt(state));
      if (decision.backoff > 0) {
        ASSERT_EQ(state, Job::QUEUED);
      }
      life = decision.life;
      reached.insert(state);
    }
    ASSERT_LE(ends, 1);
  }
  EXPECT_EQ(reached.size(), std::size(kAllStates));
}

}  // namespace
}  // namespace thaw
