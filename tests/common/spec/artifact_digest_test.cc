#include "common/spec/artifact_digest.h"

#include "gtest/gtest.h"

namespace thaw {
namespace {

v1::Artifact TwoFiles() {
  v1::Artifact artifact;
  for (const auto& [path, digit] : {std::pair("a", '9'), std::pair("b", '1')}) {
    v1::File* file = artifact.add_files();
    file->set_path(path);
    file->set_sha256(std::string(64, digit));
  }
  return artifact;
}

TEST(DigestOfFiles, DependsOnContentAlone) {
  const v1::Artifact one = TwoFiles();
  v1::Artifact two = one;
  two.mutable_files()->SwapElements(0, 1);
  EXPECT_EQ(DigestOfFiles(one.files()), DigestOfFiles(two.files()));
  two.mutable_files(0)->set_sha256(std::string(64, '0'));
  EXPECT_NE(DigestOfFiles(one.files()), DigestOfFiles(two.files()));
}

// As anybody gets it by sha256sum * | sort | sha256sum.
TEST(DigestOfFiles, SortsTheLines) {
  EXPECT_EQ(DigestOfFiles(TwoFiles().files()),
            "5dd5b26cc1927299d11ac325907defca1f0a1cabe49f3feacdfd25250ddb7458");
}

}  // namespace
}  // namespace thaw
