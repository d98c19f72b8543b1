#include "common/base/sha256.h"

#include <gtest/gtest.h>

#include <string>

#include "common/base/files.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

// FIPS 180-2, appendix B.
const struct {
  std::string text, digest;
} kVectors[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    {std::string(1'000'000, 'a'),
     "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
};

TEST(Sha256Test, PublishedVectorsWholeAndInPieces) {
  for (const auto& vector : kVectors) {
    EXPECT_EQ(Sha256Hex(vector.text), vector.digest);
    Sha256 running;
    for (size_t at = 0; at < vector.text.size(); at += 1009) {
      running.Update(absl::string_view(vector.text).substr(at, 1009));
    }
    EXPECT_EQ(running.HexDigest(), vector.digest);
  }
}

TEST(Sha256Test, FilesHaveTheDigestOfTheirBytes) {
  const TempDir directory;
  const std::string path = directory.path() + "/file";
  for (const auto& vector : kVectors) {
    ASSERT_TRUE(WriteFileAtomically(path, vector.text).ok());
    const auto digest = DigestFile(path);
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(digest->sha256, vector.digest);
    EXPECT_EQ(digest->size, static_cast<int64_t>(vector.text.size()));
  }
  EXPECT_EQ(DigestFile(path + "x").status().code(), absl::StatusCode::kNotFound);
}

TEST(Sha256Test, EqualityIsOfAllBytes) {
  EXPECT_TRUE(EqualInConstantTime("", ""));
  EXPECT_TRUE(EqualInConstantTime("token", "token"));
  for (const absl::string_view other : {"", "toke", "tokem", "Token", "tokens"}) {
    EXPECT_FALSE(EqualInConstantTime("token", other)) << other;
  }
}

}  // namespace
}  // namespace thaw
