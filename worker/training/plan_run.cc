#include "worker/training/plan_run.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/spec/planned_training.h"
#include "google/protobuf/util/json_util.h"
#include "thaw/v1/plan.pb.h"
#include "worker/training/failure.h"
#include "worker/training/features.h"
#include "worker/training/generated_answers.h"
#include "worker/training/plan_steps.h"
#include "worker/training/process_usage.h"
#include "worker/training/rows_report.h"
#include "worker/training/training_loop.h"

namespace thaw {
namespace {

constexpr int kPlanFormatVersion = 1;
// Steps tried in a phase, and CPU time that they may take: a tenth of what all of them would take,
// within bounds.
constexpr int64_t kFewestSteps = 3, kMostSteps = 64;
constexpr double kShareOfSteps = 0.1, kLeastSeconds = 1.5, kMostSeconds = 20;
// CPU time for an evaluation, and for the text that it generates; in later phases for the former.
constexpr double kEvaluationSeconds = 3, kLaterEvaluationSeconds = 0.75;

}  // namespace

// Lets signs of life, warnings and lines for people through. Whatever else a plan's turns tell is
// of no training.
class PlanSink : public ProgressSink {
 public:
  PlanSink(ProgressSink* sink, std::string work_dir)
      : sink_(sink), work_dir_(std::move(work_dir)) {}

  void Beat(const v1::Progress& progress, double median_step_seconds) override {
    v1::Progress shown;
    shown.set_phase(progress.phase());
    shown.set_phase_count(progress.phase_count());
    shown.set_phase_name(progress.phase_name());
    shown.set_memory_bytes(progress.memory_bytes());
    sink_->Beat(shown, median_step_seconds);
  }
  void Emit(const v1::Event& event) override {
    if (event.has_warning() || event.has_log_line()) sink_->Emit(event);
  }
  void CheckpointReady(const internal::CheckpointReady& checkpoint) override {
    removed_.Update(RemoveTree(absl::StrCat(work_dir_, "/", checkpoint.dir())));
  }
  const absl::Status& removed() const { return removed_; }

 private:
  ProgressSink* const sink_;
  const std::string work_dir_;
  absl::Status removed_;
};

// CPU time and time by the clock, seconds.
struct Spent {
  double cpu = 0;
  double clock = 0;
};

static Spent operator*(const Spent& spent, double factor) {
  return {spent.cpu * factor, spent.clock * factor};
}
static Spent& operator+=(Spent& sum, const Spent& spent) {
  sum.cpu += spent.cpu;
  sum.clock += spent.clock;
  return sum;
}

// Used by the training thread alone.
class PlanRun {
 public:
  PlanRun(const internal::Run& run, const AttemptContext& context)
      : context_(context),
        sink_(context.sink, run.work_dir()),
        loop_(run, {.sink = &sink_,
                    .control = context.control,
                    .clock = context.clock,
                    .point_interval_seconds = context.point_interval_seconds,
                    .disk = context.disk}) {}

  absl::StatusOr<internal::Ended> Run();

 private:
  absl::Status PlanPhase(int phase);
  // The work of what was tried.
  absl::StatusOr<double> TryLargest(const PhaseSteps& steps);
  // What all steps take, where the largest micro-step has taken `largest` for so much work.
  absl::StatusOr<Spent> TrySteps(const PhaseSteps& steps, const Spent& largest,
                                 double largest_work);
  // What the sampled steps take; `clock_share`: seconds by the clock for one of CPU time, of the
  // step that was disturbed least.
  absl::StatusOr<Spent> TrySample(const std::vector<PhaseSteps::Step>& sample, double* clock_share);
  // What a phase takes that ends by convergence, without the solver.
  Spent TryFeatures();
  // What so many evaluations take.
  absl::StatusOr<Spent> TryEvaluations(int64_t count);
  absl::StatusOr<Spent> TryEvaluation();
  // What `pass` takes, which reads all rows, the longest first: of one that takes longer than
  // `most` seconds of CPU time by its beginning. `pass` is given what to ask before each batch.
  using GoOn = std::function<bool(int64_t rows_done)>;
  Spent TryPass(const TokenizedDataset& rows, double most, const std::function<void(GoOn)>& pass);
  absl::StatusOr<double> TryAnswers();  // the factor from what was done to all
  absl::Status TryResult();
  void PlanExport();  // of features with the result
  absl::StatusOr<internal::Ended> WriteReport();
  // OK unless the attempt has to end: then end_ says how, or the status that it failed.
  absl::Status Boundary();

  RowWork WorkOf(const TokenizedDataset& rows) const {
    return {.dataset = &rows, .width = loop_.model_->config().hidden_size};
  }
  Spent Now() const { return {CpuSeconds(), loop_.reporter_.SecondsSinceStart()}; }
  Spent Since(const Spent& begin) const {
    const Spent now = Now();
    return {now.cpu - begin.cpu, now.clock - begin.clock};
  }
  // Bytes since the last call.
  int64_t Peak();

  const AttemptContext context_;
  PlanSink sink_;
  TrainingLoop loop_;
  v1::PlanReport report_;
  std::optional<internal::Ended> end_;
  bool peaks_apart_ = true;       // each phase's can be told
  int64_t epoch_ = 0;             // that the next phase begins with
  std::optional<Spent> answers_;  // what the text of one evaluation takes
};

absl::StatusOr<internal::Ended> PlanRun::Run() {
  report_.set_format_version(kPlanFormatVersion);
  THAW_RETURN_IF_ERROR(loop_.Prepare());
  *report_.mutable_training() = CountRows(loop_.inputs_.training);
  *report_.mutable_validation() = CountRows(loop_.inputs_.validation);
  for (const Group& group : loop_.model_->groups()) {
    report_.set_parameters(report_.parameters() + loop_.CountNumbers(group.parameters));
  }
  // Not a difference: of the process from its beginning.
  report_.set_cpu_seconds(CpuSeconds());
  report_.set_seconds(loop_.reporter_.SecondsSinceStart());
  report_.set_peak_memory_bytes(Peak());
  for (int i = 0; i < loop_.training_.phases_size(); ++i) {
    THAW_RETURN_IF_ERROR(Boundary());
    if (end_) return *end_;
    THAW_RETURN_IF_ERROR(PlanPhase(i));
    if (end_) return *end_;
  }
  THAW_RETURN_IF_ERROR(TryResult());
  THAW_RETURN_IF_ERROR(sink_.removed());
  return WriteReport();
}

absl::Status PlanRun::PlanPhase(int number) {
  loop_.reporter_.progress().set_phase(number + 1);
  loop_.reporter_.progress().set_phase_name(loop_.training_.phases(number).name());
  loop_.reporter_.BeatNow();
  Spent begin = Now();
  loop_.cursor_ = {.epoch = epoch_, .position = 0};
  THAW_RETURN_IF_ERROR(loop_.EnterPhase());
  Spent all = Since(begin);

  const v1::Phase& asked = loop_.program_->phase();
  const int64_t steps = asked.has_wall_time() ? 0 : loop_.program_->phase_length().steps;
  const int64_t in_epoch = loop_.plan_->StepsInEpoch(0);
  const RowWork rows = WorkOf(loop_.inputs_.training);
  // One that converges reads the rows once.
  const int64_t read = asked.has_convergence() ? in_epoch : steps;
  const PhaseSteps found = StepsOfPhase(*loop_.plan_, rows, epoch_, read, in_epoch);
  // All iterations of one that converges are one turn of the loop.
  const PhaseTurns turns =
      TurnsOfPhase(*loop_.program_, report_.steps(), asked.has_convergence() ? 1 : steps,
                   loop_.training_.checkpoint().every_steps());
  v1::PlannedPhase* phase = report_.add_phases();
  phase->set_name(asked.name());
  phase->set_steps(steps);
  phase->set_tokens(found.tokens);
  phase->set_trainable_parameters(loop_.CountNumbers(loop_.trainables_->names()));

  Spent trained;
  if (asked.has_convergence()) {
    trained = TryFeatures();
  } else {
    begin = Now();
    THAW_ASSIGN_OR_RETURN(const double largest_work, TryLargest(found));
    const Spent largest = Since(begin);
    THAW_ASSIGN_OR_RETURN(trained, TrySteps(found, largest, largest_work));
  }
  if (end_) return absl::OkStatus();
  if (loop_.inputs_.validation.rows() > 0) {
    THAW_ASSIGN_OR_RETURN(const Spent evaluations, TryEvaluations(turns.evaluations));
    all += evaluations;
  }
  all += trained;
  // Beside what the sample has left in memory; what lies in a file is not.
  int64_t to_be_held = 0;
  for (const ActivationCache* cache :
       {loop_.frozen_part_->training(), loop_.frozen_part_->validation()}) {
    if (cache == nullptr || cache->figures().held_rows == 0) continue;
    phase->set_cached(true);
    to_be_held += cache->ExpectedBytes() - cache->figures().held_bytes;
  }
  if (asked.has_convergence()) {
    // Beside the matrix itself what the solver makes of it in fp64.
    to_be_held += loop_.inputs_.training.rows() * loop_.model_->hidden_size() * 2 * 8;
  }
  begin = Now();
  THAW_RETURN_IF_ERROR(loop_.EndPhase());
  all += Since(begin) * static_cast<double>(turns.checkpoints);

  if (asked.has_wall_time()) {
    const double seconds = static_cast<double>(asked.wall_time().seconds()) +
                           1e-9 * static_cast<double>(asked.wall_time().nanos());
    all = {trained.clock > 0 ? seconds * trained.cpu / trained.clock : seconds, seconds};
  }
  phase->set_cpu_seconds(all.cpu);
  phase->set_seconds(all.clock);
  phase->set_peak_memory_bytes(Peak() + to_be_held);
  report_.set_steps(report_.steps() + steps);
  report_.set_cpu_seconds(report_.cpu_seconds() + all.cpu);
  report_.set_seconds(report_.seconds() + all.clock);
  report_.set_peak_memory_bytes(std::max(report_.peak_memory_bytes(), phase->peak_memory_bytes()));
  // Every phase sees whole passes.
  epoch_ += std::max<int64_t>((read + in_epoch - 1) / in_epoch, 1);
  return absl::OkStatus();
}

absl::StatusOr<double> PlanRun::TryLargest(const PhaseSteps& steps) {
  StepRows rows;
  if (loop_.carried_) {
    // Lanes only make sense together.
    rows = loop_.plan_->Step(loop_.cursor_);
  } else {
    rows.micro_steps.push_back(steps.largest);
    for (const int64_t row : steps.largest) {
      rows.loss_units += loop_.inputs_.training.loss_units(row);
    }
  }
  THAW_RETURN_IF_ERROR(loop_.AccumulateGradients(rows).status());
  loop_.trainables_->GradientNorms();
  // At no rate: the weights stay what they are.
  loop_.trainables_->Update(0, AdamWStep());
  return WorkOf(loop_.inputs_.training).Of(rows);
}

absl::StatusOr<Spent> PlanRun::TrySteps(const PhaseSteps& steps, const Spent& largest,
                                        double largest_work) {
  double first_pass = 0;
  for (const PhaseSteps::Step& step : steps.first_pass) first_pass += step.work;
  const auto in_first = static_cast<double>(steps.first_pass.size());
  // The largest micro-step was the first of its phase, and so it rather overstates.
  const double step_seconds = largest.cpu / largest_work * first_pass / in_first;
  const double budget = std::clamp(kShareOfSteps * largest.cpu / largest_work * steps.work,
                                   kLeastSeconds, kMostSeconds);
  const int64_t most = std::max<int64_t>(report_.phases().rbegin()->steps(), 1);
  const auto count = static_cast<int64_t>(std::clamp(budget / std::max(step_seconds, 1e-6),
                                                     static_cast<double>(kFewestSteps),
                                                     static_cast<double>(kMostSteps)));
  const std::vector<PhaseSteps::Step> sample = Sample(steps.first_pass, std::min(count, most));
  double clock_share = 0;
  THAW_ASSIGN_OR_RETURN(const Spent sum, TrySample(sample, &clock_share));
  if (end_) return Spent();
  double tried = 0;
  for (const PhaseSteps::Step& step : sample) tried += step.work;
  // With no steps it is the sample's own time.
  if (steps.work == 0) return sum;
  const double first_work = std::min(first_pass, steps.work);
  Spent all = sum * (first_work / tried);
  Spent later = sum;
  if (const ActivationCache* cache = loop_.frozen_part_->training();
      steps.work > first_work && cache != nullptr && cache->figures().held_rows > 0) {
    THAW_ASSIGN_OR_RETURN(later, TrySample(sample, &clock_share));
    if (end_) return Spent();
    const double held = cache->ExpectedShare();
    later = later * held;
    later += sum * (1 - held);
  }
  all += later * ((steps.work - first_work) / tried);
  // The first time costs more: weights are read from the disk, memory is asked for.
  const double extra = largest.cpu - sum.cpu / tried * largest_work;
  if (extra > 0) all += Spent{extra, extra * clock_share};
  return all;
}

absl::StatusOr<Spent> PlanRun::TrySample(const std::vector<PhaseSteps::Step>& sample,
                                         double* clock_share) {
  Spent sum;
  double least = -1;
  for (const PhaseSteps::Step& step : sample) {
    THAW_RETURN_IF_ERROR(Boundary());
    if (end_) return Spent();
    loop_.cursor_ = step.cursor;
    loop_.time_mark_ = loop_.reporter_.SecondsSinceStart();
    const Spent begin = Now();
    THAW_RETURN_IF_ERROR(loop_.TrainStep());
    const Spent spent = Since(begin);
    sum += spent;
    const double share = spent.clock / std::max(spent.cpu, 1e-9);
    least = least < 0 ? share : std::min(least, share);
  }
  *clock_share = least;
  sum.clock = sum.cpu * least;
  return sum;
}

Spent PlanRun::TryPass(const TokenizedDataset& rows, double most,
                       const std::function<void(GoOn)>& pass) {
  const RowWork works = WorkOf(rows);
  std::vector<double> work;
  for (int64_t row = 0; row < rows.rows(); ++row) work.push_back(works.Of(row));
  std::sort(work.rbegin(), work.rend());
  const Spent begin = Now();
  double factor = 1;
  std::optional<Spent> beginning;
  pass([&](int64_t rows_done) {
    loop_.reporter_.Beat();
    const Spent spent = Since(begin);
    if (rows_done == 0 || spent.cpu < most) return true;
    double done = 0;
    for (int64_t row = 0; row < rows_done; ++row) done += work[static_cast<size_t>(row)];
    factor = works.OfAll() / done;
    beginning = spent;
    return false;
  });
  return (beginning ? *beginning : Since(begin)) * factor;
}

Spent PlanRun::TryFeatures() {
  return TryPass(loop_.inputs_.training, kMostSeconds, [this](const GoOn& go_on) {
    AllFeatures(loop_.model_.get(), loop_.inputs_.training, loop_.TokensPerMicroStep(), go_on);
  });
}

absl::StatusOr<Spent> PlanRun::TryEvaluations(int64_t count) {
  THAW_ASSIGN_OR_RETURN(Spent all, TryEvaluation());
  if (count <= 1) return all * static_cast<double>(count);
  Spent later = all;
  if (const ActivationCache* cache = loop_.frozen_part_->validation();
      cache != nullptr && cache->figures().held_rows > 0) {
    const double held = cache->ExpectedShare();
    THAW_ASSIGN_OR_RETURN(const Spent again, TryEvaluation());
    later = again * held;
    later += all * (1 - held);
  }
  all += later * static_cast<double>(count - 1);
  return all;
}

absl::StatusOr<Spent> PlanRun::TryEvaluation() {
  const TokenizedDataset& rows = loop_.inputs_.validation;
  const double most = report_.phases_size() > 1 ? kLaterEvaluationSeconds : kEvaluationSeconds;
  Spent all = TryPass(rows, most, [&](const GoOn& go_on) {
    loop_.task_->Evaluate(loop_.model_.get(), rows, loop_.TokensPerMicroStep(),
                          loop_.frozen_part_->validation(), go_on);
  });
  if (!rows.expected.empty()) {
    if (!answers_) {
      const Spent begin = Now();
      THAW_ASSIGN_OR_RETURN(const double whole, TryAnswers());
      answers_ = Since(begin) * whole;
    }
    all += *answers_;
  }
  if (loop_.program_->needs_best()) {
    const Spent begin = Now();
    loop_.changed_->KeepBest();
    all += Since(begin);
  }
  return all;
}

absl::StatusOr<double> PlanRun::TryAnswers() {
  const TokenizedDataset& rows = loop_.inputs_.validation;
  AnswerOptions options{.generation = loop_.AnswerGeneration()};
  const double begin = CpuSeconds();
  int64_t turns = 0, done = 0;
  options.go_on = [&](int64_t rows_done) {
    loop_.reporter_.Beat();
    done = rows_done;
    return ++turns <= 2 || CpuSeconds() - begin < kEvaluationSeconds;
  };
  THAW_ASSIGN_OR_RETURN(
      const std::optional<AnswerFigures> found,
      EvaluateAnswers(loop_.model_.get(), *loop_.inputs_.tokenizer, rows, options));
  if (found) return 1;
  const auto all = static_cast<double>(rows.expected.size());
  if (done > 0) return all / static_cast<double>(done);
  // No row has ended: as if all went on to their last token.
  const auto at_a_time = static_cast<double>(options.generation.most_rows);
  return static_cast<double>(options.generation.max_new_tokens) * std::max(all / at_a_time, 1.0) /
         static_cast<double>(turns);
}

void PlanRun::PlanExport() {
  const TokenizedDataset &training = loop_.inputs_.training, &validation = loop_.inputs_.validation;
  const Spent features =
      TryFeatures() * (1 + WorkOf(validation).OfAll() / WorkOf(training).OfAll());
  report_.set_cpu_seconds(report_.cpu_seconds() + features.cpu);
  report_.set_seconds(report_.seconds() + features.clock);
  // The vectors, and the file that they are written as.
  const int64_t bytes = 2 * int64_t{sizeof(float)} * loop_.model_->hidden_size() *
                        (training.rows() + validation.rows());
  report_.set_peak_memory_bytes(std::max(report_.peak_memory_bytes(), Peak() + bytes));
}

absl::Status PlanRun::TryResult() {
  THAW_RETURN_IF_ERROR(Boundary());
  if (end_) return absl::OkStatus();
  if (loop_.training_.pooled_head().export_features()) PlanExport();
  const Spent begin = Now();
  loop_.moments_.clear();
  if (loop_.KeepsBest() && loop_.changed_->has_best()) {
    THAW_RETURN_IF_ERROR(loop_.changed_->RestoreBest());
  }
  const std::string directory = loop_.run_.work_dir() + "/tried";
  THAW_RETURN_IF_ERROR(loop_.WriteModel(directory));
  THAW_RETURN_IF_ERROR(loop_.ReadBack(directory));
  THAW_RETURN_IF_ERROR(RemoveTree(directory));
  const Spent spent = Since(begin);
  report_.set_cpu_seconds(report_.cpu_seconds() + spent.cpu);
  report_.set_seconds(report_.seconds() + spent.clock);
  report_.set_peak_memory_bytes(std::max(report_.peak_memory_bytes(), Peak()));
  return absl::OkStatus();
}

absl::StatusOr<internal::Ended> PlanRun::WriteReport() {
  if (end_) return *end_;
  internal::Ended ended = loop_.End(v1::AttemptEnd::SUCCEEDED);
  ended.mutable_end()->set_step(0);
  ended.set_result_dir("result");
  const std::string directory = loop_.run_.work_dir() + "/" + ended.result_dir();
  THAW_RETURN_IF_ERROR(MakeDirectories(directory));
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  const auto printed = google::protobuf::util::MessageToJsonString(report_, &text, options);
  if (!printed.ok()) return absl::InternalError(std::string(printed.message()));
  THAW_RETURN_IF_ERROR(WriteFileAtomically(directory + "/plan.json", text));
  auto& metrics = *ended.mutable_metrics();
  metrics["rows"] = static_cast<double>(report_.training().rows());
  metrics["tokens"] = static_cast<double>(report_.training().tokens());
  metrics["truncated_rows"] = static_cast<double>(report_.training().truncated_rows());
  metrics["steps"] = static_cast<double>(report_.steps());
  metrics["cpu_seconds"] = report_.cpu_seconds();
  metrics["seconds"] = report_.seconds();
  metrics["peak_memory_bytes"] = static_cast<double>(report_.peak_memory_bytes());
  loop_.reporter_.Log(
      absl::StrFormat("planned: %d optimizer steps, %.1f s of CPU time, at most %.0f MiB of memory",
                      report_.steps(), report_.cpu_seconds(),
                      static_cast<double>(report_.peak_memory_bytes()) / (1 << 20)));
  loop_.reporter_.BeatNow();
  return ended;
}

absl::Status PlanRun::Boundary() {
  loop_.reporter_.Beat();
  const Control::Requests asked = context_.control->AtBoundary([this] { loop_.reporter_.Beat(); });
  if (asked.stop || asked.pause) {
    end_ = loop_.End(asked.stop ? v1::AttemptEnd::STOPPED : v1::AttemptEnd::PAUSED);
    end_->mutable_end()->set_step(0);
    return absl::OkStatus();
  }
  if (loop_.OutOfTime()) {
    return WithReason(
        absl::ResourceExhaustedError("max_runtime was over before the plan was made: give more"),
        "MAX_RUNTIME");
  }
  return absl::OkStatus();
}

int64_t PlanRun::Peak() {
  const int64_t peak = PeakResidentBytes();
  if (!ForgetPeak() && peaks_apart_) {
    peaks_apart_ = false;
    loop_.reporter_.Log(
        "this kernel does not let a process reset its peak of memory: each phase's figure is the "
        "peak from the beginning to its end");
  }
  return peak;
}

internal::Ended RunPlan(const internal::Run& run, const AttemptContext& context) {
  internal::Run training = run;
  v1::JobSpec* spec = training.mutable_assignment()->mutable_spec();
  *spec = WithTraining(std::move(*spec));
  PlanRun plan(training, context);
  absl::StatusOr<internal::Ended> ended = plan.Run();
  return ended.ok() ? *std::move(ended) : FailedEnd(StatusOfPlan(ended.status()), 0);
}

}  // namespace thaw
