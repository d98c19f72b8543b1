#include "worker/agent/artifact_cache.h"

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/sha256.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

class ArtifactCacheTest : public ::testing::Test {
 protected:
  static v1::Artifact Make(const std::string& content) {
    v1::Artifact artifact;
    artifact.set_id("model-1");
    artifact.set_digest(Sha256Hex(content));
    artifact.set_size_bytes(static_cast<int64_t>(content.size()));
    return artifact;
  }
  ArtifactCache::FetchFn Fetch(const std::string& content) {
    return [this, content](const v1::Artifact&, const std::string& directory) {
      ++fetches_;
      if (!next_.ok()) return next_;
      EXPECT_TRUE(MakeDirectories(directory).ok());
      return WriteFileAtomically(directory + "/file", content);
    };
  }
  bool Has(const std::string& content) const {
    return Exists(absl::StrCat(dir_.path(), "/", Sha256Hex(content)));
  }

  TempDir dir_;
  int fetches_ = 0;
  absl::Status next_;
};

TEST_F(ArtifactCacheTest, FetchesOnceAndVerifiesWhatAnEarlierProcessLeft) {
  for (int process = 0; process < 2; ++process) {
    ArtifactCache cache(dir_.path(), 1000);
    for (int use = 0; use < 3; ++use) {
      const auto pin = cache.Get(Make("abc"), Fetch("abc"));
      ASSERT_TRUE(pin.ok()) << pin.status();
      EXPECT_EQ(*ReadFile(pin->directory() + "/file"), "abc");
    }
    EXPECT_EQ(fetches_, process + 1);
  }
}

TEST_F(ArtifactCacheTest, EvictsTheLongestUnusedButNothingPinned) {
  ArtifactCache cache(dir_.path(), 10);
  const auto pinned = cache.Get(Make("1111"), Fetch("1111"));
  ASSERT_TRUE(cache.Get(Make("2222"), Fetch("2222")).ok());
  ASSERT_TRUE(cache.Get(Make("3333"), Fetch("3333")).ok());
  EXPECT_TRUE(Has("1111"));
  EXPECT_FALSE(Has("2222"));
  EXPECT_TRUE(Has("3333"));
}

TEST_F(ArtifactCacheTest, AFailedFetchIsTriedAgain) {
  ArtifactCache cache(dir_.path(), 1000);
  next_ = absl::UnavailableError("gone");
  EXPECT_FALSE(cache.Get(Make("abc"), Fetch("abc")).ok());
  next_ = absl::OkStatus();
  EXPECT_TRUE(cache.Get(Make("abc"), Fetch("abc")).ok());
  EXPECT_EQ(fetches_, 2);
}

TEST_F(ArtifactCacheTest, RefusesADigestThatIsNone) {
  ArtifactCache cache(dir_.path(), 1000);
  v1::Artifact artifact = Make("abc");
  artifact.set_digest("../../etc");
  EXPECT_FALSE(cache.Get(artifact, Fetch("abc")).ok());
  EXPECT_EQ(fetches_, 0);
}

}  // namespace
}  // namespace thaw
