#include "common/delta/delta.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

class DeltaTest : public ::testing::Test {
 protected:
  DeltaTest() {
    std::string directory = ::testing::TempDir() + "thaw_delta_XXXXXX";
    root_ = mkdtemp(directory.data());
    for (const char* part : {"base", "delta", "full"}) {
      std::filesystem::create_directory(root_ + "/" + part);
    }
    EXPECT_TRUE(WriteSafetensors(
                    Path("base/model.safetensors"),
                    {Tensor("kept", kept_), Tensor("trained", {1, 2}), Tensor("left out", {8, 9})})
                    .ok());
  }
  ~DeltaTest() override { std::filesystem::remove_all(root_); }

  std::string Path(const std::string& name) const { return root_ + "/" + name; }

  TensorToWrite Tensor(const std::string& name, const std::vector<float>& values) {
    const std::vector<float>& stored = values_[name] = values;
    return {name, ElementType::kF32, {static_cast<int64_t>(stored.size())}, stored.data()};
  }

  // As a training leaves them: one frozen under a longer name, one trained, one new.
  std::vector<TensorForDelta> Trained() {
    return {{Tensor("bert.kept", kept_), "kept"},
            {Tensor("bert.trained", {1, 2.5}), "trained"},
            {Tensor("classifier", {7}), ""}};
  }

  std::string root_;
  const std::vector<float> kept_ = {3, 4, 5};
  std::map<std::string, std::vector<float>> values_;
};

TEST_F(DeltaTest, HoldsOnlyWhatDiffersAndGivesBackTheSameFile) {
  ASSERT_TRUE(WriteDelta(Path("delta"), "digest-of-base", Path("base"), Trained()).ok());
  EXPECT_TRUE(HoldsDelta(Path("delta")));
  EXPECT_FALSE(HoldsDelta(Path("base")));
  EXPECT_EQ(*DeltaBaseDigest(Path("delta")), "digest-of-base");
  const auto own = SafetensorsFile::Open(Path("delta/delta.safetensors"));
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ((*own)->tensors().size(), 2u);
  EXPECT_EQ((*own)->Find("bert.kept"), nullptr);

  std::vector<TensorToWrite> full;
  for (const TensorForDelta& one : Trained()) full.push_back(one.tensor);
  ASSERT_TRUE(WriteSafetensors(Path("full/model.safetensors"), full).ok());
  const absl::Status rebuilt =
      RebuildWeights(Path("delta"), Path("base"), Path("full/rebuilt.safetensors"));
  ASSERT_TRUE(rebuilt.ok()) << rebuilt;
  EXPECT_EQ(*ReadFile(Path("full/rebuilt.safetensors")), *ReadFile(Path("full/model.safetensors")));
}

TEST_F(DeltaTest, OpensTensorsWhereTheyLie) {
  ASSERT_TRUE(WriteDelta(Path("delta"), "", Path("base"), Trained()).ok());
  const auto tensors = OpenDelta(Path("delta"), Path("base"));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  EXPECT_EQ((*tensors)[0].name, "bert.kept");
  EXPECT_EQ((*tensors)[0].info->name, "kept");
  EXPECT_EQ((*tensors)[0].file->path(), Path("base/model.safetensors"));
  EXPECT_EQ((*tensors)[1].name, "bert.trained");
  EXPECT_EQ(static_cast<const float*>((*tensors)[1].file->Data(*(*tensors)[1].info))[1], 2.5f);
}

// A tensor that was trained and came back to the same bits is the base's.
TEST_F(DeltaTest, ComparesBitsNotHistories) {
  auto trained = Trained();
  trained[1] = {Tensor("bert.trained", {1, 2}), "trained"};
  trained[2] = {Tensor("zero", {-0.0f, 4, 5}), "kept"};
  ASSERT_TRUE(WriteDelta(Path("delta"), "", Path("base"), trained).ok());
  const auto own = SafetensorsFile::Open(Path("delta/delta.safetensors"));
  ASSERT_EQ((*own)->tensors().size(), 1u);
  EXPECT_EQ((*own)->tensors()[0].name, "zero");
}

TEST_F(DeltaTest, AnotherBaseIsFoundOut) {
  ASSERT_TRUE(WriteDelta(Path("delta"), "", Path("base"), Trained()).ok());
  ASSERT_TRUE(WriteSafetensors(Path("base/model.safetensors"), {Tensor("kept", {3, 4, 6})}).ok());
  const absl::Status rebuilt = RebuildWeights(Path("delta"), Path("base"), Path("full/m"));
  EXPECT_TRUE(absl::IsDataLoss(rebuilt)) << rebuilt;
  EXPECT_FALSE(Exists(Path("full/m")));
  ASSERT_TRUE(WriteSafetensors(Path("base/model.safetensors"), {Tensor("other", {3})}).ok());
  EXPECT_THAT(OpenDelta(Path("delta"), Path("base")).status().ToString(),
              HasSubstr("tensor \"bert.kept\" is not in"));
}

TEST_F(DeltaTest, RefusesWhatIsNoDelta) {
  ASSERT_TRUE(WriteDelta(Path("delta"), "", Path("base"), Trained()).ok());
  const std::string good = *ReadFile(Path("delta/delta.json"));
  const auto failure_of = [&](const std::string& json) {
    std::ofstream(Path("delta/delta.json"), std::ios::trunc) << json;
    return OpenDelta(Path("delta"), Path("base")).status().ToString();
  };
  EXPECT_THAT(failure_of("[]"), HasSubstr("is no delta"));
  EXPECT_THAT(failure_of(R"({"format_version": 2})"), HasSubstr("format version 2"));
  EXPECT_THAT(failure_of(R"({"format_version": 1})"), HasSubstr("names 0 of them"));
  EXPECT_THAT(failure_of(R"({"format_version": 1, "tensors": [{"name": "b"}, {"name": "a"}]})"),
              HasSubstr("not in the order of names"));
  EXPECT_THAT(failure_of(R"({"format_version": 1, "tensors": [{"name": "x"}]})"),
              HasSubstr("tensor \"x\" is not in"));
  EXPECT_EQ(failure_of(good), "OK");
  // A few bytes that stand for terabytes.
  std::string many = R"({"format_version": 1, "tensors": [{"name": "bert.trained"})";
  for (int i = 100; i < 150; ++i) {
    many += absl::StrCat(R"(,{"name": "c)", i, R"(", "base_name": "kept"})");
  }
  EXPECT_THAT(failure_of(many + "]}"), HasSubstr("more than twice the bytes"));
}

}  // namespace
}  // namespace thaw
