// Trainings in bf16: killed anywhere they end with the same bits, what is frozen keeps its bytes,
// and what is left is fp32.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <ostream>
#include <random>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/safetensors/safetensors.h"
#include "common/spec/planned_training.h"
#include "tests/worker/training/toy_job.h"
#include "worker/model/tensor_view.h"
#include "worker/training/run_precision.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

// Every way in which weights come to change: other trainables, a return to the best, groups that
// freeze again.
constexpr char kGradual[] = R"(
  validation_fraction: 0.2 precision: BF16
  phases { selector { head_only: true } learning_rate: 0.01 steps: 4 }
  phases { selector { last_blocks: 1 } learning_rate: 0.005 learning_rate_decay: 2.6 steps: 5 }
  phases { selector { name_pattern: ".*bias" } learning_rate: 0.01 steps: 3 restore_best: true
           optimizer_state: RESET }
  phases { selector { everything: true } learning_rate: 0.003 steps: 6 }
  evaluation { every_steps: 2 metric: LOSS }
)";
constexpr char kFull[] = R"(
  validation_fraction: 0 precision: BF16
  phases { selector { everything: true } learning_rate: 0.003 steps: 10 }
)";
constexpr char kAdapter[] = R"(
  validation_fraction: 0.2 precision: BF16 output: ADAPTER
  added_part { lora { rank: 4 alpha: 8 dropout: 0.2 } }
  phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 steps: 5 }
  phases { selector { kind: ADDED_PARTS and_not { last_blocks: 1 } } learning_rate: 0.01 steps: 5 }
  evaluation { every_steps: 3 metric: LOSS }
)";
constexpr char kMergedDora[] = R"(
  validation_fraction: 0 precision: BF16 output: MERGED
  added_part { lora { rank: 2 alpha: 4 dora: true } }
  phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 steps: 6 }
)";
constexpr char kBottlenecks[] = R"(
  validation_fraction: 0 precision: BF16 output: ADAPTER
  added_part { bottleneck { place: HOULSBY reduction: 4 scale: 1 } }
  phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 steps: 6 }
)";
constexpr char kPrefix[] = R"(
  validation_fraction: 0 precision: BF16 output: ADAPTER
  added_part { prefix_tuning { virtual_tokens: 4 } }
  phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 steps: 6 }
)";
constexpr char kPrompt[] = R"(
  validation_fraction: 0 precision: BF16 output: ADAPTER
  added_part { prompt_tuning { virtual_tokens: 4 } }
  phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 steps: 6 }
)";
constexpr char kIa3[] = R"(
  validation_fraction: 0 precision: BF16 output: MERGED
  added_part { ia3 {} }
  phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 steps: 6 }
)";

constexpr char kPooled[] = R"(
  validation_fraction: 0 precision: BF16 pooled_head { pooling: MEAN normalize: true hidden_size: 8 }
  phases { selector { head_only: true } learning_rate: 0.01 steps: 4 }
  phases { selector { everything: true } learning_rate: 0.003 steps: 6 }
)";
constexpr char kConvergence[] = R"(
  validation_fraction: 0 precision: BF16
  pooled_head { pooling: MAX blocks: 1 export_features: true }
  phases { selector { head_only: true } convergence { l2: 0.1 } }
)";

struct HalfCase {
  const char* name;
  const char* writer;  // a fixture that writes, trained on completions; null: the toy classifier
  const char* program;
};
void PrintTo(const HalfCase& one, std::ostream* out) { *out << one.name; }
constexpr HalfCase kCases[] = {{"bert_gradual", nullptr, kGradual},
                               {"bert_full", nullptr, kFull},
                               {"bert_lora", nullptr, kAdapter},
                               {"bert_dora", nullptr, kMergedDora},
                               {"bert_ia3", nullptr, kIa3},
                               {"bert_bottlenecks", nullptr, kBottlenecks},
                               {"bert_prefix", nullptr, kPrefix},
                               {"bert_prompt", nullptr, kPrompt},
                               {"bert_pooled", nullptr, kPooled},
                               {"bert_convergence", nullptr, kConvergence},
                               {"llama_full", "llama", kFull},
                               {"llama_lora", "llama", kAdapter},
                               {"gpt2_gradual", "gpt2", kGradual},
                               {"gpt2_prefix", "gpt2", kPrefix},
                               {"gpt2_bottlenecks", "gpt2", kBottlenecks},
                               {"t5_full", "t5", kFull},
                               {"t5_prompt", "t5", kPrompt}};

std::string WeightsOf(const internal::Run& run) {
  for (const char* file : {"model.safetensors", "adapter_model.safetensors"}) {
    const std::string path = absl::StrCat(run.work_dir(), "/result/", file);
    if (Exists(path)) return ReadFile(path).value();
  }
  ADD_FAILURE() << "no weights in " << run.work_dir();
  return "";
}

std::map<std::string, std::string> HashesIn(const std::string& path) {
  const auto file = SafetensorsFile::Open(path).value();
  std::map<std::string, std::string> hashes;
  for (const TensorInfo& info : file->tensors()) {
    EXPECT_EQ(info.type, ElementType::kF32) << info.name;
    hashes[info.name] = Sha256Hex(
        {static_cast<const char*>(file->Data(info)), static_cast<size_t>(info.end - info.begin)});
  }
  return hashes;
}

class HalfTraining : public ::testing::TestWithParam<HalfCase> {
 protected:
  internal::Run Job(int64_t every) const {
    const HalfCase& one = GetParam();
    const bool encoder = one.writer != nullptr && std::string(one.writer) == "t5";
    internal::Run run =
        ToyTraining(model_, dataset_,
                    absl::StrCat(one.program, "checkpoint { every_steps: ", every, " } ",
                                 one.writer == nullptr ? ""
                                 : encoder             ? "sequence_to_sequence {}"
                                                       : "completion {}"));
    return run;
  }

  const std::string model_ = GetParam().writer == nullptr
                                 ? MakeToyModel(FreshDirectory("model"), 0.1)
                                 : MakeToyWriter(FreshDirectory("model"), GetParam().writer, 0.1);
  const std::string dataset_ = GetParam().writer == nullptr
                                   ? MakeToyDataset(FreshDirectory("dataset"), 60, 5)
                                   : MakeToyTexts(FreshDirectory("dataset"), 60, 5);
};

// What goes on from a checkpoint rounds all of its weights anew: a half that was left behind
// anywhere would show.
TEST_P(HalfTraining, ResumesAnywhereWithTheSameBits) {
  const internal::Run straight = Job(1'000'000), dense = Job(1);
  RecordingSink straight_sink, dense_sink;
  const internal::Ended ended = RunAttempt(straight, &straight_sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  ASSERT_EQ(RunAttempt(dense, &dense_sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const std::string weights = WeightsOf(straight), history = ReceiptOf(straight).history_sha256();
  EXPECT_EQ(WeightsOf(dense), weights);
  std::vector<internal::CheckpointReady> points = dense_sink.checkpoints;
  const unsigned seed = std::random_device()();
  std::shuffle(points.begin(), points.end(), std::mt19937(seed));
  points.resize(std::min<size_t>(points.size(), 6));
  for (const internal::CheckpointReady& checkpoint : points) {
    internal::Run resumed = Job(1'000'000);
    resumed.set_checkpoint_dir(dense.work_dir() + "/" + checkpoint.dir());
    RecordingSink sink;
    const internal::Ended end = RunAttempt(resumed, &sink);
    ASSERT_EQ(end.end().outcome(), v1::AttemptEnd::SUCCEEDED) << end.ShortDebugString();
    EXPECT_TRUE(sink.Warnings().empty() || sink.Warnings()[0].reason() != "FINGERPRINT_CHANGED");
    EXPECT_TRUE(WeightsOf(resumed) == weights && ReceiptOf(resumed).history_sha256() == history)
        << "from " << checkpoint.ShortDebugString() << ", seed " << seed;
  }
}

// Near enough to fp32 that a mistake would show, and not the same.
TEST_P(HalfTraining, LosesLittleAgainstFp32) {
  const internal::Run half = Job(1'000'000);
  internal::Run full = Job(1'000'000);
  full.mutable_assignment()->mutable_spec()->mutable_training()->set_precision(v1::FP32);
  RecordingSink half_sink, full_sink;
  ASSERT_EQ(RunAttempt(half, &half_sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  ASSERT_EQ(RunAttempt(full, &full_sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const auto losses = half_sink.Series("loss"), expected = full_sink.Series("loss");
  // Solvers take steps of their own, and perhaps one more.
  if (half.assignment().spec().training().phases(0).has_convergence()) {
    EXPECT_NEAR(losses.rbegin()->second / expected.rbegin()->second, 1, 3e-2);
    return;
  }
  ASSERT_EQ(losses.size(), expected.size());
  double worst = 0;
  for (const auto& [step, loss] : expected) {
    worst = std::max(worst, std::abs(losses.at(step) / loss - 1));
  }
  std::printf("[ FIGURE   ] %s in bf16: losses differ from fp32's by at most %.1e\n",
              GetParam().name, worst);
  EXPECT_LT(worst, 3e-2);
  EXPECT_NE(losses, expected);
}

TEST_P(HalfTraining, WhatIsLeftIsFp32AndFrozenTensorsAreTheirOwnBytes) {
  internal::Run run = Job(1'000'000);
  v1::Training* training = run.mutable_assignment()->mutable_spec()->mutable_training();
  training->mutable_evaluation()->set_keep_best(false);
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  const std::string result = run.work_dir() + "/result/";
  if (training->output() == v1::Training::ADAPTER) {
    HashesIn(result + "adapter_model.safetensors");
  } else {
    std::set<std::string> trained;
    for (const v1::PhaseStart& phase : sink.Phases()) {
      trained.insert(phase.trainable_names().begin(), phase.trainable_names().end());
    }
    const auto before = HashesIn(model_ + "/model.safetensors");
    for (const auto& [name, hash] : HashesIn(result + "model.safetensors")) {
      // A fresh head has nothing to be compared with, and parts are merged into what is frozen.
      if (trained.contains(name) || !before.contains(name) || training->has_added_part()) continue;
      EXPECT_EQ(hash, before.at(name)) << name;
    }
  }
  const internal::Receipt receipt = ReceiptOf(run);
  EXPECT_EQ(receipt.resolved_spec().training().precision(), v1::BF16);
  EXPECT_NE(receipt.fingerprint().half_instruction_set(), "");
  EXPECT_EQ(receipt.probes().greatest_difference(), 0);
}

INSTANTIATE_TEST_SUITE_P(Programs, HalfTraining, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

// Of a base model in bf16 its matrices are used as the file has them: nothing that is computed may
// differ from the same numbers in a file in fp32.
TEST(HalfTrainings, ABaseInBf16FilesTrainsAsTheSameNumbersInFp32) {
  const auto base = [](const std::string& source, bool stored) {
    const std::string directory = FreshDirectory("base");
    for (const char* name : {"config.json", "tokenizer.json"}) {
      EXPECT_TRUE(WriteFileAtomically(directory + "/" + name, *ReadFile(source + "/" + name)).ok());
    }
    const auto file = SafetensorsFile::Open(source + "/model.safetensors").value();
    std::vector<torch::Tensor> kept;
    std::vector<TensorToWrite> tensors;
    for (const TensorInfo& info : file->tensors()) {
      const torch::Tensor rounded = ViewTensor(file, info).to(torch::kBFloat16);
      kept.push_back(stored ? rounded : rounded.to(torch::kFloat32));
      tensors.push_back(ToWrite(info.name, kept.back()));
    }
    EXPECT_TRUE(WriteSafetensors(directory + "/model.safetensors", std::move(tensors)).ok());
    return directory;
  };
  const std::string model = MakeToyModel(FreshDirectory("model"), 0.1);
  const std::string dataset = MakeToyDataset(FreshDirectory("dataset"), 60, 5);
  for (const char* program : {kGradual, kAdapter, kMergedDora, kPooled}) {
    std::string histories[2];
    std::map<std::string, torch::Tensor> trained[2];
    for (const bool stored : {false, true}) {
      const internal::Run run = ToyTraining(base(model, stored), dataset, program);
      RecordingSink sink;
      const internal::Ended ended = RunAttempt(run, &sink);
      ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
      histories[stored] = ReceiptOf(run).history_sha256();
      const std::string result = run.work_dir() + "/result/";
      const auto file = SafetensorsFile::Open(result + (Exists(result + "model.safetensors")
                                                            ? "model.safetensors"
                                                            : "adapter_model.safetensors"))
                            .value();
      for (const TensorInfo& info : file->tensors()) {
        trained[stored][info.name] = ViewTensor(file, info).to(torch::kFloat32);
      }
    }
    EXPECT_EQ(histories[0], histories[1]) << program;
    ASSERT_EQ(trained[0].size(), trained[1].size());
    for (const auto& [name, tensor] : trained[0]) {
      EXPECT_TRUE(at::equal(tensor, trained[1].at(name))) << name;
    }
  }
}

TEST(HalfTrainings, APlanIsMadeInBf16) {
  internal::Run run = ToyTraining(MakeToyModel(FreshDirectory("model"), 0.1),
                                  MakeToyDataset(FreshDirectory("dataset"), 60, 5), kGradual);
  v1::JobSpec* spec = run.mutable_assignment()->mutable_spec();
  *spec = WithPlan(*spec);
  EXPECT_TRUE(ComputesInHalf(run));
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  EXPECT_EQ(ended.metrics().at("steps"), 18);
}

TEST(HalfTrainings, AProcessorWithoutAvx512Refuses) {
  internal::Run run;
  for (const char* work : {"training", "prediction", "plan"}) {
    v1::JobSpec* spec = run.mutable_assignment()->mutable_spec();
    spec->Clear();
    if (std::string(work) == "prediction") {
      spec->mutable_prediction()->set_precision(v1::BF16);
    } else {
      (std::string(work) == "plan" ? spec->mutable_plan()->mutable_training()
                                   : spec->mutable_training())
          ->set_precision(v1::BF16);
    }
    const absl::Status status = CheckProcessor(run, nullptr);
    EXPECT_EQ(ReasonOf(status), "PRECISION_NOT_SUPPORTED") << work;
    EXPECT_THAT(std::string(status.message()), HasSubstr("submit with precision FP32"));
  }
  run.mutable_assignment()->mutable_spec()->mutable_training()->set_precision(v1::FP32);
  EXPECT_TRUE(CheckProcessor(run, nullptr).ok());
}

TEST(HalfTrainings, AccumulationChangesLittle) {
  const std::string model = MakeToyModel(FreshDirectory("model"), 0);
  const std::string dataset = MakeToyDataset(FreshDirectory("dataset"), 100, 5);
  const auto losses = [&](int tokens_per_micro_step) {
    RecordingSink sink;
    RunAttempt(ToyTraining(model, dataset,
                           absl::StrCat("precision: BF16 validation_fraction: 0 phases { selector "
                                        "{ everything: true } learning_rate: 0.001 steps: 10 } "
                                        "batch { examples_per_step: 8 tokens_per_micro_step: ",
                                        tokens_per_micro_step, " }")),
               &sink);
    return sink.Series("loss");
  };
  const auto whole = losses(4096), single = losses(1);
  ASSERT_EQ(whole.size(), 10u);
  double worst = 0;
  for (const auto& [step, loss] : whole) {
    worst = std::max(worst, std::abs(single.at(step) / loss - 1));
  }
  std::printf("[ FIGURE   ] 1 x 8 against 8 x 1 in bf16: losses differ by at most %.1e\n", worst);
  EXPECT_LT(worst, 1e-2);
}

// The change of a LoRA that has learnt nothing is 0, in bf16 as in fp32.
TEST(HalfTrainings, AFreshLoraGivesTheBasesLoss) {
  const std::string model = MakeToyWriter(FreshDirectory("model"), "llama", 0);
  const std::string dataset = MakeToyTexts(FreshDirectory("dataset"), 40, 5);
  const auto first_loss = [&](const std::string& part) {
    RecordingSink sink;
    const internal::Ended ended = RunAttempt(
        ToyTraining(model, dataset,
                    absl::StrCat("precision: BF16 validation_fraction: 0 completion {} "
                                 "phases { selector { everything: true } learning_rate: 0.001 "
                                 "steps: 1 } ",
                                 part)),
        &sink);
    EXPECT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    return sink.Series("loss").begin()->second;
  };
  EXPECT_EQ(first_loss("added_part { lora { rank: 4 alpha: 8 } } output: MERGED"), first_loss(""));
}

TEST(HalfTrainings, AnAwdLstmEndsBeforeItsRowsAreRead) {
  const internal::Run run =
      ToyTraining(MakeToyLstm(FreshDirectory("model"), 1), "/nowhere",
                  "precision: BF16 language_modeling {} phases { selector { everything: true } "
                  "learning_rate: 0.001 steps: 1 }");
  RecordingSink sink;
  const v1::AttemptEnd end = RunAttempt(run, &sink).end();
  EXPECT_EQ(end.failure().blame(), v1::Failure::USER);
  EXPECT_THAT(end.failure().message(),
              HasSubstr("precision: BF16; models of type awd_lstm compute in FP32 alone"));
}

}  // namespace
}  // namespace thaw
