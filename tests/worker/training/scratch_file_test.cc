// A disk that is full ends what a scratch file takes, and nothing else.
#include "worker/training/scratch_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <random>

#include "tests/worker/training/toy_job.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMebi = int64_t{1} << 20;

std::vector<std::byte> RandomBytes(size_t count, std::mt19937* random) {
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>((*random)());
  return bytes;
}

ScratchRoom RoomWith(int64_t free_bytes) {
  ScratchRoom room{.directory = FreshDirectory("scratch")};
  std::filesystem::create_directories(room.directory);
  room.disk.free_bytes = [free_bytes](const std::string&) { return free_bytes; };
  return room;
}

TEST(ScratchFile, GivesBackWhatWasWritten) {
  std::mt19937 random(7);
  const ScratchRoom room = RoomWith(1000 * kMebi);
  ScratchFile file(room);
  struct Written {
    const std::byte* at;
    std::vector<std::byte> first, second;
  };
  std::vector<Written> all;
  for (int i = 0; i < 60; ++i) {
    Written one{nullptr, RandomBytes(1 + random() % 300'000, &random),
                RandomBytes(i % 3 == 0 ? random() % 5'000 : 0, &random)};
    one.at = file.Append(one.first, one.second);
    ASSERT_NE(one.at, nullptr) << file.full();
    all.push_back(std::move(one));
  }
  EXPECT_TRUE(std::filesystem::is_empty(room.directory)) << "the file has a name";
  for (int pass = 0; pass < 2; ++pass) {
    for (const Written& one : all) {
      const auto bytes = static_cast<int64_t>(one.first.size() + one.second.size());
      ScratchFile::Expect(one.at, bytes);
      EXPECT_TRUE(std::equal(one.first.begin(), one.first.end(), one.at));
      EXPECT_TRUE(std::equal(one.second.begin(), one.second.end(), one.at + one.first.size()));
      ScratchFile::Drop(one.at, bytes);
    }
  }
}

TEST(ScratchFile, TakesHalfOfWhatIsFreeBeyondWhatIsKept) {
  ScratchRoom room = RoomWith(30 * kMebi);
  room.kept_bytes = 20 * kMebi;
  ScratchFile file(room);
  EXPECT_EQ(file.most_bytes(), 5 * kMebi);
  ScratchRoom shared = room;
  shared.files = 2;
  EXPECT_EQ(ScratchFile(shared).most_bytes(), 5 * kMebi / 2);
  const std::vector<std::byte> row(100'000);
  int held = 0;
  while (held < 1000 && file.Append(row, {}) != nullptr) ++held;
  EXPECT_GT(held, 40);
  EXPECT_LE(file.bytes(), 5 * kMebi);
  EXPECT_EQ(file.full().code(), absl::StatusCode::kResourceExhausted);
}

TEST(ScratchFile, StopsWhenOthersHaveFilledTheDisk) {
  ScratchRoom room = RoomWith(0);
  int64_t free = 100 * kMebi;
  room.kept_bytes = 10 * kMebi;
  room.disk.free_bytes = [&free](const std::string&) { return free; };
  ScratchFile file(room);
  const std::vector<std::byte> row(kMebi);
  EXPECT_NE(file.Append(row, {}), nullptr);
  free = 10 * kMebi;
  EXPECT_EQ(file.Append(row, {}), nullptr);
  EXPECT_THAT(file.full().message(), HasSubstr("10 MiB of the disk are free"));
  free = 100 * kMebi;
  EXPECT_EQ(file.Append(row, {}), nullptr) << "it began again";
}

TEST(ScratchFile, StopsWhenAllocatingFails) {
  std::mt19937 random(8);
  ScratchRoom room = RoomWith(1000 * kMebi);
  int slabs = 0;
  room.disk.allocate = [&slabs](int fd, int64_t offset, int64_t bytes) {
    return ++slabs == 3 ? ENOSPC : AllocateInFile(fd, offset, bytes);
  };
  ScratchFile file(room);
  std::vector<std::pair<const std::byte*, std::vector<std::byte>>> all;
  while (true) {
    std::vector<std::byte> row = RandomBytes(100'000, &random);
    const std::byte* const at = file.Append(row, {});
    if (at == nullptr) break;
    all.emplace_back(at, std::move(row));
    ASSERT_LT(all.size(), 1000u);
  }
  EXPECT_THAT(file.full().ToString(), HasSubstr("allocating"));
  EXPECT_GT(all.size(), 10u);
  for (const auto& [at, row] : all) EXPECT_TRUE(std::equal(row.begin(), row.end(), at));
}

TEST(ScratchFile, HasNoRoomWithoutADirectoryOrInOneThatIsNotThere) {
  const std::vector<std::byte> row(10);
  ScratchFile none{ScratchRoom()};
  EXPECT_EQ(none.Append(row, {}), nullptr);
  EXPECT_EQ(none.most_bytes(), 0);
  ScratchFile gone{ScratchRoom{.directory = FreshDirectory("scratch") + "/gone"}};
  EXPECT_EQ(gone.Append(row, {}), nullptr);
  EXPECT_EQ(gone.full().code(), absl::StatusCode::kNotFound);
}

TEST(ScratchFile, FilesInMemoryAreNoDisk) {
  ASSERT_TRUE(std::filesystem::is_directory("/dev/shm"));
  const auto free = FreeBytesOnOwnDisk("/dev/shm");
  ASSERT_TRUE(free.ok()) << free.status();
  EXPECT_EQ(*free, 0);
}

}  // namespace
}  // namespace thaw
