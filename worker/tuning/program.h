// The state machine of a training program: which phase, when to evaluate, when a phase ends, what
// is best. Pure: no clock, no data, no tensors; its whole state is one message.
//
//   Program program(training, steps_in_epoch, has_validation);
//   while (true) switch (program.Next()) {
//     case Program::Action::kEnterPhase: … program.PhaseEntered(); break;
//     case Program::Action::kTrainStep:  … program.StepDone(); break;
//     case Program::Action::kEvaluate:   best = program.EvaluationDone(metric); break;
//     case Program::Action::kEndPhase:   program.PhaseEnded(); … break;
//     case Program::Action::kFinish:     return;
//   }
//
// Between any two of these calls state() can be saved; a program with that state goes on as this
// one would.
#pragma once

#include <cstdint>
#include <vector>

#include "thaw/internal/checkpoint.pb.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// Steps of one phase and when it evaluates.
struct PhaseLength {
  int64_t steps = 0;               // for a plateau the bound
  double evaluation_interval = 0;  // steps between evaluations, not necessarily whole
};

class Program {
 public:
  enum class Action { kEnterPhase, kTrainStep, kEvaluate, kEndPhase, kFinish };

  // `training` is resolved and must outlive the program; `steps_in_epoch` > 0.
  Program(const v1::Training& training, int64_t steps_in_epoch, bool has_validation);

  const internal::ProgramState& state() const { return state_; }
  void set_state(const internal::ProgramState& state) { state_ = state; }

  Action Next() const;

  void PhaseEntered();
  void StepDone();
  // Takes the value of the deciding metric; returns whether these are the best weights so far.
  bool EvaluationDone(double metric);
  void PhaseEnded();

  // The phase that Next() speaks of; not after kFinish.
  const v1::Phase& phase() const { return training_->phases(state_.phase()); }
  const PhaseLength& phase_length() const { return lengths_[state_.phase()]; }
  // Steps of all phases; 0 when one of them ends at a plateau.
  int64_t total_steps() const;
  // Passes over the data in this phase.
  double phase_epoch() const;
  // The best weights are needed later on: by the result or by a phase that begins from them.
  bool needs_best() const;

 private:
  bool Better(double metric, double than, double by) const;
  bool EvaluationDue() const;
  bool PhaseOver() const;

  const v1::Training* training_;
  int64_t steps_in_epoch_;
  bool has_validation_;
  std::vector<PhaseLength> lengths_;
  internal::ProgramState state_;
};

}  // namespace thaw
