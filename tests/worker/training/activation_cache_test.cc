// What is kept of a frozen part changes no bit, whatever share of it is kept.
#include "worker/training/activation_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <ostream>
#include <random>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "tests/worker/model/model_fixture.h"
#include "tests/worker/training/toy_job.h"
#include "worker/data/batch_plan.h"
#include "worker/training/forward.h"

namespace thaw {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr int64_t kRows = 18;
constexpr int64_t kPlenty = int64_t{1} << 30;

// For a file in a directory of the test's own.
ScratchRoom Scratch() {
  const std::string directory = FreshDirectory("scratch");
  EXPECT_TRUE(MakeDirectories(directory).ok());
  return {.directory = directory, .disk = DiskWith(kPlenty)};
}

// Rows of 1 to 40 tokens; most micro-steps below hold more than 32 rows, some fewer.
TokenizedDataset RandomRows(const ModelConfig& config, int rows, std::mt19937* random) {
  TokenizedDataset dataset;
  const auto id = [&] { return static_cast<int32_t>(5 + (*random)() % 50); };
  for (int row = 0; row < rows; ++row) {
    const int length = 2 + static_cast<int>((*random)() % 38);
    for (int i = 0; i < length; ++i) dataset.token_ids.push_back(id());
    dataset.offsets.push_back(static_cast<int64_t>(dataset.token_ids.size()));
    if (config.head == HeadKind::kClassifier) {
      dataset.labels.push_back(0);
    } else if (config.model_type == "t5") {
      std::vector<int32_t> target(1 + (*random)() % 6);
      for (int32_t& token : target) token = id();
      dataset.targets.Append(target);
      dataset.decoder_start = 0;
    } else {
      const TokenSpan answer = {1, length};
      dataset.answers.Append({&answer, 1});
    }
  }
  return dataset;
}

torch::Tensor OutputsOf(Model* model, const PackedBatch& batch, ActivationCache* frozen) {
  const torch::NoGradGuard no_grad;
  if (model->config().head == HeadKind::kClassifier) {
    return Logits(model, batch, TrainedGroups(), DropoutKey(), frozen);
  }
  return LossStates(model, batch, TrainedGroups(), DropoutKey(), nullptr, frozen);
}

struct CacheCase {
  const char* fixture;
  bool half;
};
void PrintTo(const CacheCase& one, std::ostream* out) { *out << one.fixture; }
class ActivationCacheOf : public ::testing::TestWithParam<CacheCase> {};

TEST_P(ActivationCacheOf, AnyShareOfTheRowsGivesTheSameBits) {
  const unsigned seed = std::random_device()();
  std::mt19937 random(seed);
  ModelFixture fixture(GetParam().fixture, std::nullopt, GetParam().half);
  Model* const model = fixture.model.get();
  const TokenizedDataset rows = RandomRows(model->config(), kRows, &random);
  const double tolerance = GetParam().half ? 0.1 : 1e-4;
  for (int boundary = 1; boundary <= model->blocks() + 1; ++boundary) {
    EXPECT_TRUE(ComputesRowsAlike(model, rows, boundary));
    ActivationCache nothing(&rows, boundary, 0), some(&rows, boundary, 20'000),
        all(&rows, boundary, kPlenty), file(&rows, boundary, 2'000, Scratch());
    std::vector<int64_t> order(kRows);
    std::iota(order.begin(), order.end(), 0);
    for (int pass = 0; pass < 3; ++pass) {
      std::shuffle(order.begin(), order.end(), random);
      for (const std::vector<int64_t>& micro_step : CutByTokens(rows, order, 150)) {
        const PackedBatch batch = Pack(rows, micro_step);
        const torch::Tensor expected = OutputsOf(model, batch, &nothing);
        const torch::Tensor plain = OutputsOf(model, batch, nullptr);
        ASSERT_LT(MaxDifference(expected, plain), tolerance) << "seed " << seed;
        for (ActivationCache* cache : {&some, &all, &file}) {
          ASSERT_TRUE(at::equal(OutputsOf(model, batch, cache), expected))
              << "boundary " << boundary << ", pass " << pass << ", seed " << seed;
        }
      }
    }
    EXPECT_EQ(nothing.figures().held_rows, 0);
    EXPECT_EQ(nothing.figures().bytes, 0);
    EXPECT_EQ(nothing.figures().computed, 3 * kRows);
    EXPECT_EQ(all.figures().held_rows, kRows);
    EXPECT_EQ(all.figures().computed, kRows) << "what is held was computed again";
    EXPECT_EQ(all.figures().file_bytes, 0);
    EXPECT_EQ(file.figures().held_rows, kRows) << file.file_full();
    EXPECT_EQ(file.figures().computed, kRows);
    EXPECT_LE(file.figures().bytes, 2'000);
    EXPECT_GT(file.figures().file_held_bytes, 0);
    EXPECT_EQ(file.figures().held_bytes + file.figures().file_held_bytes, all.figures().held_bytes);
    EXPECT_EQ(file.ExpectedShare(), 1);
    EXPECT_LE(file.ExpectedBytes(), 2'000);
    EXPECT_EQ(all.figures().found, 2 * kRows);
    EXPECT_LE(some.figures().bytes, 20'000);
    EXPECT_GT(some.figures().held_rows, 0);
    EXPECT_EQ(some.figures().found, 2 * some.figures().held_rows);
    EXPECT_EQ(some.figures().computed + some.figures().found, 3 * kRows);
  }
}

std::vector<CacheCase> CacheCases() {
  std::vector<CacheCase> cases;
  for (const char* fixture : {"bert-cls", "roberta-cls", "distilbert-cls", "gpt2-cls", "gpt2",
                              "bloom-5heads", "llama-cls", "qwen3", "t5"}) {
    for (const bool half : {false, true}) cases.push_back({fixture, half});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Families, ActivationCacheOf, ::testing::ValuesIn(CacheCases()),
                         [](const auto& info) {
                           return FixtureTestName(info.param.fixture) +
                                  (info.param.half ? "_in_bf16" : "");
                         });

TEST(ActivationCache, KeepsOneVectorARowWhereTheHeadReadsNoMore) {
  ModelFixture fixture("bert-cls", std::nullopt);
  std::mt19937 random(1);
  const TokenizedDataset rows = RandomRows(fixture.model->config(), 8, &random);
  const std::vector<int64_t> two = {3, 5};
  for (const bool head_only : {false, true}) {
    const int boundary = fixture.model->blocks() + (head_only ? 1 : 0);
    ActivationCache cache(&rows, boundary, kPlenty);
    OutputsOf(fixture.model.get(), Pack(rows, two), &cache);
    const Rows kept = cache.RowsOf(Pack(rows, two), [](const PackedBatch&) {
      ADD_FAILURE() << "computed again";
      return Rows();
    });
    EXPECT_EQ(kept.data.size(0), head_only ? 2 : rows.length(3) + rows.length(5));
    EXPECT_EQ(kept.cu_seqlens.back(), kept.data.size(0));
  }
}

// The head, then one block more: a phase of the same boundary as the one before, too.
constexpr char kProgram[] = R"(
  validation_fraction: 0.2
  phases { name: "head" selector { head_only: true } learning_rate: 0.01 epochs: 2 }
  phases { name: "head again" selector { head_only: true } learning_rate: 0.005 epochs: 1.5 }
  phases { name: "best" selector { head_only: true } learning_rate: 0.001 epochs: 1
           restore_best: true }
  phases { name: "top" selector { last_blocks: 1 } learning_rate: 0.005 epochs: 2 }
  phases { name: "all" selector { everything: true } learning_rate: 0.003 epochs: 0.5 }
  phases { name: "frozen again" selector { head_only: true } learning_rate: 0.003 steps: 13 }
  evaluation { every_epochs: 0.5 metric: LOSS }
)";

int64_t BytesOfDense(const std::string& directory) {
  const auto model = LoadModel(directory, std::nullopt).value();
  int64_t bytes = 0;
  for (const Parameter& parameter : model->parameters().all()) {
    bytes += static_cast<int64_t>(parameter.tensor.nbytes());
  }
  return bytes;
}

class ActivationCacheOfAHead : public ::testing::TestWithParam<const char*> {};

TEST_P(ActivationCacheOfAHead, ChangesNoBitOfATraining) {
  const std::string model = MakeToyModel(FreshDirectory("model"), 0.1);
  const std::string dataset = MakeToyDataset(FreshDirectory("dataset"), 100, 5);
  std::string weights, history;
  std::map<int64_t, double> losses;
  int allocations = 0;
  ScratchDisk full = DiskWith(int64_t{1} << 40);
  // One of the two caches of a phase finds room, the other one does not.
  full.allocate = [&allocations](int fd, int64_t offset, int64_t bytes) {
    return ++allocations % 2 == 0 ? ENOSPC : AllocateInFile(fd, offset, bytes);
  };
  struct Case {
    const char* cache;
    ScratchDisk disk;
    const char* told;  // by a line
  };
  const ScratchDisk plenty = DiskWith(int64_t{1} << 40);
  for (const auto& [cache, disk, told] :
       {Case{"use: OFF", plenty, "activation cache: phase 1: no: use is OFF"},
        Case{"use: AUTO", plenty, "holds 100 of 100 rows"},
        Case{"use: AUTO max_bytes: 30000", plenty, "of memory and "},
        Case{"use: AUTO max_bytes: 6000", full, "a file takes no more: allocating"},
        Case{"use: AUTO max_bytes: 30000", DiskWith(int64_t{1} << 30), "MiB of the disk are free"},
        Case{"use: AUTO max_bytes: 1", plenty, "phase 4: kept: block"}}) {
    const internal::Run run = ToyTraining(
        model, dataset, std::string(kProgram) + GetParam() + "activation_cache {" + cache + "}");
    RecordingSink sink;
    Control control;
    const internal::Ended ended = RunAttempt(run, &sink, &control, RealClock(), disk);
    EXPECT_THAT(sink.LogLines(), Contains(HasSubstr(told))) << cache;
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    if (weights.empty()) {
      weights = ResultWeights(run);
      history = ReceiptOf(run).history_sha256();
      losses = sink.Series("loss");
      continue;
    }
    EXPECT_EQ(sink.Series("loss"), losses) << cache;
    EXPECT_EQ(ReceiptOf(run).history_sha256(), history) << cache;
    EXPECT_EQ(ResultWeights(run), weights) << cache;
  }
}

INSTANTIATE_TEST_SUITE_P(Heads, ActivationCacheOfAHead,
                         ::testing::Values("", "pooled_head { pooling: MAX }",
                                           "pooled_head { pooling: MEAN blocks: 2 }"),
                         [](const auto& info) { return "Head" + std::to_string(info.index); });

// Of the disk the file leaves free what the result takes: an adapter, 4 bits a number, or all in
// fp32, for which there is no more room.
TEST(ActivationCacheOfATraining, ItsFileLeavesRoomForTheResult) {
  const std::string model = MakeToyModel(FreshDirectory("model"), 0.1);
  const std::string dataset = MakeToyDataset(FreshDirectory("dataset"), 100, 5);
  constexpr char kHead[] = "phases { selector { head_only: true } learning_rate: 0.01 epochs: 2 } ";
  constexpr char kLora[] =
      "phases { selector { kind: ADDED_PARTS } learning_rate: 0.01 epochs: 2 } added_part { lora { "
      "rank: 2 alpha: 4 target_modules: \"2.attention.self.query\" } } ";
  const ScratchDisk disk = DiskWith((int64_t{2} << 30) + BytesOfDense(model));
  struct Case {
    std::string result;
    bool has_room;
  };
  for (const auto& [result, has_room] :
       {Case{absl::StrCat(kLora, "output: ADAPTER"), true},
        Case{absl::StrCat(kLora, "output: ADAPTER base_weights: NF4"), true},
        Case{absl::StrCat(kLora, "output: MERGED base_weights: NF4"), false},
        Case{absl::StrCat(kHead, "output: FULL base_weights: NF4"), true},
        Case{absl::StrCat(kHead, "output: FULL"), false}}) {
    const internal::Run run = ToyTraining(
        model, dataset,
        absl::StrCat("validation_fraction: 0 activation_cache { max_bytes: 6000 } ", result));
    RecordingSink sink;
    Control control;
    const internal::Ended ended = RunAttempt(run, &sink, &control, RealClock(), disk);
    ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
    EXPECT_THAT(sink.LogLines(),
                Contains(HasSubstr(has_room ? "MiB of a file" : "MiB of the disk are free")))
        << result;
  }
}

TEST(ActivationCacheOfATraining, FoundRowsAreNotComputedAgain) {
  const std::string model = MakeToyModel(FreshDirectory("model"), 0.1);
  const std::string dataset = MakeToyDataset(FreshDirectory("dataset"), 100, 5);
  const internal::Run run = ToyTraining(model, dataset, R"(
    validation_fraction: 0
    phases { name: "head" selector { head_only: true } learning_rate: 0.01 epochs: 3 }
    phases { name: "again" selector { head_only: true } learning_rate: 0.005 epochs: 2 }
    phases { name: "once" selector { last_blocks: 1 } learning_rate: 0.005 epochs: 1 })");
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  std::vector<std::string> told;
  for (const std::string& line : sink.LogLines()) {
    if (line.rfind("activation cache", 0) == 0) told.push_back(line.substr(0, 40));
  }
  EXPECT_THAT(sink.LogLines(), Contains(HasSubstr("200 of the 300 asked for were there")));
  EXPECT_THAT(sink.LogLines(), Contains(HasSubstr("400 of the 500 asked for were there")));
  EXPECT_THAT(sink.LogLines(), Contains(HasSubstr("phase 3: no: 1 pass over the rows")));
  EXPECT_EQ(told.size(), 5u);
}

}  // namespace
}  // namespace thaw
