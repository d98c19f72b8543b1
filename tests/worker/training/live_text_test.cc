#include "worker/training/live_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace thaw {
namespace {

using ::testing::SizeIs;

class LiveTextTest : public ::testing::Test {
 protected:
  std::string TextOf(int64_t row) const {
    std::string text;
    for (const v1::Event& event : events_) {
      if (event.generated_text().row() == row) text += event.generated_text().text();
    }
    return text;
  }

  std::vector<v1::Event> events_;
  LiveText live_{[this](v1::Event event) { events_.push_back(std::move(event)); }};
};

TEST_F(LiveTextTest, JoinsWhatComesFasterThanTenTimesASecond) {
  for (int i = 0; i < 1000; ++i) {
    live_.Add(0, "x", i + 1);
    live_.Tick(i * 1e-3);
  }
  EXPECT_THAT(events_, SizeIs(10));
  live_.Done(0, "length", 1000);
  live_.Finish();
  EXPECT_THAT(events_, SizeIs(11));
  EXPECT_EQ(TextOf(0), std::string(1000, 'x'));
  EXPECT_TRUE(events_.back().generated_text().done());
  EXPECT_EQ(events_.back().generated_text().finish_reason(), "length");
  EXPECT_EQ(events_.back().generated_text().tokens(), 1000);
}

TEST_F(LiveTextTest, RowsTakeTurnsAndCompleteOnesGoFirst) {
  live_.Add(0, "a", 1);
  live_.Add(1, "b", 1);
  live_.Add(2, "c", 1);
  live_.Done(2, "end", 2);
  double now = 0;
  for (int i = 0; i < 3; ++i) live_.Tick(now += 1);
  ASSERT_THAT(events_, SizeIs(3));
  EXPECT_EQ(events_[0].generated_text().row(), 2);
  EXPECT_EQ(events_[1].generated_text().row(), 0);
  EXPECT_EQ(events_[2].generated_text().row(), 1);
  live_.Tick(now + 1);
  EXPECT_THAT(events_, SizeIs(3)) << "nothing to tell";
}

TEST_F(LiveTextTest, PiecesAreWholeCharactersOfAtMostFourKibibytes) {
  std::string text = "x";
  for (int i = 0; i < 3000; ++i) text += "ä";
  live_.Add(5, text, 3001);
  live_.Done(5, "stop", 3001);
  live_.Finish();
  ASSERT_THAT(events_, SizeIs(2));
  EXPECT_EQ(events_[0].generated_text().text().size(), 4095u);
  EXPECT_FALSE(events_[0].generated_text().done());
  EXPECT_TRUE(events_[1].generated_text().done());
  EXPECT_EQ(TextOf(5), text);
}

TEST_F(LiveTextTest, AMebibyteIsEnough) {
  for (int row = 0; row < 400; ++row) {
    live_.Add(row, std::string(4000, 'x'), 1);
    live_.Done(row, "length", 1);
  }
  live_.Finish();
  EXPECT_LE(events_.size(), 270u);
  EXPECT_GE(events_.size(), 255u);
}

}  // namespace
}  // namespace thaw
