// The state machine of a training program: which phase, when to evaluate, when a phase ends, what
// is best, and what is done to all that while it runs. Pure: no clock, no data, no tensors; its
// whole state is one message.
//
//   Program program(training, plan, has_validation);
//   while (true) switch (program.Next()) {
//     case Program::Action::kEnterPhase: … program.PhaseEntered(epoch); break;
//     case Program::Action::kTrainStep:  … program.StepDone(); break;
//     case Program::Action::kEvaluate:   best = program.EvaluationDone(values); break;
//     case Program::Action::kEndPhase:   program.PhaseEnded(); … break;
//     case Program::Action::kFinish:     return;
//   }
//
// Between any two of these calls state() can be saved; a program that is given it goes on as this
// one would.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "thaw/internal/checkpoint.pb.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// How the data is cut into steps.
struct DataSteps {
  int64_t in_epoch = 0;  // above 0
  // Steps from the beginning of `epoch` to the first one that brings the loss units to `units`.
  std::function<int64_t(int64_t epoch, int64_t units)> to_loss_units;
};

// Steps of one phase and when it evaluates.
struct PhaseLength {
  int64_t steps = 0;               // for a plateau and convergence the bound, for wall_time 0
  double evaluation_interval = 0;  // steps between evaluations, not necessarily whole
};

class Program {
 public:
  enum class Action { kEnterPhase, kTrainStep, kEvaluate, kEndPhase, kFinish };

  // `training` is resolved and must outlive the program.
  Program(const v1::Training& training, const DataSteps& data, bool has_validation);

  const internal::ProgramState& state() const { return state_; }
  // `epoch` is the pass over the data that the state lies in.
  void GoOnFrom(const internal::ProgramState& state, int64_t epoch);

  Action Next() const;

  // The phase's data begins with this pass over it, from 0.
  void PhaseEntered(int64_t epoch);
  // So much more of the phase's time has passed; to be called before a step is done and before the
  // state is saved.
  void SecondsPassed(double seconds);
  void StepDone();
  // Takes what an evaluation has found, by metric names; returns whether these are the best weights
  // so far.
  bool EvaluationDone(const std::map<std::string, double>& values);
  void PhaseEnded();

  // Whether `action` may be taken now. Steps are what actions are noted by, so that all boundaries
  // after one step at which an action may be taken must come to the same: these are the one right
  // after the step and, unless it makes the phase longer, the one after its evaluation.
  bool Takes(const v1::Steering& action) const;
  // Takes what `record` asks for, where Takes says so, and notes it. False, without an effect, if
  // it makes a phase longer that ends by wall_time or at its optimum.
  bool Steer(const v1::SteeringRecord& record);
  // The entry of Training.replay that is due now; nullptr if none is. Replay takes it.
  const v1::SteeredStep* DueReplay() const;
  bool Replay();
  // The job's time is over: as if it were told to stop.
  void StopByClock();

  // The phase that Next() speaks of; not after kFinish.
  const v1::Phase& phase() const { return training_->phases(state_.phase()); }
  // With what it was made longer by.
  PhaseLength phase_length() const;
  // Steps of all phases, of those that have ended the ones that they took; 0 when one of them ends
  // by plateau, wall_time or convergence.
  int64_t total_steps() const;
  // The share of the peak rate at which the next step is taken: by the schedule of the job, or of
  // the phase, times what rates were scaled by.
  double rate_share() const;
  // Passes over the data in this phase.
  double phase_epoch() const;
  // The best weights are needed later on: by the result or by a phase that begins from them.
  bool needs_best() const;

 private:
  bool EvaluationDue() const;
  bool PhaseOver() const;

  bool StepsDone() const;
  bool KeepsBest() const;
  bool Act(const v1::Steering& action);
  void Note(const v1::Steering& action);
  // Sets the present phase's steps, where loss units make them depend on the pass over the data
  // that it begins with.
  void BeginAt(int64_t epoch);

  const v1::Training* training_;
  DataSteps data_;
  bool has_validation_;
  std::vector<PhaseLength> lengths_;
  internal::ProgramState state_;
};

}  // namespace thaw
