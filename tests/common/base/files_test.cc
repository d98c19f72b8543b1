#include "common/base/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

class FilesTest : public ::testing::Test {
 protected:
  std::string At(const std::string& name) const { return directory_.path() + "/" + name; }
  void Write(const std::string& name, const std::string& bytes) {
    ASSERT_TRUE(WriteFileAtomically(At(name), bytes).ok());
  }

  TempDir directory_;
};

TEST_F(FilesTest, ReadsBackWhatWasWrittenWithItsMode) {
  std::string bytes("a\0b\xff\n", 5);
  ASSERT_TRUE(WriteFileAtomically(At("secret"), bytes, 0600).ok());
  EXPECT_EQ(*ReadFile(At("secret")), bytes);
  struct stat info {};
  ASSERT_EQ(stat(At("secret").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  bytes = "shorter";
  ASSERT_TRUE(WriteFileAtomically(At("secret"), bytes, 0600).ok());
  EXPECT_EQ(*ReadFile(At("secret")), bytes);
}

TEST_F(FilesTest, ReadFileKeepsToItsLimit) {
  Write("ten", "0123456789");
  EXPECT_TRUE(ReadFile(At("ten"), 10).ok());
  EXPECT_EQ(ReadFile(At("ten"), 9).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReadFile("/dev/zero", 1 << 20).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReadFile(At("none")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadFile(directory_.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FilesTest, AReaderNeverSeesAHalfWrittenFile) {
  const std::string first(1 << 18, 'a');
  const std::string second(1 << 17, 'b');
  Write("file", first);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (int i = 0; i < 20; ++i) {
      EXPECT_TRUE(WriteFileAtomically(At("file"), i % 2 == 0 ? second : first).ok());
    }
    done = true;
  });
  int reads = 0;
  while (!done || reads == 0) {
    const auto bytes = ReadFile(At("file"));
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    EXPECT_TRUE(!bytes.ok() || *bytes == first || *bytes == second);
    ++reads;
  }
  writer.join();
  EXPECT_EQ(ListFiles(directory_.path())->size(), 1u) << "a temporary file was left";
}

TEST_F(FilesTest, AWriteReplacesALinkAndLeavesItsTargetAlone) {
  Write("target", "untouched");
  ASSERT_EQ(symlink("target", At("link").c_str()), 0);
  Write("link", "new");
  EXPECT_EQ(*ReadFile(At("target")), "untouched");
  struct stat info {};
  ASSERT_EQ(lstat(At("link").c_str(), &info), 0);
  EXPECT_TRUE(S_ISREG(info.st_mode));
}

TEST_F(FilesTest, AFailedWriteLeavesTheOldFileAndNoOther) {
  ASSERT_TRUE(MakeDirectories(At("taken")).ok());
  Write("taken/inside", "x");
  EXPECT_FALSE(WriteFileAtomically(At("taken"), "bytes").ok());
  EXPECT_EQ(ListFiles(directory_.path())->size(), 1u);
  EXPECT_EQ(WriteFileAtomically(At("nowhere/file"), "bytes").code(), absl::StatusCode::kNotFound);
}

TEST_F(FilesTest, MakeDirectoriesNeedsDirectoriesAllTheWay) {
  EXPECT_TRUE(MakeDirectories(At("a/b/c")).ok());
  EXPECT_TRUE(MakeDirectories(At("a/b/c")).ok());
  Write("file", "x");
  EXPECT_FALSE(MakeDirectories(At("file")).ok());
  EXPECT_FALSE(MakeDirectories(At("file/below")).ok());
}

TEST_F(FilesTest, ListsRegularFilesSortedByPath) {
  ASSERT_TRUE(MakeDirectories(At("b/c")).ok());
  ASSERT_TRUE(MakeDirectories(At("empty")).ok());
  Write("b/c/deep", "123");
  Write("b/a", "1");
  Write("z", "");
  const auto files = ListFiles(directory_.path());
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->size(), 3u);
  EXPECT_EQ((*files)[0].path, "b/a");
  EXPECT_EQ((*files)[1].path, "b/c/deep");
  EXPECT_EQ((*files)[1].size, 3);
  EXPECT_EQ((*files)[2].path, "z");
  EXPECT_TRUE(FsyncTree(directory_.path()).ok());
}

TEST_F(FilesTest, ListFilesRefusesLinksAndPipes) {
  ASSERT_TRUE(MakeDirectories(At("links")).ok());
  ASSERT_EQ(symlink("/etc/passwd", At("links/to_file").c_str()), 0);
  EXPECT_EQ(ListFiles(At("links")).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(MakeDirectories(At("loops")).ok());
  ASSERT_EQ(symlink("..", At("loops/up").c_str()), 0);
  EXPECT_EQ(ListFiles(At("loops")).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(FsyncTree(At("loops")).ok());
  ASSERT_TRUE(MakeDirectories(At("pipes")).ok());
  ASSERT_EQ(mkfifo(At("pipes/pipe").c_str(), 0600), 0);
  EXPECT_EQ(ListFiles(At("pipes")).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ListFiles(At("none")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(FilesTest, RemoveTreeRemovesLinksAndNotWhatTheyPointAt) {
  ASSERT_TRUE(MakeDirectories(At("kept")).ok());
  Write("kept/file", "x");
  ASSERT_TRUE(MakeDirectories(At("gone/below")).ok());
  ASSERT_EQ(symlink("../kept", At("gone/link").c_str()), 0);
  EXPECT_TRUE(RemoveTree(At("gone")).ok());
  EXPECT_FALSE(Exists(At("gone")));
  EXPECT_EQ(*ReadFile(At("kept/file")), "x");
  EXPECT_TRUE(RemoveTree(At("gone")).ok());
}

TEST_F(FilesTest, RenameRefusesToReplace) {
  Write("a", "1");
  Write("b", "2");
  EXPECT_EQ(RenameWithoutReplacing(At("a"), At("b")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(*ReadFile(At("b")), "2");
  EXPECT_TRUE(RenameWithoutReplacing(At("a"), At("c")).ok());
  EXPECT_EQ(*ReadFile(At("c")), "1");
  EXPECT_FALSE(Exists(At("a")));
}

TEST_F(FilesTest, ExistsSeesADanglingLink) {
  ASSERT_EQ(symlink("nowhere", At("dangling").c_str()), 0);
  EXPECT_TRUE(Exists(At("dangling")));
  EXPECT_FALSE(Exists(At("nowhere")));
}

TEST_F(FilesTest, KnowsTheFileSystem) {
  EXPECT_GT(*FreeBytes(directory_.path()), 0);
  EXPECT_TRUE(IsNetworkFileSystem(directory_.path()).ok());
  EXPECT_FALSE(*IsNetworkFileSystem("/proc"));
  EXPECT_FALSE(FreeBytes(At("none")).ok());
}

TEST(SafePathTest, KeepsToPlainRelativePaths) {
  const std::string longest(128, 'a');
  for (const std::string& path :
       {std::string("a"), std::string("config.json"), std::string("a/b/c/d"),
        std::string("model-00001-of-00002.safetensors"), std::string("a..b"), longest}) {
    EXPECT_TRUE(IsSafeRelativePath(path)) << path;
  }
  for (const std::string& path : {std::string(""),          std::string("."),
                                  std::string(".."),        std::string("/etc/passwd"),
                                  std::string("a/../b"),    std::string("a//b"),
                                  std::string("a/"),        std::string("./a"),
                                  std::string(".hidden"),   std::string("-rf"),
                                  std::string("a/b/c/d/e"), std::string("a b"),
                                  std::string("a\\b"),      std::string("a\nb"),
                                  std::string("a\0b", 3),   std::string("~root"),
                                  std::string("\xc3\xa4"),  std::string("a:b"),
                                  std::string("a*"),        longest + "a"}) {
    EXPECT_FALSE(IsSafeRelativePath(path)) << path;
  }
}

}  // namespace
}  // namespace thaw
