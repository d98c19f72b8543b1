#include "worker/tuning/program.h"

#include <algorithm>
#include <cmath>

#include "worker/tuning/metric.h"

namespace thaw {
namespace {

// Products such as 0.1 epochs times 30 steps come out a hair above the whole number they stand for.
constexpr double kStepRounding = 1e-9;

int64_t StepsOfEpochs(double epochs, int64_t steps_in_epoch) {
  const double steps = std::ceil(epochs * static_cast<double>(steps_in_epoch) - kStepRounding);
  return std::max<int64_t>(static_cast<int64_t>(steps), 1);
}

}  // namespace

Program::Program(const v1::Training& training, int64_t steps_in_epoch, bool has_validation)
    : training_(&training), steps_in_epoch_(steps_in_epoch), has_validation_(has_validation) {
  const v1::Evaluation& evaluation = training.evaluation();
  const double every = evaluation.has_every_epochs() ? evaluation.every_epochs() : 1.0;
  for (const v1::Phase& phase : training.phases()) {
    PhaseLength length;
    switch (phase.until_case()) {
      case v1::Phase::kEpochs:
        length.steps = StepsOfEpochs(phase.epochs(), steps_in_epoch);
        break;
      case v1::Phase::kPlateau:
        length.steps = StepsOfEpochs(phase.plateau().max_epochs(), steps_in_epoch);
        break;
      default:
        length.steps = phase.steps();
    }
    length.evaluation_interval = evaluation.every_steps() > 0
                                     ? static_cast<double>(evaluation.every_steps())
                                     : every * static_cast<double>(steps_in_epoch);
    lengths_.push_back(length);
  }
}

Program::Action Program::Next() const {
  if (state_.phase() == training_->phases_size() ||
      (state_.out_of_patience() && !state_.in_phase())) {
    return Action::kFinish;
  }
  if (!state_.in_phase()) return Action::kEnterPhase;
  if (EvaluationDue() && !state_.evaluated()) return Action::kEvaluate;
  return PhaseOver() ? Action::kEndPhase : Action::kTrainStep;
}

void Program::PhaseEntered() {
  state_.set_in_phase(true);
  state_.set_phase_step(0);
  state_.set_evaluated(false);
  state_.set_phase_has_best(false);
  state_.set_phase_best(0);
  state_.set_phase_stale(0);
}

void Program::StepDone() {
  state_.set_step(state_.step() + 1);
  state_.set_phase_step(state_.phase_step() + 1);
  state_.set_evaluated(false);
}

bool Program::EvaluationDone(double metric) {
  state_.set_evaluated(true);
  if (!state_.phase_has_best() ||
      Better(metric, state_.phase_best(), phase().plateau().min_delta())) {
    state_.set_phase_has_best(true);
    state_.set_phase_best(metric);
    state_.set_phase_stale(0);
  } else {
    state_.set_phase_stale(state_.phase_stale() + 1);
  }
  const bool best = !state_.has_best() || Better(metric, state_.best(), 0);
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

int64_t Program::total_steps() const {
  int64_t total = 0;
  for (int i = 0; i < training_->phases_size(); ++i) {
    if (training_->phases(i).has_plateau()) return 0;
    total += lengths_[i].steps;
  }
  return total;
}

double Program::phase_epoch() const {
  return static_cast<double>(state_.phase_step()) / static_cast<double>(steps_in_epoch_);
}

bool Program::needs_best() const {
  if (!has_validation_) return false;
  const v1::Evaluation& evaluation = training_->evaluation();
  if (!evaluation.has_keep_best() || evaluation.keep_best()) return true;
  for (int i = state_.phase() + (state_.in_phase() ? 1 : 0); i < training_->phases_size(); ++i) {
    if (training_->phases(i).restore_best()) return true;
  }
  return false;
}

bool Program::Better(double metric, double than, double by) const {
  const bool less = LessIsBetter(DecidingMetric(*training_));
  const double gain = less ? than - metric : metric - than;
  return by > 0 ? gain >= by : gain > 0;
}

bool Program::EvaluationDue() const {
  if (!has_validation_ || state_.phase_step() == 0) return false;
  if (state_.phase_step() >= phase_length().steps) return true;
  const double interval = phase_length().evaluation_interval;
  const auto intervals_done = [interval](int64_t steps) {
    return std::floor(static_cast<double>(steps) / interval + kStepRounding);
  };
  return intervals_done(state_.phase_step()) > intervals_done(state_.phase_step() - 1);
}

bool Program::PhaseOver() const {
  if (state_.phase_step() >= phase_length().steps || state_.out_of_patience()) return true;
  return phase().has_plateau() && state_.phase_stale() >= std::max(phase().plateau().patience(), 1);
}

}  // namespace thaw
