#include "worker/training/scoring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/training/recurrent_model.h"

namespace thaw {
namespace {

using ::testing::SizeIs;

TEST(Scoring, IsTheLogarithmOfEveryTokensProbability) {
  for (const bool encoder : {false, true}) {
    const auto model = MakeRecurrentModel(50, 1000, encoder, 7);
    std::vector<ScoredRow> rows;
    for (int r = 0; r < 9; ++r) {
      ScoredRow row;
      for (int i = 0; i <= r; ++i) row.ids.push_back((r * 13 + i * 7) % 50);
      if (encoder) row.source = {3, r};
      row.first = encoder ? 0 : r / 2;
      rows.push_back(std::move(row));
    }
    const int32_t start = encoder ? 1 : -1;
    for (const int64_t tokens : {1, 16, 1000}) {
      const auto scores = Score(model.get(), rows, start, tokens, [](int64_t) { return true; });
      ASSERT_TRUE(scores.has_value());
      for (size_t r = 0; r < rows.size(); ++r) {
        const std::vector<float>& values = (*scores)[r];
        ASSERT_THAT(values, SizeIs(static_cast<size_t>(rows[r].scored())));
        for (size_t i = 0; i < values.size(); ++i) {
          const auto at = static_cast<std::ptrdiff_t>(i) + rows[r].Begin();
          std::vector<int32_t> before = {rows[r].ids.begin(), rows[r].ids.begin() + at};
          if (encoder) before.insert(before.begin(), start);
          const torch::Tensor logits = RecurrentLogits(*model, rows[r].source, before);
          EXPECT_NEAR(values[i], at::log_softmax(logits, 0)[rows[r].ids[at]].item<float>(), 1e-5);
        }
      }
    }
    EXPECT_FALSE(Score(model.get(), rows, start, 16, [](int64_t done) { return done < 5; }));
  }
}

}  // namespace
}  // namespace thaw
