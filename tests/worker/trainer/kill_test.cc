// kill -9 of the real trainer, again and again, until the job is through.
#include <gtest/gtest.h>

#include <iostream>
#include <map>
#include <random>

#include "common/base/files.h"
#include "tests/worker/trainer/trainer_process.h"
#include "tests/worker/training/toy_job.h"

namespace thaw {
namespace {

constexpr char kTraining[] = R"(
  validation_fraction: 0.2
  phases { name: "head" selector { head_only: true } learning_rate: 0.01 epochs: 2 }
  phases { name: "top" selector { last_blocks: 1 } learning_rate: 0.005 learning_rate_decay: 2.6
           schedule { shape: SLANTED_TRIANGULAR } epochs: 2 }
  phases { name: "all" selector { everything: true } learning_rate: 0.003 epochs: 2
           restore_best: true optimizer_state: RESET }
  checkpoint { every_steps: 2 }
)";
constexpr int kKills = 20;

TEST(KillNine, TwentyTimesAndTheBitsAreThoseOfARunWithoutIt) {
  const std::string model = MakeToyModel(FreshDirectory("model"), 0.1);
  const std::string dataset = MakeToyDataset(FreshDirectory("dataset"), 100, 5);
  const auto job = [&](const std::string& checkpoint) {
    internal::Run run = ToyTraining(model, dataset, kTraining);
    run.set_checkpoint_dir(checkpoint);
    run.set_threads(2);
    return run;
  };
  std::map<int64_t, double> losses;
  int mismatches = 0;
  const auto compare = [&](const v1::Event& event, bool reference) {
    for (const v1::MetricPoint& point : event.metric_points().points()) {
      if (point.values(0).name() != "loss") continue;
      if (reference) {
        losses[point.step()] = point.values(0).value();
      } else if (losses.at(point.step()) != point.values(0).value()) {
        ++mismatches;
      }
    }
  };
  const std::vector<std::string> every_point = {"--point_interval", "0"};

  const internal::Run straight = job("");
  {
    TrainerProcess trainer(every_point);
    trainer.SendRun(straight);
    bool ended = false;
    while (const auto frame = trainer.Receive()) {
      if (frame->has_event()) compare(frame->event(), true);
      ended |= frame->has_ended();
    }
    ASSERT_TRUE(ended);
    EXPECT_EQ(trainer.Wait(), 0);
  }

  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  std::string checkpoint, result;
  int kills = 0, attempts = 0;
  while (result.empty()) {
    ASSERT_LT(++attempts, 5 * kKills) << "no progress, seed " << seed;
    const internal::Run run = job(checkpoint);
    TrainerProcess trainer(every_point);
    trainer.SendRun(run);
    // Frames to read before the kill; the trainer is somewhere beyond them by then.
    int frames_left = kills < kKills ? static_cast<int>(1 + random() % 14) : 1'000'000;
    while (frames_left-- > 0) {
      const auto frame = trainer.Receive();
      ASSERT_TRUE(frame.has_value()) << "seed " << seed;
      if (frame->has_event()) compare(frame->event(), false);
      if (frame->has_checkpoint_ready()) {
        checkpoint = run.work_dir() + "/" + frame->checkpoint_ready().dir();
      }
      if (frame->has_ended()) {
        ASSERT_EQ(frame->ended().end().outcome(), v1::AttemptEnd::SUCCEEDED)
            << frame->ShortDebugString();
        result = ResultWeights(run);
        break;
      }
    }
    if (result.empty()) {
      trainer.Kill9();
      ++kills;
    }
  }
  std::cout << "kill -9: seed " << seed << ", points tried " << kills << ", steps " << losses.size()
            << ", mismatches " << mismatches << std::endl;
  EXPECT_GE(kills, kKills);
  EXPECT_EQ(mismatches, 0);
  EXPECT_EQ(result, ResultWeights(straight)) << "seed " << seed;
}

}  // namespace
}  // namespace thaw
