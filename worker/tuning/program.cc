#include "worker/tuning/program.h"

#include <algorithm>
#include <cmath>

#include "worker/tuning/metric.h"
#include "worker/tuning/schedule.h"

namespace thaw {
namespace {

// Products such as 0.1 epochs times 30 steps come out a hair above the whole number they stand for.
constexpr double kStepRounding = 1e-9;

int64_t StepsOfEpochs(double epochs, int64_t steps_in_epoch) {
  const double steps = std::ceil(epochs * static_cast<double>(steps_in_epoch) - kStepRounding);
  return std::max<int64_t>(static_cast<int64_t>(steps), 1);
}

double Seconds(const google::protobuf::Duration& time) {
  return static_cast<double>(time.seconds()) + 1e-9 * static_cast<double>(time.nanos());
}

// Far beyond any use, and far from where products of doubles end.
constexpr double kLeastScale = 1e-6, kMostScale = 1e6;

v1::Steering NextPhase() {
  v1::Steering action;
  action.set_next_phase(true);
  return action;
}

bool Better(v1::Evaluation::Metric metric, double value, double than, double by) {
  const double gain = LessIsBetter(metric) ? than - value : value - than;
  return by > 0 ? gain >= by : gain > 0;
}

}  // namespace

Program::Program(const v1::Training& training, const DataSteps& data, bool has_validation)
    : training_(&training), data_(data), has_validation_(has_validation) {
  const v1::Evaluation& evaluation = training.evaluation();
  const double every = evaluation.has_every_epochs() ? evaluation.every_epochs() : 1.0;
  int64_t epoch = 0;
  for (const v1::Phase& phase : training.phases()) {
    PhaseLength length;
    switch (phase.until_case()) {
      case v1::Phase::kEpochs:
        length.steps = StepsOfEpochs(phase.epochs(), data_.in_epoch);
        break;
      case v1::Phase::kPlateau:
        length.steps = StepsOfEpochs(phase.plateau().max_epochs(), data_.in_epoch);
        break;
      case v1::Phase::kLossUnits:
        length.steps = data_.to_loss_units(epoch, phase.loss_units());
        break;
      case v1::Phase::kConvergence:
        length.steps = phase.convergence().max_iterations();
        break;
      default:
        length.steps = phase.steps();
    }
    length.evaluation_interval = evaluation.every_steps() > 0
                                     ? static_cast<double>(evaluation.every_steps())
                                     : every * static_cast<double>(data_.in_epoch);
    lengths_.push_back(length);
    // Its iterations are no passes in the data's order.
    if (phase.has_convergence()) continue;
    // Every phase sees whole passes.
    epoch += (length.steps + data_.in_epoch - 1) / data_.in_epoch;
  }
}

void Program::GoOnFrom(const internal::ProgramState& state, int64_t epoch) {
  state_ = state;
  if (state_.in_phase()) BeginAt(epoch - state_.phase_step() / data_.in_epoch);
}

void Program::BeginAt(int64_t epoch) {
  if (!phase().has_loss_units()) return;
  lengths_[state_.phase()].steps = data_.to_loss_units(epoch, phase().loss_units());
}

Program::Action Program::Next() const {
  const bool ends = state_.out_of_patience() || state_.told_to_stop();
  if (state_.phase() == training_->phases_size() || (ends && !state_.in_phase())) {
    return Action::kFinish;
  }
  if (!state_.in_phase()) return Action::kEnterPhase;
  if (EvaluationDue() && !state_.evaluated()) return Action::kEvaluate;
  if (state_.told_to_stop()) return Action::kFinish;
  return PhaseOver() ? Action::kEndPhase : Action::kTrainStep;
}

void Program::PhaseEntered(int64_t epoch) {
  state_.set_in_phase(true);
  state_.set_phase_step(0);
  state_.set_evaluated(false);
  state_.set_phase_has_best(false);
  state_.set_phase_best(0);
  state_.set_phase_stale(0);
  state_.set_phase_seconds(0);
  state_.set_out_of_time(false);
  state_.set_extra_steps(0);
  state_.set_told_to_end(false);
  BeginAt(epoch);
}

void Program::SecondsPassed(double seconds) {
  state_.set_phase_seconds(state_.phase_seconds() + seconds);
}

void Program::StepDone() {
  state_.set_step(state_.step() + 1);
  state_.set_phase_step(state_.phase_step() + 1);
  state_.set_evaluated(false);
  // Another run's clock has decided where the phase ends, as long as there is an end to replay.
  bool by_clock = true;
  for (int i = state_.replayed(); i < training_->replay_size(); ++i) {
    const v1::Steering& action = training_->replay(i).action();
    by_clock = by_clock && !action.has_next_phase() && !action.has_stop();
  }
  if (phase().has_wall_time() && by_clock && !state_.out_of_time() &&
      state_.phase_seconds() >= Seconds(phase().wall_time())) {
    state_.set_out_of_time(true);
    Note(NextPhase());
  }
}

bool Program::EvaluationDone(const std::map<std::string, double>& values) {
  state_.set_evaluated(true);
  const v1::Evaluation::Metric watched = PlateauMetric(*training_, phase());
  const double plateau = values.at(MetricName(watched));
  if (!state_.phase_has_best() ||
      Better(watched, plateau, state_.phase_best(), phase().plateau().min_delta())) {
    state_.set_phase_has_best(true);
    state_.set_phase_best(plateau);
    state_.set_phase_stale(0);
  } else {
    state_.set_phase_stale(state_.phase_stale() + 1);
  }
  const v1::Evaluation::Metric deciding = DecidingMetric(*training_);
  const double metric = values.at(MetricName(deciding));
  const bool best = !state_.has_best() || Better(deciding, metric, state_.best(), 0);
  if (best) {
    state_.set_has_best(true);
    state_.set_best(metric);
    state_.set_best_step(state_.step());
    state_.set_stale(0);
  } else {
    state_.set_stale(state_.stale() + 1);
  }
  const int patience = training_->evaluation().patience();
  if (patience > 0 && state_.stale() >= patience) state_.set_out_of_patience(true);
  return best;
}

void Program::PhaseEnded() {
  state_.set_in_phase(false);
  state_.set_phase(state_.phase() + 1);
}

bool Program::Takes(const v1::Steering& action) const {
  if (!state_.in_phase() || state_.phase_step() == 0) return false;
  const bool lengthens = action.has_extend_steps() || action.has_extend_epochs();
  return !lengthens || !state_.evaluated();
}

bool Program::Steer(const v1::SteeringRecord& record) {
  state_.set_steering(record.number());
  return Act(record.action());
}

const v1::SteeredStep* Program::DueReplay() const {
  if (state_.replayed() == training_->replay_size()) return nullptr;
  const v1::SteeredStep& next = training_->replay(state_.replayed());
  return state_.step() >= next.step() && Takes(next.action()) ? &next : nullptr;
}

bool Program::Replay() {
  const v1::SteeredStep& next = training_->replay(state_.replayed());
  state_.set_replayed(state_.replayed() + 1);
  return Act(next.action());
}

void Program::StopByClock() {
  v1::Steering action;
  action.set_stop(true);
  Act(action);
}

bool Program::Act(const v1::Steering& action) {
  switch (action.action_case()) {
    case v1::Steering::kNextPhase:
      state_.set_told_to_end(true);
      break;
    case v1::Steering::kScaleRate: {
      const double scale =
          (state_.rate_scale() > 0 ? state_.rate_scale() : 1) * action.scale_rate();
      state_.set_rate_scale(std::clamp(scale, kLeastScale, kMostScale));
      break;
    }
    case v1::Steering::kExtendEpochs:
    case v1::Steering::kExtendSteps:
      if (phase().has_wall_time() || phase().has_convergence()) return false;
      state_.set_extra_steps(state_.extra_steps() +
                             (action.has_extend_steps()
                                  ? action.extend_steps()
                                  : StepsOfEpochs(action.extend_epochs(), data_.in_epoch)));
      break;
    case v1::Steering::kStop:
      state_.set_told_to_stop(true);
      break;
    default:
      return true;  // a checkpoint is the caller's
  }
  Note(action);
  return true;
}

void Program::Note(const v1::Steering& action) {
  v1::SteeredStep* noted = state_.add_steered();
  noted->set_step(state_.step());
  *noted->mutable_action() = action;
}

PhaseLength Program::phase_length() const {
  PhaseLength length = lengths_[state_.phase()];
  if (state_.in_phase()) length.steps += state_.extra_steps();
  return length;
}

int64_t Program::total_steps() const {
  for (const v1::Phase& phase : training_->phases()) {
    if (phase.has_plateau() || phase.has_wall_time() || phase.has_convergence()) return 0;
  }
  int64_t total = state_.in_phase() ? state_.step() - state_.phase_step() + state_.extra_steps()
                                    : state_.step();
  for (int i = state_.phase(); i < training_->phases_size(); ++i) total += lengths_[i].steps;
  return total;
}

double Program::rate_share() const {
  const double share =
      training_->has_schedule()
          ? RateShare(training_->schedule(), state_.step(), total_steps())
          : RateShare(phase().schedule(), state_.phase_step(), phase_length().steps);
  return state_.rate_scale() > 0 ? share * state_.rate_scale() : share;
}

double Program::phase_epoch() const {
  const auto steps = static_cast<double>(state_.phase_step());
  const bool converges = state_.phase() < training_->phases_size() && phase().has_convergence();
  return converges ? steps : steps / static_cast<double>(data_.in_epoch);
}

bool Program::needs_best() const {
  if (!has_validation_) return false;
  if (KeepsBest()) return true;
  for (int i = state_.phase() + (state_.in_phase() ? 1 : 0); i < training_->phases_size(); ++i) {
    if (training_->phases(i).restore_best()) return true;
  }
  return false;
}

bool Program::KeepsBest() const {
  const v1::Evaluation& evaluation = training_->evaluation();
  return !evaluation.has_keep_best() || evaluation.keep_best();
}

bool Program::StepsDone() const {
  if (state_.told_to_end()) return true;
  // All of it is done at once.
  if (phase().has_convergence()) return state_.phase_step() > 0;
  return phase().has_wall_time() ? state_.out_of_time()
                                 : state_.phase_step() >= phase_length().steps;
}

bool Program::EvaluationDue() const {
  if (!has_validation_ || state_.phase_step() == 0) return false;
  if (StepsDone()) return true;
  // The result's weights may not have been evaluated yet.
  if (state_.told_to_stop() && !(KeepsBest() && state_.has_best())) return true;
  const double interval = phase_length().evaluation_interval;
  const auto intervals_done = [interval](int64_t steps) {
    return std::floor(static_cast<double>(steps) / interval + kStepRounding);
  };
  return intervals_done(state_.phase_step()) > intervals_done(state_.phase_step() - 1);
}

bool Program::PhaseOver() const {
  if (StepsDone() || state_.out_of_patience()) return true;
  return phase().has_plateau() && state_.phase_stale() >= std::max(phase().plateau().patience(), 1);
}

}  // namespace thaw
