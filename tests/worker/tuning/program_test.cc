#include "worker/tuning/program.h"

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>

#include "worker/tuning/metric.h"

namespace thaw {
namespace {

using Action = Program::Action;

v1::Training ParseTraining(const std::string& text) {
  v1::Training training;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &training)) << text;
  return training;
}

// An evaluation in which every metric has this value.
std::map<std::string, double> Values(double value) {
  std::map<std::string, double> values;
  for (int i = 1; v1::Evaluation::Metric_IsValid(i); ++i) {
    values[MetricName(static_cast<v1::Evaluation::Metric>(i))] = value;
  }
  return values;
}

// Loss units come by 10 a step, in epoch 1 by 5.
DataSteps Steps(int64_t in_epoch) {
  return {.in_epoch = in_epoch, .to_loss_units = [](int64_t epoch, int64_t units) {
            const int64_t a_step = epoch == 1 ? 5 : 10;
            return (units + a_step - 1) / a_step;
          }};
}

// Runs the program with these metrics in turn (the last one for ever) and writes down what it does:
// P enters a phase, s trains a step of a second, E evaluates (! if best), | ends a phase.
std::string Trace(Program program, const std::vector<double>& metrics) {
  std::string trace;
  size_t evaluations = 0;
  for (int i = 0; i < 1000; ++i) {
    switch (program.Next()) {
      case Action::kEnterPhase:
        trace += 'P';
        program.PhaseEntered(program.state().phase());
        break;
      case Action::kTrainStep:
        trace += 's';
        program.SecondsPassed(1);
        program.StepDone();
        break;
      case Action::kEvaluate: {
        const double metric = metrics[std::min(evaluations++, metrics.size() - 1)];
        trace += program.EvaluationDone(Values(metric)) ? "E!" : "E";
        break;
      }
      case Action::kEndPhase:
        trace += '|';
        program.PhaseEnded();
        break;
      case Action::kFinish:
        return trace;
    }
  }
  return trace + "…";
}

struct TraceCase {
  std::string training;
  int64_t steps_in_epoch;
  bool has_validation;
  std::vector<double> metrics;
  std::string expected;
};

TEST(Program, PhasesEvaluationsAndEnds) {
  const std::vector<TraceCase> cases = {
      {"phases { steps: 3 } phases { steps: 1 }", 10, false, {0}, "Psss|Ps|"},
      {"phases { steps: 3 }", 10, true, {0.5}, "PsssE!|"},
      {"phases { epochs: 2 }", 2, true, {0.5, 0.6}, "PssE!ssE!|"},
      // Parts of an epoch are rounded up to a step; evaluations at every half epoch.
      {"phases { epochs: 1.5 } evaluation { every_epochs: 0.5 }", 3, true, {0.5}, "PssE!sEssE|"},
      {"phases { epochs: 0.01 }", 3, true, {0.5}, "PsE!|"},
      {"phases { epochs: 0.3 }", 10, false, {0.5}, "Psss|"},
      // A plateau after two evaluations that are no better.
      {"phases { plateau { patience: 2 max_epochs: 10 } }",
       1,
       true,
       {0.5, 0.6, 0.6, 0.55},
       "PsE!sE!sEsE|"},
      {"phases { plateau { patience: 2 max_epochs: 3 } }",
       1,
       true,
       {0.1, 0.2, 0.3, 0.4},
       "PsE!sE!sE!|"},
      // Gains below min_delta do not count for the plateau, but make the best weights.
      {"phases { plateau { patience: 2 max_epochs: 10 min_delta: 0.1 } }",
       1,
       true,
       {0.5, 0.55, 0.58},
       "PsE!sE!sE!|"},
      // Less loss is better.
      {"phases { epochs: 3 } evaluation { metric: LOSS }", 1, true, {0.9, 0.8, 0.85}, "PsE!sE!sE|"},
      // Every metric in its own direction, a task's default among them.
      {"phases { epochs: 3 } evaluation { metric: PERPLEXITY }",
       1,
       true,
       {9, 8, 8.5},
       "PsE!sE!sE|"},
      {"phases { epochs: 3 } regression {}", 1, true, {9, 8, 8.5}, "PsE!sE!sE|"},
      {"phases { epochs: 3 } completion {}", 1, true, {9, 8, 8.5}, "PsE!sE!sE|"},
      {"phases { epochs: 3 } text_classification { multi_label: true }",
       1,
       true,
       {0.5, 0.6, 0.55},
       "PsE!sE!sE|"},
      {"phases { epochs: 3 } evaluation { metric: MICRO_F1 }",
       1,
       true,
       {0.5, 0.6, 0.55},
       "PsE!sE!sE|"},
      {"phases { plateau { patience: 1 max_epochs: 9 min_delta: 0.1 } } language_modeling {}",
       1,
       true,
       {3, 2.5, 2.45},
       "PsE!sE!sE!|"},
      // The job's patience counts over phases and ends the program.
      {"phases { epochs: 2 } phases { epochs: 5 } phases { epochs: 1 } evaluation { patience: 3 }",
       1,
       true,
       {0.5, 0.4, 0.4, 0.4, 0.9},
       "PsE!sE|PsEsE|"},
      // A new phase has a plateau of its own, whatever was best before.
      {"phases { epochs: 1 } phases { plateau { patience: 1 max_epochs: 9 } }",
       1,
       true,
       {0.9, 0.5, 0.6, 0.6},
       "PsE!|PsEsEsE|"},
      // Loss units, which may come slower in another pass over the data.
      {"phases { loss_units: 31 }", 10, true, {0.5}, "PssssE!|"},
      {"phases { loss_units: 20 } phases { loss_units: 20 }", 10, false, {0}, "Pss|Pssss|"},
      // A time: the step that ends after it, and an evaluation behind that one.
      {"phases { wall_time { seconds: 2 nanos: 500000000 } } phases { steps: 1 }",
       2,
       true,
       {0.5},
       "PssE!sE|PsE|"},
      // The job's patience ends such a phase as any other.
      {"phases { wall_time { seconds: 9 } } evaluation { patience: 1 }",
       1,
       true,
       {0.5, 0.4},
       "PsE!sE|"},
      {"phases { wall_time { seconds: 1 } } phases { wall_time { seconds: 1 } }",
       9,
       false,
       {0},
       "Ps|Ps|"}};
  for (const TraceCase& test : cases) {
    const v1::Training training = ParseTraining(test.training);
    EXPECT_EQ(
        Trace(Program(training, Steps(test.steps_in_epoch), test.has_validation), test.metrics),
        test.expected)
        << test.training;
  }
}

TEST(Program, AnEpochsOwnLossUnitsCountWhereverAPhaseBegins) {
  const v1::Training training =
      ParseTraining("phases { plateau { max_epochs: 4 } } phases { loss_units: 20 }");
  Program program(training, Steps(2), true);
  program.PhaseEntered(0);
  program.PhaseEnded();
  program.PhaseEntered(1);  // three passes earlier than the bound
  EXPECT_EQ(program.phase_length().steps, 4);
  for (int step = 0; step < 3; ++step) program.StepDone();
  // The third step lies in the pass after the one that the phase began with.
  Program resumed(training, Steps(2), true);
  resumed.GoOnFrom(program.state(), 2);
  EXPECT_EQ(resumed.phase_length().steps, 4);
}

TEST(Program, APlateauCanWatchAMetricOfItsOwn) {
  const v1::Training training = ParseTraining(
      "phases { plateau { patience: 1 max_epochs: 9 metric: LOSS } } text_classification {}");
  Program program(training, Steps(1), true);
  program.PhaseEntered(0);
  for (const auto& [loss, accuracy] : {std::pair(0.9, 0.5), std::pair(0.8, 0.4)}) {
    program.StepDone();
    program.EvaluationDone({{"loss", loss}, {"accuracy", accuracy}});
    EXPECT_EQ(program.Next(), Action::kTrainStep) << "the loss got better";
  }
  program.StepDone();
  EXPECT_TRUE(program.EvaluationDone({{"loss", 0.85}, {"accuracy", 0.6}}))
      << "what is best is still decided by accuracy";
  EXPECT_EQ(program.Next(), Action::kEndPhase);
}

TEST(Program, AScheduleOfTheJobGoesThroughItsPhases) {
  const v1::Training training = ParseTraining(
      "schedule { shape: LINEAR warmup_fraction: 0.25 } phases { steps: 4 } phases { epochs: 1 } "
      "phases { loss_units: 40 }");
  Program program(training, Steps(4), false);
  EXPECT_EQ(program.total_steps(), 12);
  std::vector<double> shares;
  while (program.Next() != Action::kFinish) {
    switch (program.Next()) {
      case Action::kEnterPhase:
        program.PhaseEntered(program.state().phase() * 2);
        break;
      case Action::kEndPhase:
        program.PhaseEnded();
        break;
      default:
        shares.push_back(program.rate_share());
        program.StepDone();
    }
  }
  ASSERT_EQ(shares.size(), 12u);
  for (int step = 0; step < 12; ++step) {
    EXPECT_DOUBLE_EQ(shares[step], step < 3 ? step / 3.0 : (12 - step) / 9.0) << step;
  }
}

TEST(Program, GoesOnFromAnySavedState) {
  const v1::Training training = ParseTraining(
      "phases { epochs: 2 } phases { plateau { patience: 2 max_epochs: 6 } } "
      "phases { wall_time { seconds: 3 } } evaluation { every_epochs: 0.5 }");
  const auto metric = [](int64_t step) { return static_cast<double>((step * 7) % 5); };
  const auto advance = [&](Program* program) {
    switch (program->Next()) {
      case Action::kEnterPhase:
        return program->PhaseEntered(0), true;
      case Action::kTrainStep:
        return program->SecondsPassed(0.5), program->StepDone(), true;
      case Action::kEvaluate:
        return program->EvaluationDone(Values(metric(program->state().step()))), true;
      case Action::kEndPhase:
        return program->PhaseEnded(), true;
      case Action::kFinish:
        break;
    }
    return false;
  };
  Program whole(training, Steps(4), true);
  int cuts = 0;
  do {
    Program resumed(training, Steps(4), true);
    resumed.GoOnFrom(whole.state(), /*epoch=*/0);
    Program straight = whole;
    while (advance(&straight)) ASSERT_TRUE(advance(&resumed));
    EXPECT_FALSE(advance(&resumed));
    EXPECT_EQ(straight.state().SerializeAsString(), resumed.state().SerializeAsString());
    ++cuts;
  } while (advance(&whole));
  EXPECT_GT(cuts, 20);
}

TEST(Program, KnowsItsLengthAndWhetherTheBestIsNeeded) {
  const v1::Training steps = ParseTraining("phases { steps: 3 } phases { epochs: 2 }");
  EXPECT_EQ(Program(steps, Steps(5), true).total_steps(), 13);
  EXPECT_TRUE(Program(steps, Steps(5), true).needs_best());
  EXPECT_FALSE(Program(steps, Steps(5), false).needs_best());
  const v1::Training last = ParseTraining(
      "phases { steps: 3 } phases { plateau { max_epochs: 2 } restore_best: true } evaluation { "
      "keep_best: false }");
  Program program(last, Steps(5), true);
  EXPECT_EQ(program.total_steps(), 0);
  EXPECT_TRUE(program.needs_best());
  program.PhaseEntered(0);
  program.PhaseEnded();
  EXPECT_TRUE(program.needs_best());
  program.PhaseEntered(1);
  EXPECT_FALSE(program.needs_best());
}

}  // namespace
}  // namespace thaw
