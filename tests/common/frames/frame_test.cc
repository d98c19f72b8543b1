#include "common/frames/frame.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "common/base/unique_fd.h"
#include "thaw/internal/trainer.pb.h"

namespace thaw {
namespace {

class FrameTest : public ::testing::Test {
 protected:
  FrameTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    left_ = UniqueFd(ends[0]);
    right_ = UniqueFd(ends[1]);
  }

  void SendRaw(const std::string& bytes) {
    ASSERT_EQ(send(left_.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }

  UniqueFd left_, right_;
};

TEST_F(FrameTest, CarriesMessagesInOrderAndSeesTheEnd) {
  internal::FromTrainer sent;
  sent.mutable_event()->mutable_log_line()->set_text(std::string(1 << 20, 'x'));
  // More than the socket's buffer: writer and reader must take turns.
  std::thread writer([&] {
    for (int i = 0; i < 3; ++i) {
      sent.mutable_event()->set_sequence(i);
      EXPECT_TRUE(WriteFrame(left_.get(), sent).ok());
    }
    left_.Reset();
  });
  internal::FromTrainer got;
  for (int i = 0; i < 3; ++i) {
    const auto read = ReadFrame(right_.get(), &got);
    ASSERT_TRUE(read.ok() && *read) << read.status();
    EXPECT_EQ(got.event().sequence(), i);
    EXPECT_EQ(got.event().log_line().text().size(), size_t{1} << 20);
  }
  writer.join();
  const auto end = ReadFrame(right_.get(), &got);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_FALSE(*end);
}

TEST_F(FrameTest, EmptyMessagesAreFrames) {
  ASSERT_TRUE(WriteFrame(left_.get(), internal::ToTrainer()).ok());
  internal::ToTrainer got;
  const auto read = ReadFrame(right_.get(), &got);
  ASSERT_TRUE(read.ok() && *read);
  EXPECT_EQ(got.frame_case(), internal::ToTrainer::FRAME_NOT_SET);
}

TEST_F(FrameTest, RefusesWhatIsCutTooLongOrNoMessage) {
  const std::string cases[] = {std::string("\x05", 1), std::string("\x05\0\0\0ab", 6),
                               std::string("\x01\0\x40\0", 4), std::string("\xff\xff\xff\xff", 4),
                               std::string("\x02\0\0\0\xff\xff", 6)};
  for (const std::string& bytes : cases) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    left_ = UniqueFd(ends[0]);
    right_ = UniqueFd(ends[1]);
    SendRaw(bytes);
    left_.Reset();
    internal::ToTrainer got;
    EXPECT_EQ(ReadFrame(right_.get(), &got).status().code(), absl::StatusCode::kDataLoss)
        << bytes.size();
  }
}

TEST_F(FrameTest, WritingToNobodyIsUnavailable) {
  right_.Reset();
  EXPECT_EQ(WriteFrame(left_.get(), internal::ToTrainer()).code(), absl::StatusCode::kUnavailable);
}

TEST_F(FrameTest, TooLongAMessageIsNotSent) {
  internal::FromTrainer huge;
  huge.mutable_event()->mutable_log_line()->set_text(std::string(kMaxFrameBytes, 'x'));
  EXPECT_EQ(WriteFrame(left_.get(), huge).code(), absl::StatusCode::kInvalidArgument);
  left_.Reset();
  internal::FromTrainer got;
  const auto end = ReadFrame(right_.get(), &got);
  ASSERT_TRUE(end.ok());
  EXPECT_FALSE(*end);
}

}  // namespace
}  // namespace thaw
