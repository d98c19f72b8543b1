#include "worker/training/training_loop.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "worker/training/failure.h"
#include "worker/training/generated_answers.h"
#include "worker/training/model_directory.h"
#include "worker/training/receipt.h"
#include "worker/training/result.h"
#include "worker/training/run_model.h"
#include "worker/training/run_precision.h"
#include "worker/tuning/added_part.h"
#include "worker/tuning/metric.h"

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

// Of each group: both have the same ones.
std::vector<GroupNorms> NamedNorms(const std::vector<Group>& groups, const Norms& gradients,
                                   const Norms& updates) {
  std::vector<GroupNorms> named;
  for (const auto& [group, norm] : gradients.groups) {
    named.push_back({groups[group].name, norm, updates.groups.at(group)});
  }
  return named;
}

AdamWStep AdamWOptions(const v1::Training& training, const v1::Phase& phase) {
  v1::Optimizer optimizer = training.optimizer();
  optimizer.MergeFrom(phase.optimizer());  // what is given there
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
      THAW_RETURN_IF_ERROR(EndOfTime());
    } else {
      THAW_RETURN_IF_ERROR(Turn(action));
    }
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
  if (program_->phase().has_convergence()) return Converge();
  const double begin = reporter_.SecondsSinceStart();
  const StepRows rows = plan_->Step(cursor_);
  THAW_ASSIGN_OR_RETURN(const double loss_sum, AccumulateGradients(rows));
  const Norms gradients = trainables_->GradientNorms();
  const double norm = gradients.all;
  if (!std::isfinite(norm)) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("the gradients of optimizer step ", step() + 1,
                                                " are not finite: lower the learning rate")),
        "NON_FINITE_GRADIENT");
  }
  AdamWStep options = AdamWOptions(training_, program_->phase());
  const double max_norm = training_.has_max_grad_norm() ? training_.max_grad_norm() : 1.0;
  // The small number is that of torch.nn.utils.clip_grad_norm_.
  if (max_norm > 0) options.gradient_scale = std::min(1.0, max_norm / (norm + 1e-6));
  const double share = program_->rate_share();
  THAW_RETURN_IF_ERROR(trainables_->CheckComplete());
  const Norms updates = trainables_->Update(share, options);
  if (!std::isfinite(updates.all)) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("the weights after optimizer step ", step() + 1,
                                                " are not finite: lower the learning rate")),
        "NON_FINITE_WEIGHTS");
  }

  CountTime();
  program_->StepDone();
  cursor_ = rows.next;
  tokens_ += rows.tokens;
  loss_ = loss_sum / static_cast<double>(rows.loss_units);
  best_is_current_ = false;
  history_.StepDone(step(), loss_sum, rows.loss_units);
  reporter_.StepDone({.step = step(),
                      .phase = program_->state().phase() + 1,
                      .loss_sum = loss_sum,
                      .loss_units = rows.loss_units,
                      .learning_rate = parameters_.peak_rate() * share,
                      .gradient_norm = norm,
                      .update_norm = updates.all,
                      .group_norms = NamedNorms(model_->groups(), gradients, updates),
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
    const torch::Tensor loss = task_->LossSum(model_.get(), batch, trained_groups_, dropout,
                                              state ? &*state : nullptr, frozen_part_->training());
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
  std::optional<EvaluationFigures> figures =
      task_->Evaluate(model_.get(), inputs_.validation, TokensPerMicroStep(),
                      frozen_part_->validation(), [this](int64_t) {
                        reporter_.Beat();
                        return !context_.control->ShouldEnd();
                      });
  // Given up for a pause or a stop, which the boundary sees to; it is still due.
  if (!figures) return absl::OkStatus();
  if (!std::isfinite(figures->values.at("loss"))) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("the evaluation loss after optimizer step ", step(),
                                                " is not finite: lower the learning rate")),
        "NON_FINITE_LOSS");
  }
  THAW_ASSIGN_OR_RETURN(const bool complete, MatchAnswers(&*figures));
  if (!complete) return absl::OkStatus();
  newest_figures_ = *std::move(figures);
  history_.Evaluated(step(), newest_figures_.values);
  v1::EvaluationEnd evaluation;
  evaluation.set_step(step());
  evaluation.set_phase(program_->state().phase() + 1);
  evaluation.set_epoch(program_->phase_epoch());
  evaluation.mutable_values()->insert(newest_figures_.values.begin(), newest_figures_.values.end());
  if (!newest_figures_.confusion.empty()) {
    v1::ConfusionMatrix* confusion = evaluation.mutable_confusion();
    confusion->mutable_labels()->Add(inputs_.labels.begin(), inputs_.labels.end());
    confusion->mutable_counts()->Add(newest_figures_.confusion.begin(),
                                     newest_figures_.confusion.end());
  }
  if (program_->EvaluationDone(newest_figures_.values)) {
    evaluation.set_best(true);
    best_figures_ = newest_figures_;
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

GenerationOptions TrainingLoop::AnswerGeneration() const {
  const int32_t divisor = std::max(run_.assignment().micro_step_divisor(), 1);
  GenerationOptions options = inputs_.answers;
  options.prompt_tokens = TokensPerMicroStep();
  options.most_rows = std::max<int64_t>(options.most_rows / divisor, 1);
  options.cache_bytes /= divisor;
  return options;
}

absl::StatusOr<bool> TrainingLoop::MatchAnswers(EvaluationFigures* figures) {
  if (inputs_.validation.expected.empty()) return true;
  AnswerOptions options{.generation = AnswerGeneration()};
  options.go_on = [this](int64_t) {
    reporter_.Beat();
    return !context_.control->ShouldEnd();
  };
  THAW_ASSIGN_OR_RETURN(
      const std::optional<AnswerFigures> found,
      EvaluateAnswers(model_.get(), *inputs_.tokenizer, inputs_.validation, options));
  if (!found) return false;
  const v1::Evaluation& asked = training_.evaluation();
  if (Reports(asked, v1::Evaluation::EXACT_MATCH)) {
    figures->values[MetricName(v1::Evaluation::EXACT_MATCH)] = found->exact_match;
  }
  if (Reports(asked, v1::Evaluation::DIGIT_MATCH)) {
    figures->values[MetricName(v1::Evaluation::DIGIT_MATCH)] = found->digit_match;
  }
  return true;
}

absl::Status TrainingLoop::EndPhase() {
  reporter_.FlushPoint();
  moments_ = trainables_->moments();
  trainables_->Release();
  trainables_.reset();
  if (const std::string kept = frozen_part_->EndPhase(); !kept.empty()) reporter_.Log(kept);
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
  // Whatever waits here, for a lease above all, is no time of the phase's.
  if (trainables_) CountTime();
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
  time_mark_ = reporter_.SecondsSinceStart();
  THAW_RETURN_IF_ERROR(Steer());
  return std::nullopt;
}

void TrainingLoop::CountTime() {
  const double now = reporter_.SecondsSinceStart();
  program_->SecondsPassed(now - std::exchange(time_mark_, now));
}

absl::Status TrainingLoop::Checkpoint() {
  if (trainables_) CountTime();
  const internal::ProgramState& state = program_->state();
  CheckpointContents contents;
  internal::Checkpoint& saved = contents.state;
  *saved.mutable_program() = state;
  saved.mutable_data()->set_epoch(cursor_.epoch);
  saved.mutable_data()->set_position(cursor_.position);
  saved.mutable_data()->set_lanes(Lanes());
  if (carried_ && cursor_.position > 0) contents.carried = carried_->tensors();
  saved.mutable_best_values()->insert(best_figures_.values.begin(), best_figures_.values.end());
  saved.mutable_newest_values()->insert(newest_figures_.values.begin(),
                                        newest_figures_.values.end());
  saved.mutable_best_confusion()->Add(best_figures_.confusion.begin(),
                                      best_figures_.confusion.end());
  saved.mutable_newest_confusion()->Add(newest_figures_.confusion.begin(),
                                        newest_figures_.confusion.end());
  saved.set_tokens(tokens_);
  saved.set_loss(loss_);
  saved.set_pending_loss_sum(reporter_.pending().loss_sum);
  saved.set_pending_loss_units(reporter_.pending().loss_units);
  *saved.mutable_fingerprint() = CurrentFingerprint(ComputesInHalf(run_));
  saved.set_history_sha256(history_.digest());
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
  THAW_ASSIGN_OR_RETURN(const PhaseParameters last,
                        PhaseParametersOf(reporter_.progress().phase() - 1));
  const bool best = KeepsBest() && changed_->has_best();
  if (best) THAW_RETURN_IF_ERROR(changed_->RestoreBest());
  internal::Ended ended = End(v1::AttemptEnd::SUCCEEDED);
  ended.set_result_dir("result");
  const double begin = reporter_.SecondsSinceStart();
  const std::string result_dir = run_.work_dir() + "/" + ended.result_dir();
  const int64_t trained = CountNumbers(last.names);
  THAW_RETURN_IF_ERROR(WriteModel(result_dir));
  THAW_RETURN_IF_ERROR(ExportFeatures(result_dir));
  THAW_RETURN_IF_ERROR(ReadBack(result_dir));
  reporter_.Log(absl::StrFormat("result written: the weights %s optimizer step %d, in %.1f s",
                                best ? "with the best metric, of" : "after",
                                best ? program_->state().best_step() : step(),
                                reporter_.SecondsSinceStart() - begin));
  auto& metrics = *ended.mutable_metrics();
  const EvaluationFigures& figures = best ? best_figures_ : newest_figures_;
  // Without keep_best the last weights may have been trained on since.
  if (best || program_->state().evaluated()) {
    THAW_RETURN_IF_ERROR(WriteEvaluation({.step = best ? program_->state().best_step() : step(),
                                          .metric = MetricName(DecidingMetric(training_)),
                                          .labels = inputs_.labels},
                                         figures, run_.work_dir() + "/" + ended.result_dir()));
  }
  metrics.insert(figures.values.begin(), figures.values.end());
  metrics["steps"] = static_cast<double>(step());
  if (best) metrics["best_step"] = static_cast<double>(program_->state().best_step());
  metrics["tokens"] = static_cast<double>(tokens_);
  metrics["trainable_parameters"] = static_cast<double>(trained);
  metrics["seconds"] = reporter_.SecondsSinceStart();
  return ended;
}

absl::Status TrainingLoop::WriteModel(const std::string& directory) {
  switch (training_.output()) {
    case v1::Training::ADAPTER:
      if (!part_) break;
      return WriteAdapterResult(*model_, *part_, run_.assignment().spec().base_model(), model_dir_,
                                directory);
    case v1::Training::DELTA:
      return WriteDeltaResult(*model_, model_dir_, BaseWeightsDirectory(run_), BaseDigest(run_),
                              directory);
    default:
      break;
  }
  if (part_) THAW_RETURN_IF_ERROR(MergePart(model_.get()));
  return WriteResult(*model_, model_dir_, directory);
}

absl::Status TrainingLoop::ReadBack(const std::string& result_dir) {
  THAW_ASSIGN_OR_RETURN(const ProbeAnswers answers,
                        AnswerProbes(model_.get(), inputs_.training, TokensPerMicroStep()));
  // Two models at a time could be more than there is room for.
  changed_.reset();
  frozen_part_.reset();
  model_.reset();
  THAW_ASSIGN_OR_RETURN(const std::unique_ptr<Model> saved, LoadResult(run_, result_dir));
  internal::Receipt receipt;
  THAW_ASSIGN_OR_RETURN(*receipt.mutable_probes(), CheckProbes(answers, saved.get()));
  receipt.set_history_sha256(history_.digest());
  receipt.set_ran_out_of_time_at(ran_out_of_time_at_);
  *receipt.mutable_steered() = program_->state().steered();
  return WriteReceipt(run_, std::move(receipt), result_dir);
}

internal::Ended TrainingLoop::End(v1::AttemptEnd::Outcome outcome) const {
  internal::Ended ended;
  ended.mutable_end()->set_outcome(outcome);
  ended.mutable_end()->set_step(step());
  return ended;
}

bool TrainingLoop::OutOfTime() const {
  if (!run_.assignment().has_runtime_left()) return false;
  // Where the job ends is noted by the step alone: neither before an evaluation that is due after
  // it, nor once the next phase has changed anything.
  const internal::ProgramState& state = program_->state();
  if (state.told_to_stop() || program_->Next() == Program::Action::kEvaluate) return false;
  if (state.step() > 0 && state.in_phase() && state.phase_step() == 0) return false;
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
  return inputs_.in_lanes ? training_.batch().examples_per_step() : 0;
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
    progress.set_metric(newest_figures_.values.at(progress.metric_name()));
    progress.set_best_metric(state.best());
  }
}

internal::Ended RunTraining(const internal::Run& run, const AttemptContext& context) {
  TrainingLoop loop(run, context);
  absl::StatusOr<internal::Ended> ended = loop.Run();
  return ended.ok() ? *std::move(ended) : FailedEnd(ended.status(), loop.step());
}

}  // namespace thaw
