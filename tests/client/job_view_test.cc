#include "client/cli/job_view.h"

#include "client/cli/format.h"
#include "gmock/gmock.h"

namespace thaw {
namespace {

using testing::HasSubstr;
using testing::Not;

v1::Progress HalfWay() {
  v1::Progress progress;
  progress.set_step(500);
  progress.set_total_steps(1000);
  progress.set_phase(2);
  progress.set_phase_count(3);
  progress.set_phase_name("last 2 blocks");
  progress.set_loss(0.4123);
  progress.set_metric_name("accuracy");
  progress.set_metric(0.8);
  progress.set_best_metric(0.81);
  progress.set_eta_seconds(75);
  progress.set_tokens_per_second(4200);
  progress.set_learning_rate(0.0003);
  return progress;
}

// What a view writes where there is no terminal.
class JobViewTest : public testing::Test {
 protected:
  JobViewTest() : file_(std::tmpfile()), console_(file_, false, 100), view_(&console_) {}
  ~JobViewTest() override { std::fclose(file_); }

  std::string Written() {
    std::fflush(file_);
    std::string text(static_cast<size_t>(std::ftell(file_)), '\0');
    std::rewind(file_);
    EXPECT_EQ(std::fread(text.data(), 1, text.size(), file_), text.size());
    return text;
  }
  v1::Event* NextEvent() { return message_.mutable_event(); }
  void Show() {
    view_.Show(message_);
    message_.Clear();
  }

  std::FILE* const file_;
  Console console_;
  JobView view_;
  v1::WatchJobResponse message_;
};

TEST(ProgressLineTest, SaysItAllAndLeavesOutWhatDoesNotFit) {
  EXPECT_EQ(ProgressLine(HalfWay(), 200),
            "2/3 last 2 blocks  ━━━━━━━━━━━━──────────── 50 %  step 500/1,000  loss 0.4123  "
            "accuracy 80.0 % "
            "(best 81.0 %)  ETA 1:15  4,200 tok/s  lr 0.0003");
  for (const int width : {1, 10, 40, 80, 100, 120}) {
    EXPECT_LE(Columns(ProgressLine(HalfWay(), width)), width);
  }
  EXPECT_THAT(ProgressLine(HalfWay(), 100), Not(HasSubstr("tok/s")));
}

TEST(ProgressLineTest, CountsRowsOfAPrediction) {
  v1::Progress progress;
  progress.set_rows_done(30);
  progress.set_rows_total(40);
  EXPECT_THAT(ProgressLine(progress, 100), HasSubstr("75 %  row 30/40"));
}

TEST_F(JobViewTest, ShowsPhasesEvaluationsWarningsAndStates) {
  v1::PhaseStart* phase = NextEvent()->mutable_phase_start();
  phase->set_phase(1);
  phase->set_name("head");
  phase->set_steps(250);
  phase->set_trainable_parameters(770);
  phase->set_total_parameters(77'000);
  phase->add_rates()->set_learning_rate(0.002);
  Show();
  v1::EvaluationEnd* evaluation = NextEvent()->mutable_evaluation_end();
  evaluation->set_step(250);
  (*evaluation->mutable_values())["accuracy"] = 0.75;
  evaluation->set_best(true);
  Show();
  NextEvent()->mutable_warning()->set_message("3 rows were\x1b[31m truncated");
  Show();
  NextEvent()->mutable_state_change()->set_to(v1::Job::QUEUED);
  message_.mutable_event()->mutable_state_change()->set_reason("its worker was lost");
  Show();
  const std::string text = Written();
  EXPECT_THAT(text, HasSubstr("phase 1 head: 770 parameters train (1.0 %), 250 steps, lr 0.002\n"));
  EXPECT_THAT(text, HasSubstr("step 250: validation accuracy 75.0 %  (best)\n"));
  EXPECT_THAT(text, HasSubstr("warning: 3 rows were [31m truncated\n"));
  EXPECT_THAT(text, HasSubstr("QUEUED: its worker was lost\n"));
}

TEST_F(JobViewTest, WithoutATerminalProgressIsALineForEveryTwentieth) {
  for (int step = 1; step <= 1000; ++step) {
    *message_.mutable_progress() = HalfWay();
    message_.mutable_progress()->set_step(step);
    Show();
  }
  const std::string text = Written();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 21);
}

TEST_F(JobViewTest, TheCurveShowsOnlyTheLineThatSurvived) {
  const auto loss = [&](int64_t step, double value) {
    v1::MetricPoint* point = NextEvent()->mutable_metric_points()->add_points();
    point->set_step(step);
    v1::MetricValue* one = point->add_values();
    one->set_name("loss");
    one->set_value(value);
    Show();
  };
  for (int step = 1; step <= 10; ++step) loss(step, 1);
  for (int step = 11; step <= 20; ++step) loss(step, 999);
  NextEvent()->mutable_rolled_back()->set_to_step(10);
  Show();
  for (int step = 11; step <= 20; ++step) loss(step, 2);
  v1::Job job;
  job.set_id("job-1");
  job.set_state(v1::Job::SUCCEEDED);
  job.set_result("result-1");
  (*job.mutable_result_metrics())["accuracy"] = 0.8;
  view_.ShowEnd(job);
  const std::string text = Written();
  EXPECT_THAT(text, HasSubstr("goes on from the checkpoint of step 10"));
  EXPECT_THAT(text, Not(HasSubstr("999")));
  EXPECT_THAT(text, HasSubstr("job-1  SUCCEEDED, result result-1, accuracy 80.0 %"));
}

TEST_F(JobViewTest, ShowsWhichLabelsTheBestWeightsTookForWhich) {
  for (const bool best : {true, false}) {
    v1::EvaluationEnd* evaluation = NextEvent()->mutable_evaluation_end();
    evaluation->set_best(best);
    for (const char* label : {"good", "bad"}) evaluation->mutable_confusion()->add_labels(label);
    for (const int count : {7, best ? 1 : 5, 2, 8})
      evaluation->mutable_confusion()->add_counts(count);
    Show();
  }
  view_.ShowEnd(v1::Job());
  const std::string text = Written();
  EXPECT_THAT(text, HasSubstr("label  as good  as bad"));
  EXPECT_THAT(text, HasSubstr("good         7       1"));
  EXPECT_THAT(text, HasSubstr("bad          2       8"));
}

TEST_F(JobViewTest, TellsWhatWasAskedForAndDone) {
  v1::SteeringRecord* asked = NextEvent()->mutable_steering_asked();
  asked->set_number(3);
  asked->mutable_action()->set_scale_rate(0.5);
  Show();
  v1::SteeringRecord* applied = NextEvent()->mutable_steering_applied();
  applied->set_number(3);
  applied->set_step(1200);
  applied->mutable_action()->set_scale_rate(0.5);
  Show();
  applied = NextEvent()->mutable_steering_applied();
  applied->set_step(1300);
  applied->mutable_action()->set_next_phase(true);
  Show();
  const std::string text = Written();
  EXPECT_THAT(text, HasSubstr("asked for (3): rates times 0.5\n"));
  EXPECT_THAT(text, HasSubstr("done after step 1,200 (3): rates times 0.5\n"));
  EXPECT_THAT(text, HasSubstr("done after step 1,300 as in the run before: the next phase\n"));
}

TEST_F(JobViewTest, AFailureNamesBlameAndRemedy) {
  v1::Job job;
  job.set_id("job-1");
  job.set_state(v1::Job::FAILED);
  job.mutable_failure()->set_blame(v1::Failure::RESOURCE);
  job.mutable_failure()->set_reason("OUT_OF_MEMORY");
  job.mutable_failure()->set_message("needs 9 GiB; lower batch.tokens_per_micro_step");
  view_.ShowEnd(job);
  EXPECT_THAT(Written(), HasSubstr("blame: RESOURCE (OUT_OF_MEMORY)\nneeds 9 GiB; lower "
                                   "batch.tokens_per_micro_step"));
}

}  // namespace
}  // namespace thaw
