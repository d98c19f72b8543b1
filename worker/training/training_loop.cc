#include "worker/training/training_loop.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "worker/training/failure.h"
#include "worker/training/result.h"
#include "worker/training/run_model.h"
#include "worker/training/vocabulary_change.h"
#include "worker/tuning/added_part.h"
#include "worker/tuning/metric.h"
#include "worker/tuning/peft_files.h"
#include "worker/tuning/schedule.h"
#include "worker/tuning/selector.h"

namespace thaw {
namespace {

// "3, 17, 4 and 13 more": lines of the dataset's file.
std::string NameLines(const TokenizedDataset& dataset, const std::vector<int64_t>& rows) {
  constexpr size_t kNamed = 8;
  std::vector<int64_t> lines;
  for (size_t i = 0; i < std::min(rows.size(), kNamed); ++i) {
    lines.push_back(dataset.lines[rows[i]]);
  }
  std::string names = absl::StrJoin(lines, ", ");
  if (rows.size() > kNamed) absl::StrAppend(&names, " and ", rows.size() - kNamed, " more");
  return names;
}

std::vector<GroupNorm> NamedNorms(const std::vector<Group>& groups, const GradientNorms& norms) {
  std::vector<GroupNorm> named;
  for (const auto& [group, norm] : norms.groups) named.push_back({groups[group].name, norm});
  return named;
}

AdamWStep AdamWOptions(const v1::Optimizer& optimizer) {
  AdamWStep options;
  if (optimizer.has_beta1()) options.beta1 = optimizer.beta1();
  if (optimizer.has_beta2()) options.beta2 = optimizer.beta2();
  if (optimizer.has_epsilon()) options.epsilon = optimizer.epsilon();
  options.weight_decay = optimizer.has_weight_decay() ? optimizer.weight_decay() : 0.01;
  return options;
}

}  // namespace

TrainingLoop::TrainingLoop(const internal::Run& run, const AttemptContext& context)
    : run_(run),
      training_(run.assignment().spec().training()),
      context_(context),
      reporter_(context.sink, context.clock, context.point_interval_seconds) {
  reporter_.progress().set_phase_count(training_.phases_size());
  reporter_.progress().set_metric_name(MetricName(DecidingMetric(training_)));
}

absl::StatusOr<internal::Ended> TrainingLoop::Run() {
  THAW_RETURN_IF_ERROR(Prepare());
  while (true) {
    UpdateProgress();
    THAW_ASSIGN_OR_RETURN(std::optional<internal::Ended> end, Boundary());
    if (end) return *std::move(end);
    const Program::Action action = program_->Next();
    if (action == Program::Action::kFinish) return Finish();
    if (OutOfTime()) {
      if (step() == 0) {
        return WithReason(absl::ResourceExhaustedError(
                              "max_runtime was over before the first optimizer step: give more"),
                          "MAX_RUNTIME");
      }
      // The result's weights may not have been evaluated yet.
      const internal::ProgramState& state = program_->state();
      if (inputs_.validation.rows() > 0 && !(KeepsBest() ? state.has_best() : state.evaluated())) {
        THAW_RETURN_IF_ERROR(Evaluate());
        if (context_.control->ShouldEnd()) continue;  // for the boundary
      }
      reporter_.Warn("MAX_RUNTIME", absl::StrCat("max_runtime is over after optimizer step ",
                                                 step(), ": the job ends with what it has"));
      return Finish();
    }
    THAW_RETURN_IF_ERROR(Turn(action));
  }
}

absl::Status TrainingLoop::Turn(Program::Action action) {
  switch (action) {
    case Program::Action::kEnterPhase:
      return EnterPhase();
    case Program::Action::kTrainStep:
      return TrainStep();
    case Program::Action::kEvaluate:
      return Evaluate();
    case Program::Action::kEndPhase:
      return EndPhase();
    case Program::Action::kFinish:
      break;
  }
  return absl::OkStatus();
}

absl::Status TrainingLoop::TrainStep() {
  const double begin = reporter_.SecondsSinceStart();
  const StepRows rows = plan_->Step(cursor_);
  THAW_ASSIGN_OR_RETURN(const double loss_sum, AccumulateGradients(rows));
  const GradientNorms norms = trainables_->Norms();
  const double norm = norms.all;
  if (!std::isfinite(norm)) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("the gradients of optimizer step ", step() + 1,
                                                " are not finite: lower the learning rate")),
        "NON_FINITE_GRADIENT");
  }
  AdamWStep options = AdamWOptions(training_.optimizer());
  const double max_norm = training_.has_max_grad_norm() ? training_.max_grad_norm() : 1.0;
  // The small number is that of torch.nn.utils.clip_grad_norm_.
  if (max_norm > 0) options.gradient_scale = std::min(1.0, max_norm / (norm + 1e-6));
  const double share = RateShare(program_->phase().schedule(), program_->state().phase_step(),
                                 program_->phase_length().steps);
  THAW_RETURN_IF_ERROR(trainables_->CheckComplete());
  trainables_->Update(share, options);

  program_->StepDone();
  cursor_ = rows.next;
  tokens_ += rows.tokens;
  loss_ = loss_sum / static_cast<double>(rows.loss_units);
  best_is_current_ = false;
  reporter_.StepDone({.step = step(),
                      .phase = program_->state().phase() + 1,
                      .loss_sum = loss_sum,
                      .loss_units = rows.loss_units,
                      .learning_rate = peak_rate_ * share,
                      .gradient_norm = norm,
                      .group_norms = NamedNorms(model_->groups(), norms),
                      .tokens = tokens_,
                      .step_tokens = rows.tokens,
                      .seconds = reporter_.SecondsSinceStart() - begin});
  return absl::OkStatus();
}

absl::StatusOr<double> TrainingLoop::AccumulateGradients(const StepRows& rows) {
  if (rows.loss_units == 0) {
    return WithReason(
        absl::InternalError(absl::StrCat("optimizer step ", step() + 1, " has no loss units")),
        "NO_LOSS_UNITS");
  }
  // The loss is the sum over the whole optimizer step divided by its loss units, however many
  // micro-steps it takes.
  const torch::Tensor share =
      torch::scalar_tensor(1.0 / static_cast<double>(rows.loss_units), torch::kFloat32);
  DropoutKey dropout{.seed = training_.seed(), .step = static_cast<uint64_t>(step())};
  double loss_sum = 0;
  if (carried_ && cursor_.position == 0) carried_->Reset();
  for (const std::vector<int64_t>& micro_step : rows.micro_steps) {
    const PackedBatch batch = Pack(inputs_.training, micro_step);
    std::optional<SequenceState> state;
    if (carried_) state = carried_->NextLanes(batch.sequences());
    const torch::Tensor loss =
        task_->LossSum(model_.get(), batch, trained_groups_, dropout, state ? &*state : nullptr);
    const double value = loss.item<double>();
    if (!std::isfinite(value)) {
      return WithReason(absl::InvalidArgumentError(absl::StrCat(
                            "the loss of optimizer step ", step() + 1, " is ", value, " on lines ",
                            NameLines(inputs_.training, micro_step), ": lower the learning rate")),
                        "NON_FINITE_LOSS");
    }
    loss_sum += value;
    loss.backward(share);
    if (state) carried_->Put(*std::move(state));
    ++dropout.micro_step;
    reporter_.Beat();
  }
  if (carried_) carried_->StepDone();
  return loss_sum;
}

absl::Status TrainingLoop::Evaluate() {
  const auto values =
      task_->Evaluate(model_.get(), inputs_.validation, TokensPerMicroStep(), [this](int64_t) {
        reporter_.Beat();
        return !context_.control->ShouldEnd();
      });
  // Given up for a pause or a stop, which the boundary sees to; it is still due.
  if (!values) return absl::OkStatus();
  newest_values_ = *values;
  const double metric = newest_values_.at(MetricName(DecidingMetric(training_)));
  if (!std::isfinite(newest_values_.at("loss"))) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("the evaluation loss after optimizer step ", step(),
                                                " is not finite: lower the learning rate")),
        "NON_FINITE_LOSS");
  }
  v1::EvaluationEnd evaluation;
  evaluation.set_step(step());
  evaluation.set_phase(program_->state().phase() + 1);
  evaluation.set_epoch(program_->phase_epoch());
  evaluation.mutable_values()->insert(newest_values_.begin(), newest_values_.end());
  if (program_->EvaluationDone(metric)) {
    evaluation.set_best(true);
    best_values_ = newest_values_;
    if (program_->needs_best()) {
      changed_->KeepBest();
      best_is_current_ = true;
    } else {
      changed_->DropBest();
    }
  }
  reporter_.EvaluationDone(evaluation);
  return absl::OkStatus();
}

absl::Status TrainingLoop::EndPhase() {
  reporter_.FlushPoint();
  moments_ = trainables_->moments();
  trainables_->Release();
  trainables_.reset();
  program_->PhaseEnded();
  return Checkpoint();
}

absl::StatusOr<std::optional<internal::Ended>> TrainingLoop::Boundary() {
  reporter_.Beat();
  const int64_t every = training_.checkpoint().every_steps();
  // An evaluation that is due comes first: going on from before it would tell of it, and of the
  // steps in its metric points, twice.
  const bool evaluates = program_->Next() == Program::Action::kEvaluate;
  if (every > 0 && step() > 0 && step() % every == 0 && checkpoint_step_ != step() && !evaluates) {
    THAW_RETURN_IF_ERROR(Checkpoint());
  }
  Control::Requests requests;
  do {
    requests = context_.control->AtBoundary([this] { reporter_.Beat(); });
    if (requests.stop) {
      reporter_.FlushPoint();
      return End(v1::AttemptEnd::STOPPED);
    }
    if (requests.checkpoint || requests.pause) THAW_RETURN_IF_ERROR(Checkpoint());
    if (requests.pause) return End(v1::AttemptEnd::PAUSED);
  } while (requests.checkpoint);
  return std::nullopt;
}

absl::Status TrainingLoop::Checkpoint() {
  const internal::ProgramState& state = program_->state();
  CheckpointContents contents;
  internal::Checkpoint& saved = contents.state;
  *saved.mutable_program() = state;
  saved.mutable_data()->set_epoch(cursor_.epoch);
  saved.mutable_data()->set_position(cursor_.position);
  saved.mutable_data()->set_lanes(Lanes());
  if (carried_ && cursor_.position > 0) contents.carried = carried_->tensors();
  saved.mutable_best_values()->insert(best_values_.begin(), best_values_.end());
  saved.mutable_newest_values()->insert(newest_values_.begin(), newest_values_.end());
  saved.set_tokens(tokens_);
  saved.set_loss(loss_);
  saved.set_pending_loss_sum(reporter_.pending().loss_sum);
  saved.set_pending_loss_units(reporter_.pending().loss_units);
  *saved.mutable_fingerprint() = CurrentFingerprint();
  contents.weights = changed_->Current();
  contents.moments = trainables_ ? trainables_->moments() : moments_;
  if (best_is_current_) {
    saved.set_best_weights(internal::CURRENT_WEIGHTS);
  } else if (changed_->has_best()) {
    saved.set_best_weights(internal::OWN_FILE);
    contents.best = changed_->best();
  }
  internal::CheckpointReady ready;
  ready.set_dir(absl::StrCat("checkpoints/", ++checkpoints_));
  ready.set_step(state.step());
  // Between two phases: the one that has ended.
  ready.set_phase(state.phase() + (state.in_phase() || state.phase() == 0 ? 1 : 0));
  ready.set_best(best_is_current_);
  THAW_RETURN_IF_ERROR(WriteCheckpoint(run_.work_dir() + "/" + ready.dir(), std::move(contents)));
  checkpoint_step_ = state.step();
  reporter_.CheckpointReady(ready);
  return absl::OkStatus();
}

absl::StatusOr<internal::Ended> TrainingLoop::Finish() {
  reporter_.FlushPoint();
  reporter_.progress().set_eta_seconds(0);
  reporter_.BeatNow();
  if (trainables_) {
    trainables_->Release();
    trainables_.reset();
  }
  moments_.clear();
  THAW_ASSIGN_OR_RETURN(
      const std::vector<std::string> trainable_names,
      SelectParameters(training_.phases(reporter_.progress().phase() - 1).selector(),
                       model_->groups()));
  const bool best = KeepsBest() && changed_->has_best();
  if (best) THAW_RETURN_IF_ERROR(changed_->RestoreBest());
  internal::Ended ended = End(v1::AttemptEnd::SUCCEEDED);
  ended.set_result_dir("result");
  const double begin = reporter_.SecondsSinceStart();
  THAW_RETURN_IF_ERROR(WriteModel(run_.work_dir() + "/" + ended.result_dir()));
  reporter_.Log(absl::StrFormat("result written: the weights %s optimizer step %d, in %.1f s",
                                best ? "with the best metric, of" : "after",
                                best ? program_->state().best_step() : step(),
                                reporter_.SecondsSinceStart() - begin));
  auto& metrics = *ended.mutable_metrics();
  const std::map<std::string, double>& values = best ? best_values_ : newest_values_;
  metrics.insert(values.begin(), values.end());
  metrics["steps"] = static_cast<double>(step());
  if (best) metrics["best_step"] = static_cast<double>(program_->state().best_step());
  metrics["tokens"] = static_cast<double>(tokens_);
  metrics["trainable_parameters"] = static_cast<double>(CountNumbers(trainable_names));
  metrics["seconds"] = reporter_.SecondsSinceStart();
  return ended;
}

absl::Status TrainingLoop::WriteModel(const std::string& directory) {
  if (!part_) return WriteResult(*model_, BaseDirectory(run_), directory);
  if (training_.output() == v1::Training::ADAPTER ||
      training_.output() == v1::Training::OUTPUT_UNSPECIFIED) {
    return WriteAdapterResult(*model_, *part_, run_.assignment().spec().base_model(),
                              BaseDirectory(run_), directory);
  }
  THAW_RETURN_IF_ERROR(MergePart(model_.get()));
  return WriteResult(*model_, BaseDirectory(run_), directory);
}

internal::Ended TrainingLoop::End(v1::AttemptEnd::Outcome outcome) const {
  internal::Ended ended;
  ended.mutable_end()->set_outcome(outcome);
  ended.mutable_end()->set_step(step());
  return ended;
}

bool TrainingLoop::OutOfTime() const {
  if (!run_.assignment().has_runtime_left()) return false;
  const auto& left = run_.assignment().runtime_left();
  return reporter_.SecondsSinceStart() >=
         static_cast<double>(left.seconds()) + 1e-9 * static_cast<double>(left.nanos());
}

bool TrainingLoop::KeepsBest() const {
  return !training_.evaluation().has_keep_best() || training_.evaluation().keep_best();
}

int32_t TrainingLoop::TokensPerMicroStep() const {
  const int32_t divisor = std::max(run_.assignment().micro_step_divisor(), 1);
  return std::max(training_.batch().tokens_per_micro_step() / divisor, 1);
}

int32_t TrainingLoop::Lanes() const {
  return inputs_.carries_state ? training_.batch().examples_per_step() : 0;
}

void TrainingLoop::UpdateProgress() {
  v1::Progress& progress = reporter_.progress();
  const internal::ProgramState& state = program_->state();
  // Between two phases the one that has ended: the next may never begin.
  const int phase = state.phase() - (!state.in_phase() && state.phase() > 0 ? 1 : 0);
  progress.set_step(state.step());
  progress.set_total_steps(program_->total_steps());
  progress.set_phase(phase + 1);
  progress.set_phase_name(training_.phases(phase).name());
  progress.set_epoch(program_->phase_epoch());
  progress.set_loss(loss_);
  if (state.has_best()) {
    progress.set_metric(newest_values_.at(progress.metric_name()));
    progress.set_best_metric(state.best());
  }
}

internal::Ended RunTraining(const internal::Run& run, const AttemptContext& context) {
  internal::Run with_tokenizer = run;
  if (!run.tokenizer_dir().empty()) {
    if (IsAdapter(run.model_dir())) return FailedEnd(TokenizerOfAdapter(), 0);
    // The same bytes in every attempt, so that checkpoints may differ from them.
    with_tokenizer.set_model_dir(run.work_dir() + "/model");
    const absl::Status status =
        ChangeVocabulary(run.model_dir(), run.tokenizer_dir(), with_tokenizer.model_dir());
    if (!status.ok()) return FailedEnd(status, 0);
  }
  TrainingLoop loop(with_tokenizer, context);
  absl::StatusOr<internal::Ended> ended = loop.Run();
  return ended.ok() ? *std::move(ended) : FailedEnd(ended.status(), loop.step());
}

}  // namespace thaw
