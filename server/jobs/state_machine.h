// The life of a job as a pure function: no clock, no lock, no I/O.
//
//   QUEUED -> STARTING -> RUNNING -> SUCCEEDED | FAILED        STARTING, RUNNING -> QUEUED: attempt
//   lost QUEUED, STARTING -> PAUSED    RUNNING -> PAUSING -> PAUSED -> QUEUED    PAUSING ->
//   SUCCEEDED | FAILED any unfinished -> CANCELLING -> CANCELLED; without an attempt at once to
//   CANCELLED
//
// A job that the server holds for want of disk pauses like any other and is remembered as held, so
// that only those go on by themselves; a user's pause or resume takes over.
//
// An attempt is live exactly in STARTING, RUNNING, PAUSING and CANCELLING. The first commit of a
// result wins; from CANCELLING on nothing is published; nothing follows the terminal state.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "thaw/v1/event.pb.h"
#include "thaw/v1/job.pb.h"
#include "thaw/v1/job_spec.pb.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

// What is remembered of a job between inputs.
struct JobLife {
  v1::Job::State state = v1::Job::QUEUED;
  int crashes = 0;              // of the trainer, in all
  int out_of_memory = 0;        // in all
  int losses_in_a_row = 0;      // attempts lost since the last new checkpoint
  int64_t last_crash_step = 0;  // optimizer step of the newest crash; 0: none
  int micro_step_divisor = 1;   // doubled with each out of memory
  bool held = false;            // PAUSING or PAUSED by the server for want of disk, not by a user

  bool operator==(const JobLife&) const = default;
};

// Something that happens to a job.
struct JobInput {
  enum Kind {
    kAssign,            // a worker was chosen
    kRunning,           // its trainer works
    kCommitCheckpoint,  // the live attempt publishes a checkpoint
    kCommitResult,      // the live attempt publishes the result
    kAttemptEnd,        // the live attempt ended on its worker: see `end`
    kAttemptLost,  // the live attempt is gone with its worker, or the worker does not hold it any
                   // more
    kOfferWithdrawn,  // the live attempt never reached its worker; costs no budget
    kReattach,        // a lost attempt that nothing has replaced is back
    kCancel,
    kPause,
    kResume,
    kHold,     // the server's disk is short: pause, and go on with kRelease
    kRelease,  // it has room again
  };
  Kind kind = kAssign;
  std::string worker = {};       // kAssign, kReattach, kAttemptLost, kAttemptEnd: whose attempt
  std::string detail = {};       // kAttemptLost: how, in a few words
  v1::AttemptEnd end = {};       // kAttemptEnd
  bool runtime_used_up = false;  // max_runtime has passed
  bool has_checkpoint = false;   // there is a checkpoint to go on from
};

// One transition: one StateChange event.
struct JobStep {
  v1::Job::State from = v1::Job::STATE_UNSPECIFIED;
  v1::Job::State to = v1::Job::STATE_UNSPECIFIED;
  std::string reason;                  // Job.state_reason from now on
  std::optional<v1::Failure> failure;  // when `to` is FAILED
};

struct JobDecision {
  absl::Status status;         // not OK: refused, and nothing below is set but `life`
  JobLife life;                // afterwards
  std::vector<JobStep> steps;  // in order; none if the input changes no state
  int backoff = 0;  // QUEUED again: wait for the so-manyeth doubling of the back-off; 0: at once
  bool attempt_over = false;           // the live attempt's fence holds no longer
  std::optional<v1::Warning> warning;  // to be appended to the history after the steps
  std::optional<std::string> reason;   // Job.state_reason from now on, though no step was taken
};

JobDecision Decide(const JobLife& life, const v1::RetryLimits& limits, const JobInput& input);

bool IsTerminal(v1::Job::State state);
bool HasLiveAttempt(v1::Job::State state);
// Whether `to` may follow `from` in a history. STATE_UNSPECIFIED stands before QUEUED.
bool IsLegal(v1::Job::State from, v1::Job::State to);

// Budgets with defaults filled in: crashes 3, out of memory 1, losses in a row 5.
int CrashLimit(const v1::RetryLimits& limits);
int OutOfMemoryLimit(const v1::RetryLimits& limits);
int LossLimit(const v1::RetryLimits& limits);

}  // namespace thaw
