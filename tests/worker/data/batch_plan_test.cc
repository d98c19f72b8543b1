#include "worker/data/batch_plan.h"

#include <algorithm>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/packed_batch.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;

// Rows of the given lengths; token j of row r is 100 r + j, its label r.
TokenizedDataset RowsOfLengths(const std::vector<int>& lengths) {
  TokenizedDataset dataset;
  for (size_t r = 0; r < lengths.size(); ++r) {
    for (int j = 0; j < lengths[r]; ++j) dataset.token_ids.push_back(static_cast<int>(100 * r) + j);
    dataset.offsets.push_back(static_cast<int64_t>(dataset.token_ids.size()));
    dataset.labels.push_back(static_cast<int32_t>(r));
  }
  return dataset;
}

TokenizedDataset RandomRows(int rows) {
  std::mt19937 random(5);
  std::vector<int> lengths;
  for (int r = 0; r < rows; ++r) lengths.push_back(1 + static_cast<int>(random() % 60));
  return RowsOfLengths(lengths);
}

std::vector<int64_t> AllRows(const StepRows& step) {
  std::vector<int64_t> rows;
  for (const auto& micro : step.micro_steps) rows.insert(rows.end(), micro.begin(), micro.end());
  return rows;
}

BatchPlan Plan(const TokenizedDataset& dataset, const BatchPolicy& policy, uint64_t seed = 9) {
  auto plan = BatchPlan::Create(&dataset, policy, seed);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

TEST(BatchPlanTest, StepsToLossUnitsAreThoseOfTheSteps) {
  std::mt19937 random(11);
  TokenizedDataset dataset;  // texts with other texts as their answers
  for (int r = 0; r < 50; ++r) {
    dataset.token_ids.push_back(r);
    dataset.offsets.push_back(r + 1);
    dataset.targets.Append(std::vector<int32_t>(1 + random() % 9, 7));
  }
  const BatchPlan plan = Plan(dataset, {.examples_per_step = 8});
  for (const int64_t epoch : {0, 3}) {
    int64_t units = 0, steps = 0;
    for (DataCursor cursor{.epoch = epoch, .position = 0}; cursor.epoch < epoch + 3; ++steps) {
      const StepRows step = plan.Step(cursor);
      // The first and the last number that this step is needed for.
      EXPECT_EQ(plan.StepsToLossUnits(epoch, units + 1), steps + 1);
      units += step.loss_units;
      EXPECT_EQ(plan.StepsToLossUnits(epoch, units), steps + 1);
      cursor = step.next;
    }
  }
  EXPECT_GT(plan.StepsToLossUnits(0, int64_t{1'000'000'000'000}), int64_t{10'000'000});
}

TEST(BatchPlanTest, EpochsVisitEveryRowOnceAndStepsAreCounted) {
  const TokenizedDataset dataset = RandomRows(103);
  for (const BatchPolicy& policy : std::vector<BatchPolicy>{
           {16, 0, 2048}, {1, 0, 2048}, {103, 0, 64}, {1000, 0, 64}, {0, 200, 100}, {0, 1, 1}}) {
    const BatchPlan plan = Plan(dataset, policy);
    DataCursor cursor;
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<int64_t> visited;
      int64_t steps = 0;
      while (cursor.epoch == epoch) {
        const StepRows step = plan.Step(cursor);
        const auto rows = AllRows(step);
        EXPECT_EQ(step.examples, static_cast<int64_t>(rows.size()));
        int64_t tokens = 0;
        for (const int64_t row : rows) tokens += dataset.length(row);
        EXPECT_EQ(step.tokens, tokens);
        if (policy.tokens_per_step > 0 && rows.size() > 1) {
          EXPECT_LE(tokens, policy.tokens_per_step);
        }
        visited.insert(visited.end(), rows.begin(), rows.end());
        cursor = step.next;
        ++steps;
      }
      EXPECT_EQ(cursor, (DataCursor{epoch + 1, 0}));
      EXPECT_EQ(steps, plan.StepsInEpoch(epoch));
      std::sort(visited.begin(), visited.end());
      ASSERT_EQ(visited.size(), 103u);
      for (int64_t row = 0; row < 103; ++row) ASSERT_EQ(visited[row], row);
    }
  }
}

// One micro-step of eight examples or eight of one: the same step.
TEST(BatchPlanTest, MicroStepsDoNotChangeTheStep) {
  const TokenizedDataset dataset = RandomRows(50);
  for (const BatchPolicy& policy : std::vector<BatchPolicy>{{8, 0, 0}, {0, 150, 0}}) {
    BatchPolicy whole = policy, single = policy, some = policy;
    whole.tokens_per_micro_step = 1'000'000;
    single.tokens_per_micro_step = 1;
    some.tokens_per_micro_step = 70;
    DataCursor cursor;
    while (cursor.epoch == 0) {
      const StepRows step = Plan(dataset, whole).Step(cursor);
      EXPECT_EQ(step.micro_steps.size(), 1u);
      const StepRows singles = Plan(dataset, single).Step(cursor);
      EXPECT_EQ(static_cast<int64_t>(singles.micro_steps.size()), singles.examples);
      const StepRows bounded = Plan(dataset, some).Step(cursor);
      for (const auto& micro : bounded.micro_steps) {
        EXPECT_LE(Pack(dataset, micro).tokens(), 70);
      }
      EXPECT_EQ(AllRows(step), AllRows(singles));
      EXPECT_EQ(AllRows(step), AllRows(bounded));
      EXPECT_EQ(step.next, singles.next);
      EXPECT_EQ(step.next, bounded.next);
      cursor = step.next;
    }
  }
}

// A resumed run knows nothing but its cursor.
TEST(BatchPlanTest, AnyStepComesFromItsCursorAlone) {
  const TokenizedDataset dataset = RandomRows(37);
  const BatchPlan plan = Plan(dataset, {5, 0, 100});
  std::vector<std::pair<DataCursor, StepRows>> recorded;
  DataCursor cursor;
  while (cursor.epoch < 3) {
    recorded.emplace_back(cursor, plan.Step(cursor));
    cursor = recorded.back().second.next;
  }
  for (auto it = recorded.rbegin(); it != recorded.rend(); ++it) {
    EXPECT_EQ(Plan(dataset, {5, 0, 100}).Step(it->first).micro_steps, it->second.micro_steps);
  }
  EXPECT_NE(recorded[0].second.micro_steps, Plan(dataset, {5, 0, 100}, 10).Step({}).micro_steps);
}

std::vector<std::vector<int64_t>> LaneRows(int rows, int32_t lanes) {
  const TokenizedDataset dataset = RowsOfLengths(std::vector<int>(static_cast<size_t>(rows), 2));
  const BatchPlan plan =
      Plan(dataset, {.examples_per_step = lanes, .tokens_per_micro_step = 4, .in_lanes = true});
  std::vector<std::vector<int64_t>> steps;
  // A later epoch is like the first.
  for (DataCursor cursor = {3, 0}; cursor.epoch == 3;) {
    const StepRows step = plan.Step(cursor);
    steps.push_back(AllRows(step));
    cursor = step.next;
  }
  EXPECT_EQ(static_cast<int64_t>(steps.size()), plan.StepsInEpoch(3));
  return steps;
}

TEST(BatchPlanTest, LanesAreReadSideBySideInTheTextsOrder) {
  EXPECT_THAT(LaneRows(6, 2), ElementsAre(ElementsAre(0, 3), ElementsAre(1, 4), ElementsAre(2, 5)));
  // Two rows more than the lanes have: the first two lanes are longer, and the others end early.
  EXPECT_THAT(LaneRows(8, 3),
              ElementsAre(ElementsAre(0, 3, 6), ElementsAre(1, 4, 7), ElementsAre(2, 5)));
  EXPECT_THAT(LaneRows(3, 1), ElementsAre(ElementsAre(0), ElementsAre(1), ElementsAre(2)));
  EXPECT_THAT(LaneRows(2, 5), ElementsAre(ElementsAre(0, 1)));
}

TEST(BatchPlanTest, LanesFollowTheTextAndVisitEveryRowOnce) {
  for (const int rows : {1, 7, 64, 103}) {
    for (const int32_t lanes : {1, 2, 8, 13, 200}) {
      std::vector<std::vector<int64_t>> read(static_cast<size_t>(lanes));
      for (const std::vector<int64_t>& step : LaneRows(rows, lanes)) {
        for (size_t lane = 0; lane < step.size(); ++lane) read[lane].push_back(step[lane]);
      }
      int64_t next = 0;
      for (const std::vector<int64_t>& lane : read) {
        for (const int64_t row : lane) ASSERT_EQ(row, next++) << rows << " in " << lanes;
      }
      ASSERT_EQ(next, rows);
    }
  }
}

TEST(BatchPlanTest, RefusesWhatItCannotPlan) {
  const TokenizedDataset empty;
  EXPECT_EQ(BatchPlan::Create(&empty, {}, 1).status().code(),
            absl::StatusCode::kFailedPrecondition);
  const TokenizedDataset dataset = RowsOfLengths({1});
  for (const BatchPolicy& policy : std::vector<BatchPolicy>{
           {0, 0, 10}, {1, 1, 10}, {-1, 5, 10}, {5, -1, 10}, {1, 0, 0}, {0, 9, 9, true}}) {
    EXPECT_EQ(BatchPlan::Create(&dataset, policy, 1).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(BatchPlanTest, CutsByTokensInOrder) {
  const TokenizedDataset dataset = RowsOfLengths({3, 4, 9, 1, 1, 5});
  EXPECT_THAT(CutByTokens(dataset, std::vector<int64_t>{0, 1, 2, 3, 4, 5}, 7),
              ElementsAre(ElementsAre(0, 1), ElementsAre(2), ElementsAre(3, 4, 5)));
  EXPECT_THAT(CutByTokens(dataset, std::vector<int64_t>{2, 3}, 7),
              ElementsAre(ElementsAre(2), ElementsAre(3)));
  EXPECT_TRUE(CutByTokens(dataset, {}, 7).empty());
}

TEST(BatchPlanTest, EvaluatesLongestFirstEveryRowOnce) {
  const TokenizedDataset dataset = RowsOfLengths({3, 4, 9, 1, 1, 5});
  EXPECT_THAT(EvaluationBatches(dataset, 9),
              ElementsAre(ElementsAre(2), ElementsAre(5, 1), ElementsAre(0, 3, 4)));
  EXPECT_TRUE(EvaluationBatches(TokenizedDataset(), 9).empty());
}

TEST(PackedBatchTest, LaysSequencesOneAfterTheOther) {
  TokenizedDataset dataset = RowsOfLengths({2, 3, 1});
  PackedBatch batch = Pack(dataset, std::vector<int64_t>{2, 1});
  EXPECT_THAT(batch.token_ids, ElementsAre(200, 100, 101, 102));
  EXPECT_THAT(batch.token_type_ids, ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(batch.cu_seqlens, ElementsAre(0, 1, 4));
  EXPECT_THAT(batch.labels, ElementsAre(2, 1));
  EXPECT_THAT(batch.rows, ElementsAre(2, 1));
  EXPECT_EQ(batch.longest, 3);
  EXPECT_EQ(batch.sequences(), 2);
  dataset.type_ids = {0, 0, 0, 1, 1, 1};
  dataset.labels.clear();
  batch = Pack(dataset, std::vector<int64_t>{1, 2});
  EXPECT_THAT(batch.token_type_ids, ElementsAre(0, 1, 1, 1));
  EXPECT_TRUE(batch.labels.empty());
  EXPECT_THAT(Pack(dataset, {}).cu_seqlens, ElementsAre(0));
}

}  // namespace
}  // namespace thaw
