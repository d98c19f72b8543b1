// The loop of a training attempt; RunTraining wraps it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "thaw/internal/checkpoint.pb.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/data/batch_plan.h"
#include "worker/model/model.h"
#include "worker/training/carried_state.h"
#include "worker/training/changed_weights.h"
#include "worker/training/checkpoint.h"
#include "worker/training/forward.h"
#include "worker/training/frozen_part.h"
#include "worker/training/history.h"
#include "worker/training/read_ahead.h"
#include "worker/training/reporter.h"
#include "worker/training/training_inputs.h"
#include "worker/training/training_run.h"
#include "worker/training/training_task.h"
#include "worker/tuning/phase_parameters.h"
#include "worker/tuning/program.h"
#include "worker/tuning/trainables.h"

namespace thaw {

// Set-up, then one turn after the other, between which everything that matters is in
// internal::Checkpoint and a few named tensors:
//
//   Prepare → { Turn: enter a phase | train a step | evaluate | end a phase } … → Finish
//
// Used by the training thread alone.
class TrainingLoop {
 public:
  TrainingLoop(const internal::Run& run, const AttemptContext& context);

  // How the attempt ends; an error is one that the job fails with.
  absl::StatusOr<internal::Ended> Run();

  // Optimizer steps done.
  int64_t step() const { return program_ ? program_->state().step() : 0; }

 private:
  friend class PlanRun;  // which takes the loop's turns one by one, a few of each kind

  // training_setup.cc
  absl::Status Prepare();
  absl::Status RestoreCheckpoint();
  void WarnOfInputs();
  bool RecomputesActivations() const;
  absl::Status SetUpTrainables();  // of the present phase, with the moments that it keeps
  // That the present phase may have on the disk at a time: the newest checkpoint and the one that
  // is still being uploaded, each with its best weights, and a result.
  int64_t WrittenBytes() const;
  absl::Status EnterPhase();
  absl::Status AnnouncePhase();
  absl::StatusOr<PhaseParameters> PhaseParametersOf(int phase) const;
  int64_t CountNumbers(const std::vector<std::string>& names) const;

  // convergence.cc
  // Whether a phase that trains these parameters can end by convergence, or leave features to
  // export, where it is asked to.
  absl::Status CheckPooledHead(int phase, const PhaseParameters& trains) const;
  // The whole of a phase that ends by convergence; nothing of it is done when it is told to end.
  absl::Status Converge();
  absl::Status ExportFeatures(const std::string& directory);

  // training_loop.cc
  absl::Status Turn(Program::Action action);
  absl::Status TrainStep();
  absl::StatusOr<double> AccumulateGradients(const StepRows& rows);
  absl::Status Evaluate();
  // Adds what is asked for of the metrics that take text to be generated; false when told to end.
  absl::StatusOr<bool> MatchAnswers(EvaluationFigures* figures);
  GenerationOptions AnswerGeneration() const;
  absl::Status EndPhase();
  // Handles what was asked for and what is due; an end ends the attempt.
  absl::StatusOr<std::optional<internal::Ended>> Boundary();
  void CountTime();  // of the phase, up to now

  // training_steering.cc
  absl::Status Steer();  // at a boundary: what is due of replay and steerings
  // Of what the checkpoint has done, but its attempt has not been heard of.
  void TellOfBefore();
  void TellSteering(const v1::SteeringRecord& done, bool effect);
  void Tell(v1::SteeringRecord done);
  absl::Status EndOfTime();  // max_runtime is over

  // training_loop.cc
  absl::Status Checkpoint();
  absl::StatusOr<internal::Ended> Finish();
  // Checks the result against the model, which is gone after it, and writes its receipt.
  absl::Status ReadBack(const std::string& result_dir);
  absl::Status WriteModel(const std::string& directory);
  internal::Ended End(v1::AttemptEnd::Outcome outcome) const;
  bool OutOfTime() const;  // and at a place where the job may end for it
  bool KeepsBest() const;
  int32_t TokensPerMicroStep() const;  // less after running out of memory
  int32_t Lanes() const;               // that joined texts are read in; 0: rows stand alone
  void UpdateProgress();

  const internal::Run& run_;
  std::string model_dir_;  // see ModelDirectory
  std::optional<ReadAhead> read_ahead_;
  const v1::Training& training_;
  const AttemptContext context_;
  Reporter reporter_;

  std::unique_ptr<Model> model_;
  std::optional<v1::AddedPart> part_;  // that the model has, its own or this training's
  std::unique_ptr<TrainingTask> task_;
  TrainingInputs inputs_;
  std::optional<BatchPlan> plan_;
  std::optional<Program> program_;
  std::optional<ChangedWeights> changed_;
  std::unique_ptr<Trainables> trainables_;  // in a phase only
  MomentsByName moments_;                   // between phases: those of the phase before
  TrainedGroups trained_groups_;
  std::optional<FrozenPart> frozen_part_;
  PhaseParameters parameters_;  // of the present phase
  double time_mark_ = 0;        // since the start: up to where the phase's seconds are counted

  DataCursor cursor_;
  History history_;
  std::optional<CarriedState> carried_;  // with a model that reads joined texts on, row by row
  int64_t tokens_ = 0;
  double loss_ = 0;
  EvaluationFigures best_figures_, newest_figures_;
  bool best_is_current_ = false;  // the model's weights are the best ones
  int64_t checkpoint_step_ = -1;  // of the newest checkpoint
  int checkpoints_ = 0;
  std::map<int32_t, v1::SteeringRecord> steerings_;  // by number, from the first one not done
  int64_t ran_out_of_time_at_ = 0;                   // the step after which max_runtime was over
};

}  // namespace thaw
