// What is done to a program while it runs: what follows from it, and that the same follows when it
// is replayed or gone on from.
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/tuning/metric.h"
#include "worker/tuning/program.h"

namespace thaw {
namespace {

using Action = Program::Action;

template <typename Message>
Message ParseText(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

DataSteps TenSteps() {
  return {.in_epoch = 10, .to_loss_units = [](int64_t, int64_t units) { return (units + 4) / 5; }};
}

// What somebody asks for once the trace is as long as this.
struct Asked {
  size_t at = 0;
  std::string action;
};

struct Played {
  std::string trace;
  internal::ProgramState end;
  std::vector<std::pair<std::string, internal::ProgramState>> boundaries;
  bool refused = false;
};

// Runs the program and writes down what it does: P enters a phase, s trains a step of a second, E
// evaluates, | ends a phase. What was asked for is taken at the first boundary that takes it.
Played Play(const v1::Training& training, bool has_validation, const std::vector<Asked>& asked,
            const std::pair<std::string, internal::ProgramState>& from = {}) {
  Program program(training, TenSteps(), has_validation);
  program.GoOnFrom(from.second, 0);
  Played played{.trace = from.first};
  const std::map<std::string, double> values = {{"accuracy", 0.5}, {"loss", 0.5}};
  while (played.trace.size() < 200) {
    while (program.DueReplay() != nullptr) program.Replay();
    while (static_cast<size_t>(program.state().steering()) < asked.size()) {
      v1::SteeringRecord record;
      record.set_number(program.state().steering() + 1);
      const Asked& next = asked[program.state().steering()];
      *record.mutable_action() = ParseText<v1::Steering>(next.action);
      if (played.trace.size() < next.at || !program.Takes(record.action())) break;
      played.refused = !program.Steer(record) || played.refused;
    }
    played.boundaries.emplace_back(played.trace, program.state());
    switch (program.Next()) {
      case Action::kEnterPhase:
        played.trace += 'P';
        program.PhaseEntered(0);
        break;
      case Action::kTrainStep:
        played.trace += 's';
        program.SecondsPassed(1);
        program.StepDone();
        break;
      case Action::kEvaluate:
        played.trace += 'E';
        program.EvaluationDone(values);
        break;
      case Action::kEndPhase:
        played.trace += '|';
        program.PhaseEnded();
        break;
      case Action::kFinish:
        played.end = program.state();
        return played;
    }
  }
  ADD_FAILURE() << "no end: " << played.trace;
  return played;
}

struct SteerCase {
  std::string training;
  bool has_validation;
  std::vector<Asked> asked;
  std::string expected;
  std::string steered;  // step and action, in text format
};

const std::vector<SteerCase>& Cases() {
  static const auto* const cases = new std::vector<SteerCase>{
      {"phases { steps: 4 } phases { steps: 2 }",
       false,
       {{3, "next_phase: true"}},
       "Pss|Pss|",
       "2 next_phase: true"},
      // Before anything is trained it waits for a step.
      {"phases { steps: 4 } phases { steps: 2 }",
       true,
       {{0, "next_phase: true"}},
       "PsE|PssE|",
       "1 next_phase: true"},
      // In the last phase it is the job's end.
      {"phases { steps: 4 }", true, {{2, "next_phase: true"}}, "PsE|", "1 next_phase: true"},
      {"phases { plateau { patience: 2 max_epochs: 9 } } phases { steps: 1 }",
       true,
       {{3, "next_phase: true"}},
       "PssE|PsE|",
       "2 next_phase: true"},
      // While an evaluation runs: the phase ends behind it, without another one.
      {"phases { steps: 4 } phases { steps: 1 } evaluation { every_steps: 2 }",
       true,
       {{4, "next_phase: true"}},
       "PssE|PsE|",
       "2 next_phase: true"},
      // Once told to end it stays so.
      {"phases { steps: 4 }",
       true,
       {{2, "next_phase: true"}, {2, "extend_steps: 3"}},
       "PsE|",
       "1 next_phase: true, 1 extend_steps: 3"},
      {"phases { steps: 2 } phases { steps: 1 }",
       false,
       {{2, "extend_steps: 2"}},
       "Pssss|Ps|",
       "1 extend_steps: 2"},
      // After its last step too, but not any more while its last evaluation runs: then it is the
      // next phase's.
      {"phases { steps: 2 } phases { steps: 1 }",
       true,
       {{3, "extend_steps: 2"}},
       "PssssE|PsE|",
       "2 extend_steps: 2"},
      {"phases { steps: 2 } phases { steps: 1 }",
       true,
       {{4, "extend_steps: 2"}},
       "PssE|PsssE|",
       "3 extend_steps: 2"},
      {"phases { epochs: 0.2 }",
       false,
       {{2, "extend_epochs: 0.11"}},
       "Pssss|",
       "1 extend_epochs: 0.11"},
      {"phases { loss_units: 10 }", false, {{2, "extend_steps: 1"}}, "Psss|", "1 extend_steps: 1"},
      // What waits keeps its place.
      {"phases { steps: 4 } phases { steps: 2 } evaluation { every_steps: 2 }",
       true,
       {{4, "extend_steps: 1"}, {4, "next_phase: true"}},
       "PssEsE|PssE|",
       "3 extend_steps: 1, 3 next_phase: true"},
      // The end with an evaluation only where one is due or was never done.
      {"phases { steps: 9 } phases { steps: 2 }",
       true,
       {{3, "stop: true"}},
       "PssE",
       "2 stop: true"},
      {"phases { steps: 9 } evaluation { every_steps: 2 }",
       true,
       {{5, "stop: true"}},
       "PssEs",
       "3 stop: true"},
      {"phases { steps: 9 } evaluation { every_steps: 2 }",
       true,
       {{3, "stop: true"}},
       "PssE",
       "2 stop: true"},
      {"phases { steps: 9 } evaluation { every_steps: 2 }",
       true,
       {{4, "stop: true"}},
       "PssE",
       "2 stop: true"},
      {"phases { steps: 9 } evaluation { every_steps: 2 keep_best: false }",
       true,
       {{5, "stop: true"}},
       "PssEsE",
       "3 stop: true"},
      {"phases { steps: 9 }", false, {{3, "stop: true"}}, "Pss", "2 stop: true"},
      // A checkpoint leaves no trace.
      {"phases { steps: 2 }", false, {{2, "checkpoint: true"}}, "Pss|", ""},
      // The clock's ends are noted beside.
      {"phases { wall_time { seconds: 3 } } phases { steps: 3 }",
       true,
       {{7, "next_phase: true"}},
       "PsssE|PsE|",
       "3 next_phase: true, 4 next_phase: true"},
      {"phases { wall_time { seconds: 3 } }",
       false,
       {{2, "extend_steps: 3"}},
       "Psss|",
       "3 next_phase: true"},
      {"phases { steps: 3 }",
       false,
       {{2, "scale_rate: 0.5"}, {3, "scale_rate: 0.5"}},
       "Psss|",
       "1 scale_rate: 0.5, 2 scale_rate: 0.5"},
  };
  return *cases;
}

std::string SteeredText(const internal::ProgramState& state) {
  std::string text;
  for (const v1::SteeredStep& done : state.steered()) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", done.step(), " ",
                    done.action().ShortDebugString());
  }
  return text;
}

// Of two runs that came to the same: how they were told to does not count.
bool SameState(internal::ProgramState a, internal::ProgramState b) {
  for (internal::ProgramState* state : {&a, &b}) {
    state->clear_steering();
    state->clear_replayed();
    state->clear_out_of_time();  // or told_to_end
    state->clear_told_to_end();
  }
  return google::protobuf::util::MessageDifferencer::Equals(a, b);
}

TEST(ProgramSteering, WhatFollows) {
  for (const SteerCase& test : Cases()) {
    const v1::Training training = ParseText<v1::Training>(test.training);
    const Played played = Play(training, test.has_validation, test.asked);
    const std::string name = absl::StrCat(test.training, " with ", test.asked[0].action);
    EXPECT_EQ(played.trace, test.expected) << name;
    EXPECT_EQ(SteeredText(played.end), test.steered) << name;
  }
}

TEST(ProgramSteering, ReplayedTheSameFollows) {
  for (const SteerCase& test : Cases()) {
    v1::Training training = ParseText<v1::Training>(test.training);
    const Played played = Play(training, test.has_validation, test.asked);
    *training.mutable_replay() = played.end.steered();
    // The clock decides nothing more.
    for (v1::Phase& phase : *training.mutable_phases()) {
      if (phase.has_wall_time()) phase.mutable_wall_time()->set_seconds(1);
    }
    const Played again = Play(training, test.has_validation, {});
    EXPECT_EQ(again.trace, played.trace) << test.training << " with " << test.asked[0].action;
    EXPECT_EQ(SteeredText(again.end), test.steered);
    EXPECT_TRUE(SameState(again.end, played.end)) << again.end.ShortDebugString() << "\n"
                                                  << played.end.ShortDebugString();
    for (const auto& boundary : again.boundaries) {
      EXPECT_EQ(Play(training, test.has_validation, {}, boundary).trace, played.trace)
          << "from " << boundary.first;
    }
  }
}

TEST(ProgramSteering, GoneOnFromAnyBoundaryTheSameFollows) {
  for (const SteerCase& test : Cases()) {
    const v1::Training training = ParseText<v1::Training>(test.training);
    const Played played = Play(training, test.has_validation, test.asked);
    for (const auto& boundary : played.boundaries) {
      const Played resumed = Play(training, test.has_validation, test.asked, boundary);
      EXPECT_EQ(resumed.trace, played.trace) << test.training << " from " << boundary.first;
      EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(resumed.end, played.end))
          << test.training << " from " << boundary.first;
    }
  }
}

TEST(ProgramSteering, APhaseByTheClockCannotBeMadeLonger) {
  for (const char* const until :
       {"wall_time { seconds: 2 }", "convergence { max_iterations: 2 }"}) {
    const v1::Training training = ParseText<v1::Training>(absl::StrCat("phases { ", until, " }"));
    Program program(training, TenSteps(), false);
    program.PhaseEntered(0);
    program.StepDone();
    v1::SteeringRecord record;
    record.set_number(1);
    record.mutable_action()->set_extend_steps(5);
    EXPECT_FALSE(program.Steer(record)) << until;
    EXPECT_EQ(program.state().steering(), 1);
    EXPECT_EQ(program.state().steered_size(), 0);
  }
}

TEST(ProgramSteering, RatesScaleAndSchedulesStretch) {
  // A linear one over the phase's four steps, and over those of the job.
  for (const bool whole : {false, true}) {
    const v1::Training training = ParseText<v1::Training>(
        whole ? "phases { steps: 4 } phases { steps: 4 } schedule { shape: LINEAR }"
              : "phases { steps: 4 schedule { shape: LINEAR } }");
    Program program(training, TenSteps(), false);
    program.PhaseEntered(0);
    program.StepDone();
    program.StepDone();
    const int64_t steps = whole ? 8 : 4;
    EXPECT_DOUBLE_EQ(program.rate_share(), 1 - 2.0 / static_cast<double>(steps));
    v1::SteeringRecord record;
    record.mutable_action()->set_extend_steps(4);
    EXPECT_TRUE(program.Steer(record));
    EXPECT_DOUBLE_EQ(program.rate_share(), 1 - 2.0 / static_cast<double>(steps + 4));
    EXPECT_EQ(program.phase_length().steps, 8);
    EXPECT_EQ(program.total_steps(), steps + 4);
    record.mutable_action()->set_scale_rate(0.25);
    EXPECT_TRUE(program.Steer(record));
    EXPECT_DOUBLE_EQ(program.rate_share(), 0.25 * (1 - 2.0 / static_cast<double>(steps + 4)));
    if (!whole) continue;
    // A phase that ends early brings the job's end nearer; the scale stays.
    program.PhaseEnded();
    program.PhaseEntered(1);
    EXPECT_EQ(program.total_steps(), 6);
    EXPECT_DOUBLE_EQ(program.rate_share(), 0.25 * (1 - 2.0 / 6));
  }
}

TEST(ProgramSteering, ScalesStayWithinBounds) {
  const v1::Training training = ParseText<v1::Training>("phases { steps: 4 }");
  for (const double factor : {0.001, 1000.0}) {
    Program program(training, TenSteps(), false);
    program.PhaseEntered(0);
    program.StepDone();
    v1::SteeringRecord record;
    record.mutable_action()->set_scale_rate(factor);
    for (int i = 0; i < 5; ++i) EXPECT_TRUE(program.Steer(record));
    EXPECT_DOUBLE_EQ(program.rate_share(), factor < 1 ? 1e-6 : 1e6);
  }
}

}  // namespace
}  // namespace thaw
