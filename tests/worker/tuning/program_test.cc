#include "worker/tuning/program.h"

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <string>

namespace thaw {
namespace {

using Action = Program::Action;

v1::Training ParseTraining(const std::string& text) {
  v1::Training training;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &training)) << text;
  return training;
}

// Runs the program with these metrics in turn (the last one for ever) and writes down what it does:
// P enters a phase, s trains a step, E evaluates (! if best), | ends a phase.
std::string Trace(Program program, const std::vector<double>& metrics) {
  std::string trace;
  size_t evaluations = 0;
  for (int i = 0; i < 1000; ++i) {
    switch (program.Next()) {
      case Action::kEnterPhase:
        trace += 'P';
        program.PhaseEntered();
        break;
      case Action::kTrainStep:
        trace += 's';
        program.StepDone();
        break;
      case Action::kEvaluate: {
        const double metric = metrics[std::min(evaluations++, metrics.size() - 1)];
        trace += program.EvaluationDone(metric) ? "E!" : "E";
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
       "PsE!|PsEsEsE|"}};
  for (const TraceCase& test : cases) {
    const v1::Training training = ParseTraining(test.training);
    EXPECT_EQ(Trace(Program(training, test.steps_in_epoch, test.has_validation), test.metrics),
              test.expected)
        << test.training;
  }
}

TEST(Program, GoesOnFromAnySavedState) {
  const v1::Training training = ParseTraining(
      "phases { epochs: 2 } phases { plateau { patience: 2 max_epochs: 6 } } evaluation { "
      "every_epochs: 0.5 }");
  const auto metric = [](int64_t step) { return static_cast<double>((step * 7) % 5); };
  const auto advance = [&](Program* program) {
    switch (program->Next()) {
      case Action::kEnterPhase:
        return program->PhaseEntered(), true;
      case Action::kTrainStep:
        return program->StepDone(), true;
      case Action::kEvaluate:
        return program->EvaluationDone(metric(program->state().step())), true;
      case Action::kEndPhase:
        return program->PhaseEnded(), true;
      case Action::kFinish:
        break;
    }
    return false;
  };
  Program whole(training, 4, true);
  int cuts = 0;
  do {
    Program resumed(training, 4, true);
    resumed.set_state(whole.state());
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
  EXPECT_EQ(Program(steps, 5, true).total_steps(), 13);
  EXPECT_TRUE(Program(steps, 5, true).needs_best());
  EXPECT_FALSE(Program(steps, 5, false).needs_best());
  const v1::Training last = ParseTraining(
      "phases { steps: 3 } phases { plateau { max_epochs: 2 } restore_best: true } evaluation { "
      "keep_best: false }");
  Program program(last, 5, true);
  EXPECT_EQ(program.total_steps(), 0);
  EXPECT_TRUE(program.needs_best());
  program.PhaseEntered();
  program.PhaseEnded();
  EXPECT_TRUE(program.needs_best());
  program.PhaseEntered();
  EXPECT_FALSE(program.needs_best());
}

}  // namespace
}  // namespace thaw
