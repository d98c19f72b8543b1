#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <stdexcept>

#include "common/base/clock.h"
#include "common/base/files.h"
#include "common/base/unique_fd.h"
#include "common/frames/frame.h"
#include "tests/worker/trainer/trainer_process.h"
#include "tests/worker/training/toy_job.h"
#include "torch/types.h"
#include "worker/kernels/scratch.h"
#include "worker/trainer/attempt.h"
#include "worker/trainer/frame_sink.h"
#include "worker/trainer/process.h"
#include "worker/training/failure.h"

namespace thaw {
namespace {

constexpr char kEndless[] =
    "validation_fraction: 0 phases { selector { everything: true } learning_rate: 1e-6 steps: "
    "1000000 } checkpoint { every_steps: 1000000 }";

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest()
      : model_(MakeToyModel(FreshDirectory("model"), 0.1)),
        dataset_(MakeToyDataset(FreshDirectory("dataset"), 60, 5)) {}

  internal::Run Job(const std::string& training) {
    internal::Run run = ToyTraining(model_, dataset_, training);
    run.set_threads(1);
    return run;
  }

  // Reads until the first metric point: it trains.
  static void ReceiveUntilTraining(TrainerProcess* trainer) {
    while (const auto frame = trainer->Receive()) {
      if (frame->event().has_metric_points()) return;
    }
    FAIL() << "the trainer ended before its first step";
  }

  const std::string model_;
  const std::string dataset_;
};

TEST_F(TrainerTest, TrainsAndExitsWithZero) {
  const internal::Run run =
      Job("validation_fraction: 0.2 phases { selector { head_only: true } learning_rate: 0.01 "
          "epochs: 1 "
          "}");
  TrainerProcess trainer;
  trainer.SendRun(run);
  const auto first = trainer.Receive();
  ASSERT_TRUE(first.has_value());
  EXPECT_TRUE(first->has_beat());
  const auto ended = trainer.ReceiveEnd();
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended->ShortDebugString();
  EXPECT_TRUE(Exists(run.work_dir() + "/" + ended->result_dir() + "/model.safetensors"));
  EXPECT_EQ(trainer.Wait(), 0);
}

TEST_F(TrainerTest, PredictsAndExitsWithZero) {
  const internal::Run run = ToyPrediction(model_, dataset_, "");
  TrainerProcess trainer;
  trainer.SendRun(run);
  const auto ended = trainer.ReceiveEnd();
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended->ShortDebugString();
  EXPECT_TRUE(Exists(run.work_dir() + "/result/predictions.jsonl"));
  EXPECT_EQ(trainer.Wait(), 0);
}

TEST_F(TrainerTest, ExitsWhenTheWorkerIsGone) {
  TrainerProcess trainer;
  trainer.SendRun(Job(kEndless));
  ReceiveUntilTraining(&trainer);
  trainer.CloseSocket();
  EXPECT_EQ(trainer.Wait(), 0);
}

TEST_F(TrainerTest, HoldsResumesChecksAndPauses) {
  TrainerProcess trainer;
  trainer.SendRun(Job(kEndless));
  ReceiveUntilTraining(&trainer);
  internal::ToTrainer frame;
  frame.mutable_hold();
  trainer.Send(frame);
  frame.mutable_write_checkpoint();
  trainer.Send(frame);
  int64_t checkpoint_step = 0;
  while (checkpoint_step == 0) {
    const auto answer = trainer.Receive();
    ASSERT_TRUE(answer.has_value());
    checkpoint_step = answer->checkpoint_ready().step();
  }
  frame.mutable_resume();
  trainer.Send(frame);
  frame.mutable_pause();
  trainer.Send(frame);
  const auto ended = trainer.ReceiveEnd();
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->end().outcome(), v1::AttemptEnd::PAUSED);
  EXPECT_GE(ended->end().step(), checkpoint_step);
  EXPECT_EQ(trainer.Wait(), 0);
}

TEST_F(TrainerTest, AFailedJobIsNoFailedTrainer) {
  internal::Run run = Job(kEndless);
  run.set_model_dir(FreshDirectory("empty"));
  TrainerProcess trainer;
  trainer.SendRun(run);
  const auto ended = trainer.ReceiveEnd();
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->end().outcome(), v1::AttemptEnd::FAILED);
  EXPECT_FALSE(ended->end().failure().message().empty());
  EXPECT_EQ(trainer.Wait(), 0);
}

TEST_F(TrainerTest, WithoutAnAssignmentExitsWithOne) {
  {
    TrainerProcess trainer;
    trainer.CloseSocket();
    const int status = trainer.Wait();
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
  }
  TrainerProcess trainer;
  internal::ToTrainer frame;
  frame.mutable_stop();
  trainer.Send(frame);
  const int status = trainer.Wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
}

TEST_F(TrainerTest, WaitsWithItsModelForTheNextPrediction) {
  const auto prediction = [](const std::string& directory) {
    internal::Run run = ToyPrediction(directory, "", R"(texts { values: "w1 w2" })");
    run.set_warm_key("d");
    run.set_threads(1);
    return run;
  };
  TrainerProcess trainer;
  const internal::Run first = prediction(model_);
  trainer.SendRun(first);
  std::optional<internal::Ended> ended = trainer.ReceiveEnd();
  ASSERT_TRUE(ended && ended->waits());
  // Late: it concerns what has ended.
  internal::ToTrainer pause;
  pause.mutable_pause();
  trainer.Send(pause);
  internal::Run second = prediction("/nowhere");
  second.set_log_file(second.work_dir() + "/log");
  trainer.SendRun(second);
  ended = trainer.ReceiveEnd();
  ASSERT_TRUE(ended && ended->waits()) << ended->ShortDebugString();
  const std::string answers = "/result/predictions.jsonl";
  EXPECT_EQ(*ReadFile(first.work_dir() + answers), *ReadFile(second.work_dir() + answers));
  EXPECT_NE(ReadFile(second.log_file())->find("attempt_ended"), std::string::npos);
  // Not asked to, or with other work, it does not wait.
  internal::Run last = prediction(model_);
  last.clear_warm_key();
  trainer.SendRun(last);
  ended = trainer.ReceiveEnd();
  ASSERT_TRUE(ended.has_value());
  EXPECT_FALSE(ended->waits());
  EXPECT_EQ(trainer.Wait(), 0);
}

// Its output would be the earlier job's. The worker starts another one for it.
TEST_F(TrainerTest, EndsWithoutAWordWhenItCannotMoveToTheNextAttempt) {
  internal::Run run = ToyPrediction(model_, "", R"(texts { values: "w1 w2" })");
  run.set_warm_key("d");
  TrainerProcess trainer;
  trainer.SendRun(run);
  const std::optional<internal::Ended> ended = trainer.ReceiveEnd();
  ASSERT_TRUE(ended && ended->waits());
  run.set_log_file("/no/such/directory/log");
  trainer.SendRun(run);
  EXPECT_FALSE(trainer.Receive().has_value());
  const int status = trainer.Wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
}

// A frame whose text is not UTF-8 is refused where it is read, so the reason would be lost.
TEST(FrameSinkTest, MessagesAreWhatAFrameMayHold) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  FrameSink sink(theirs.get());
  v1::Event event;
  event.mutable_warning()->set_message("tensor \xff\x1b[31m");
  sink.Emit(event);
  event.mutable_log_line()->set_text("caf\xc3");
  sink.Emit(event);
  sink.End(FailedEnd(absl::InvalidArgumentError("caf\xc3\xa9 \xc3"), 0));
  internal::FromTrainer frame;
  ASSERT_TRUE(ReadFrame(ours.get(), &frame).value_or(false));
  EXPECT_EQ(frame.event().warning().message(), "tensor ? [31m");
  ASSERT_TRUE(ReadFrame(ours.get(), &frame).value_or(false));
  EXPECT_EQ(frame.event().log_line().text(), "caf?");
  ASSERT_TRUE(ReadFrame(ours.get(), &frame).value_or(false));
  EXPECT_EQ(frame.ended().end().failure().message(), "caf\xc3\xa9 ?");
}

struct ExceptionCase {
  std::function<void()> thrower;
  v1::AttemptEnd::Outcome outcome;
  v1::Failure::Blame blame;
};

TEST(CatchExceptions, EachBecomesAnEnd) {
  const std::vector<ExceptionCase> cases = {
      {[] { throw std::bad_alloc(); }, v1::AttemptEnd::OUT_OF_MEMORY, v1::Failure::RESOURCE},
      {[] { torch::empty({int64_t{1} << 50}); }, v1::AttemptEnd::OUT_OF_MEMORY,
       v1::Failure::RESOURCE},
      {[] {
         torch::ones({2, 3}).matmul(torch::ones({2, 3}));
       },
       v1::AttemptEnd::FAILED, v1::Failure::INTERNAL},
      {[] { throw std::runtime_error("odd"); }, v1::AttemptEnd::FAILED, v1::Failure::INTERNAL}};
  for (const ExceptionCase& test : cases) {
    const internal::Ended ended = CatchExceptions(
        [&] {
          test.thrower();
          return internal::Ended();
        },
        [] { return 7; });
    EXPECT_EQ(ended.end().outcome(), test.outcome) << ended.ShortDebugString();
    EXPECT_EQ(ended.end().failure().blame(), test.blame);
    EXPECT_EQ(ended.end().step(), 7);
  }
}

// Memory that one of several threads cannot have, in the midst of a training: an exception that
// left the thread would end the process. The next attempt goes on from the checkpoint.
TEST_F(TrainerTest, MemoryThatRunsOutInAParallelRegionEndsTheAttempt) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  internal::Run run = Job(
      "validation_fraction: 0 phases { selector { everything: true } learning_rate: 0.001 steps: 6 "
      "} checkpoint { every_steps: 2 }");
  RecordingSink sink;
  int64_t step = 0;
  sink.on_point = [&](const v1::MetricPoint& point) {
    step = point.step();
    // From the attention of the step after this one on.
    if (step == 3) LimitScratch(1);
  };
  const auto attempt = [&] {
    Control control;
    const AttemptContext context{
        .sink = &sink, .control = &control, .clock = &RealClock(), .point_interval_seconds = 0};
    return CatchExceptions([&] { return RunAssignment(run, context, nullptr); },
                           [&] { return step; });
  };
  const internal::Ended ended = attempt();
  LimitScratch(0);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::OUT_OF_MEMORY) << ended.ShortDebugString();
  EXPECT_EQ(ended.end().failure().blame(), v1::Failure::RESOURCE);
  EXPECT_EQ(ended.end().failure().reason(), "OUT_OF_MEMORY");
  EXPECT_EQ(ended.end().step(), 3);

  ASSERT_EQ(sink.checkpoints.back().step(), 2);
  run.set_checkpoint_dir(run.work_dir() + "/" + sink.checkpoints.back().dir());
  run.set_work_dir(FreshDirectory("work"));
  run.mutable_assignment()->set_micro_step_divisor(2);
  sink.on_point = [&](const v1::MetricPoint& point) { step = point.step(); };
  EXPECT_EQ(attempt().end().outcome(), v1::AttemptEnd::SUCCEEDED);
  EXPECT_EQ(step, 6);
  at::set_num_threads(threads);
}

TEST(RunAssignment, NeverFallsBackToTheCpu) {
  internal::Run run;
  run.mutable_assignment()->mutable_spec()->mutable_training();
  run.mutable_assignment()->mutable_spec()->mutable_resources()->set_device_kind(
      v1::Resources::CUDA);
  const v1::AttemptEnd end = RunAssignment(run, AttemptContext(), nullptr).end();
  EXPECT_EQ(end.outcome(), v1::AttemptEnd::FAILED);
  EXPECT_EQ(end.failure().blame(), v1::Failure::USER);
  EXPECT_EQ(end.failure().reason(), "DEVICE_NOT_SUPPORTED");
}

TEST(TrainerProgram, SaysWhatItComputesOn) {
  const std::string command = std::string(std::getenv("THAW_BIN")) + "/thaw-trainer --devices";
  FILE* const program = popen(command.c_str(), "re");
  ASSERT_NE(program, nullptr);
  char answer[256];
  const size_t size = fread(answer, 1, sizeof(answer), program);
  EXPECT_EQ(std::string(answer, size), "cpu\n");
  EXPECT_EQ(pclose(program), 0);
}

TEST(UsableCores, IsAtLeastOne) { EXPECT_GE(UsableCores(), 1); }

}  // namespace
}  // namespace thaw
