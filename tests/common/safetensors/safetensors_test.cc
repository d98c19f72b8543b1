#include "common/safetensors/safetensors.h"

#include <cstring>
#include <filesystem>

#include "common/base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

std::string NewDirectory() {
  std::string directory = ::testing::TempDir() + "thaw_safetensors_XXXXXX";
  return mkdtemp(directory.data());
}

TEST(Safetensors, GivesBackWhatWasWritten) {
  const std::string path = NewDirectory() + "/t.safetensors";
  const float floats[] = {1, 2, 3, 4, 5, 6};
  const int64_t whole = 7;
  const uint8_t bytes[] = {1, 2, 3};
  ASSERT_TRUE(WriteSafetensors(path,
                               {{"b.bytes", ElementType::kU8, {3}, bytes},
                                {"a.floats", ElementType::kF32, {2, 3}, floats},
                                {"none", ElementType::kF16, {0, 5}, nullptr},
                                {"é\"scalar", ElementType::kI64, {}, &whole}},
                               {{"format", "pt"}, {"step", "12"}})
                  .ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("step"), "12");
  // Widest first, then by name; data begins on a cache line.
  std::vector<std::string> names;
  for (const TensorInfo& tensor : (*file)->tensors()) names.push_back(tensor.name);
  EXPECT_THAT(names, ::testing::ElementsAre("é\"scalar", "a.floats", "none", "b.bytes"));
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*file)->Data((*file)->tensors()[0])) % 64, 0u);
  const TensorInfo* found = (*file)->Find("a.floats");
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp((*file)->Data(*found), floats, sizeof(floats)), 0);
  EXPECT_EQ(std::memcmp((*file)->Data(*(*file)->Find("b.bytes")), bytes, 3), 0);
  EXPECT_EQ((*file)->Find("b"), nullptr);
  EXPECT_EQ(ListFiles(std::filesystem::path(path).parent_path()).value().size(), 1u);
}

TEST(Safetensors, WritesNothingWhereItCannotWriteAll) {
  const float one = 1;
  const TensorToWrite tensor{"a", ElementType::kF32, {1}, &one};
  const std::string directory = NewDirectory();
  EXPECT_EQ(WriteSafetensors(directory + "/t.safetensors", {tensor, tensor}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(WriteSafetensors(directory + "/none/t.safetensors", {tensor}).ok());
  EXPECT_TRUE(ListFiles(directory).value().empty());
}

class Shards : public ::testing::Test {
 protected:
  Shards() : directory_(NewDirectory()) {
    Write("one.safetensors", {"a", "b"});
    Write("two.safetensors", {"c"});
  }
  void Write(const std::string& file, const std::vector<std::string>& names) {
    const float one = 1;
    std::vector<TensorToWrite> tensors;
    for (const auto& name : names) tensors.push_back({name, ElementType::kF32, {1}, &one});
    ASSERT_TRUE(WriteSafetensors(directory_ + "/" + file, tensors).ok());
  }
  absl::Status Open(const std::string& index) {
    EXPECT_TRUE(WriteFileAtomically(directory_ + "/model.safetensors.index.json", index).ok());
    return OpenWeights(directory_).status();
  }
  const std::string directory_;
};

TEST_F(Shards, OpenWhenTheIndexIsExact) {
  EXPECT_TRUE(Open(R"({"metadata": {"total_size": 12}, "weight_map":
      {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}})")
                  .ok());
  EXPECT_EQ(OpenWeights(directory_)->size(), 2u);
}

TEST_F(Shards, AreRefusedOtherwise) {
  const struct {
    const char* index;
    const char* message;
  } cases[] = {
      {R"({"weight_map": {"a": "one.safetensors", "c": "two.safetensors"}})", "\"b\" is not of"},
      {R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "x": "one.safetensors"}})",
       "\"x\" is missing"},
      {R"({"weight_map": {"a": "../one.safetensors"}})", "found \"../one.safetensors\""},
      {R"({"weight_map": {"a": "/etc/passwd"}})", "found \"/etc/passwd\""},
      {R"({"weight_map": {"a": "sub/one.safetensors"}})", "beside the index"},
      {R"({"weight_map": {"a": "model.bin"}})", "beside the index"},
      {R"({"weight_map": {"a": 1}})", "found 1"},
      {R"({"weight_map": {"a": "three.safetensors"}})", "three.safetensors"},
      {R"({"weight_map": []})", "weight_map"},
      {R"([])", "weight_map"},
      {R"({"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}})", "twice"},
  };
  for (const auto& [index, message] : cases) {
    EXPECT_THAT(Open(index).ToString(), HasSubstr(message)) << index;
  }
}

TEST(Weights, SayThatPickleIsNotOpened) {
  EXPECT_THAT(OpenWeights(NewDirectory()).status().ToString(), HasSubstr("pickle"));
}

}  // namespace
}  // namespace thaw
