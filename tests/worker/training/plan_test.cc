// What a plan says beside what the training then does.
#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/base/files.h"
#include "common/spec/planned_training.h"
#include "tests/worker/training/toy_job.h"
#include "thaw/v1/plan.pb.h"
#include "worker/training/plan_steps.h"
#include "worker/tuning/program.h"

namespace thaw {
namespace {

internal::Run PlanOf(internal::Run run) {
  v1::JobSpec* spec = run.mutable_assignment()->mutable_spec();
  *spec = WithPlan(*spec);
  run.set_work_dir(FreshDirectory("plan"));
  EXPECT_TRUE(MakeDirectories(run.work_dir()).ok());
  return run;
}

v1::PlanReport ReportOf(const internal::Run& run) {
  const auto json = ReadFile(run.work_dir() + "/result/plan.json");
  EXPECT_TRUE(json.ok()) << json.status();
  v1::PlanReport report;
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json.value_or("{}"), &report).ok());
  return report;
}

constexpr char kProgram[] = R"(
  validation_fraction: 0.2 max_length: 8 evaluation { every_epochs: 0.5 keep_best: true }
  batch { examples_per_step: 8 tokens_per_micro_step: 64 } checkpoint { every_steps: 5 }
  phases { name: "head" selector { head_only: true } learning_rate: 0.01 epochs: 1 }
  phases { name: "all" selector { everything: true } learning_rate: 0.001 steps: 17 restore_best: true
           optimizer_state: RESET })";

TEST(PlanTest, SaysWhatTheTrainingThenDoes) {
  const internal::Run training =
      ToyTraining(MakeToyModel(FreshDirectory("model"), 0.1),
                  MakeToyDataset(FreshDirectory("dataset"), 100, 5), kProgram);
  const internal::Run plan = PlanOf(training);
  RecordingSink planned, trained;
  const internal::Ended ended = RunAttempt(plan, &planned);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  const internal::Ended real = RunAttempt(training, &trained);
  ASSERT_EQ(real.end().outcome(), v1::AttemptEnd::SUCCEEDED) << real.ShortDebugString();

  const v1::PlanReport report = ReportOf(plan);
  EXPECT_EQ(report.format_version(), 1);
  EXPECT_EQ(report.training().rows() + report.validation().rows(), 100);
  EXPECT_EQ(report.training().loss_units(), report.training().rows());
  EXPECT_LE(report.training().length().max(), 8);
  EXPECT_EQ(report.steps(), real.metrics().at("steps"));
  ASSERT_EQ(report.phases_size(), 2);
  ASSERT_EQ(trained.Phases().size(), 2u);
  int64_t tokens = 0;
  for (int i = 0; i < 2; ++i) {
    const v1::PlannedPhase& phase = report.phases(i);
    const v1::PhaseStart began = trained.Phases()[static_cast<size_t>(i)];
    EXPECT_EQ(phase.name(), began.name());
    EXPECT_EQ(phase.steps(), began.steps());
    EXPECT_EQ(phase.trainable_parameters(), began.trainable_parameters());
    EXPECT_EQ(report.parameters(), began.total_parameters());
    EXPECT_GT(phase.cpu_seconds(), 0);
    EXPECT_GT(phase.peak_memory_bytes(), 0);
    EXPECT_LE(phase.peak_memory_bytes(), report.peak_memory_bytes());
    tokens += phase.tokens();
  }
  EXPECT_EQ(tokens, real.metrics().at("tokens"));
  EXPECT_EQ(ended.metrics().at("rows"), report.training().rows());
  EXPECT_EQ(ended.metrics().at("truncated_rows"), report.training().truncated_rows());
}

TEST(PlanTest, LeavesNothingButItsReportAndTellsNothingOfATraining) {
  const internal::Run plan =
      PlanOf(ToyTraining(MakeToyModel(FreshDirectory("model"), 0.1),
                         MakeToyDataset(FreshDirectory("dataset"), 100, 5), kProgram));
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(plan, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(plan.work_dir())) {
    if (entry.is_regular_file()) files.push_back(entry.path().filename());
  }
  EXPECT_THAT(files, ::testing::ElementsAre("plan.json"));
  EXPECT_TRUE(sink.checkpoints.empty());
  EXPECT_TRUE(sink.Phases().empty());
  EXPECT_TRUE(sink.Series("loss").empty());
}

TEST(PlanTest, FailsAsTheTrainingWould) {
  const internal::Run plan = PlanOf(ToyTraining(
      MakeToyModel(FreshDirectory("model"), 0), MakeToyDataset(FreshDirectory("dataset"), 50, 5),
      R"(phases { selector { name_pattern: "nothing.*" } learning_rate: 0.1 steps: 1 })"));
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(plan, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::FAILED);
  EXPECT_EQ(ended.end().failure().blame(), v1::Failure::USER);
  EXPECT_THAT(ended.end().failure().message(),
              ::testing::HasSubstr("spec.plan.training.phases[0]"));
}

TEST(PlanTest, SaysWhatIsKeptFromPassToPass) {
  const std::string model = MakeToyModel(FreshDirectory("model"), 0);
  const std::string dataset = MakeToyDataset(FreshDirectory("dataset"), 100, 5);
  constexpr char kPhases[] = R"(
    validation_fraction: 0.2
    phases { name: "head" selector { head_only: true } learning_rate: 0.01 epochs: 3 }
    phases { name: "all" selector { everything: true } learning_rate: 0.001 epochs: 2 })";
  for (const auto& [use, kept] : {std::pair("AUTO", true), std::pair("OFF", false)}) {
    const internal::Run plan = PlanOf(ToyTraining(
        model, dataset, std::string(kPhases) + "activation_cache { use: " + use + " }"));
    RecordingSink sink;
    ASSERT_EQ(RunAttempt(plan, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
    const v1::PlanReport report = ReportOf(plan);
    EXPECT_EQ(report.phases(0).cached(), kept) << use;
    EXPECT_FALSE(report.phases(1).cached()) << use;
  }
}

TEST(PlanTest, KeepsInAFileWhatMemoryHasNoRoomFor) {
  const std::string model = MakeToyModel(FreshDirectory("model"), 0);
  const std::string dataset = MakeToyDataset(FreshDirectory("dataset"), 100, 5);
  int64_t allocated = 0;
  ScratchDisk disk = DiskWith(int64_t{1} << 40);
  disk.allocate = [&allocated](int fd, int64_t offset, int64_t bytes) {
    allocated += bytes;
    return AllocateInFile(fd, offset, bytes);
  };
  const internal::Run plan = PlanOf(ToyTraining(model, dataset, R"(
    validation_fraction: 0
    activation_cache { max_bytes: 3000 }
    phases { name: "head" selector { last_blocks: 1 } learning_rate: 0.01 epochs: 3 })"));
  RecordingSink sink;
  Control control;
  ASSERT_EQ(RunAttempt(plan, &sink, &control, RealClock(), disk).end().outcome(),
            v1::AttemptEnd::SUCCEEDED);
  EXPECT_TRUE(ReportOf(plan).phases(0).cached());
  EXPECT_GT(allocated, 0);
  EXPECT_THAT(sink.LogLines(), ::testing::Contains(::testing::HasSubstr("of memory and 1.0 MiB")));
}

TEST(PlanTest, APhaseThatConvergesIsOneTurn) {
  v1::Training training;
  v1::Phase* phase = training.add_phases();
  phase->mutable_selector()->set_head_only(true);
  phase->mutable_convergence()->set_max_iterations(500);
  Program program(training, {.in_epoch = 10, .to_loss_units = {}}, true);
  program.PhaseEntered(0);
  const PhaseTurns turns = TurnsOfPhase(program, 0, 1, 200);
  EXPECT_EQ(turns.evaluations, 1);
  EXPECT_EQ(turns.checkpoints, 1);

  const internal::Run plan = PlanOf(ToyTraining(
      MakeToyModel(FreshDirectory("model"), 0), MakeToyDataset(FreshDirectory("dataset"), 100, 5),
      R"(validation_fraction: 0.2 pooled_head { export_features: true }
         phases { selector { head_only: true } convergence { max_iterations: 40 } })"));
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(plan, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  const v1::PlanReport report = ReportOf(plan);
  EXPECT_EQ(report.phases(0).steps(), 40);
  EXPECT_EQ(report.phases(0).tokens(), report.training().tokens());
  EXPECT_FALSE(report.phases(0).cached());
}

TEST(PlanTest, EndsWhenTold) {
  const internal::Run plan =
      PlanOf(ToyTraining(MakeToyModel(FreshDirectory("model"), 0),
                         MakeToyDataset(FreshDirectory("dataset"), 50, 5), kProgram));
  for (const auto& [ask, outcome] : {std::pair(&Control::RequestPause, v1::AttemptEnd::PAUSED),
                                     std::pair(&Control::RequestStop, v1::AttemptEnd::STOPPED)}) {
    Control control;
    (control.*ask)();
    RecordingSink sink;
    EXPECT_EQ(RunAttempt(plan, &sink, &control).end().outcome(), outcome);
  }
}

TEST(PlanTest, ASampleTakesTheMiddleOfEachPart) {
  std::vector<PhaseSteps::Step> steps;
  for (int64_t i = 0; i < 10; ++i) {
    steps.push_back(
        {.cursor = {.epoch = 0, .position = (i * 7) % 10}, .work = static_cast<double>(i)});
  }
  const auto works = [&](int64_t count) {
    std::vector<double> found;
    for (const PhaseSteps::Step& step : Sample(steps, count)) found.push_back(step.work);
    return found;
  };
  EXPECT_THAT(works(2), ::testing::UnorderedElementsAre(2, 7));
  EXPECT_THAT(works(5), ::testing::UnorderedElementsAre(1, 3, 5, 7, 9));
  EXPECT_EQ(works(20).size(), 10u);
}

}  // namespace
}  // namespace thaw
