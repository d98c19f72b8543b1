// Files made to break a reader: each refused with a message that says what is wrong.
#include <filesystem>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "common/safetensors/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

std::string WithLength(uint64_t length, const std::string& rest) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(length >> (8 * i)));
  return bytes + rest;
}
std::string File(const std::string& header, size_t data) {
  return WithLength(header.size(), header + std::string(data, 'd'));
}
std::string Refusal(const std::string& bytes) {
  const auto parsed = ParseSafetensors(bytes, "m.safetensors");
  return parsed.ok() ? "accepted" : std::string(parsed.status().message());
}

TEST(HostileSafetensors, AreRefusedWithTheReason) {
  const std::string f = R"("dtype":"F32","shape":[2])";
  const struct {
    std::string bytes;
    const char* message;
  } cases[] = {
      {"", "expected at least 8 bytes, found 0"},
      {"1234567", "found 7"},
      {WithLength(UINT64_MAX, "{}"), "found 18446744073709551615"},
      {WithLength(100'000'000, "{}"), "expected a header of at most 16777216 bytes"},
      {WithLength(3, "{}"), "expected a header of 3 bytes, found a file of 10"},
      {WithLength(0, ""), "from { to }"},
      {File(" {}", 0), "from { to }"},
      {File("{}\n", 0), "from { to }"},
      {File("[]", 0), "from { to }"},
      {File("{\"a\":}", 0), "not JSON"},
      {File("{\"a\xff\":{}}", 0), "not JSON"},
      {File("{}", 1), "expected 0 bytes of data, found 1"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[0,8]}}", 9), "expected 8 bytes of data, found 9"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[0,8]}}", 7), "expected 8 bytes of data, found 7"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[4,12]}}", 12), "(a hole)"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[0,8]},\"b\":{" + f + ",\"data_offsets\":[4,12]}}",
            12),
       "tensor \"b\": expected its data at offset 8, found 4 (an overlap)"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[0,8]},\"b\":{" + f + ",\"data_offsets\":[0,8]}}",
            8),
       "(an overlap)"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[8,0]}}", 8), "(a hole)"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[0,7]}}", 7),
       "expected 8 bytes for F32 [2], found [0, 7)"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[-1,7]}}", 8), "the negative number -1"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[0.0,8]}}", 8), "the number 0.0"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[0,8,9]}}", 8), "at most 2 numbers"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[0]}}", 8), "expected two data_offsets, found 1"},
      {File("{\"a\":{" + f + "}}", 8), "\"data_offsets\" is missing"},
      {File("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8), "\"shape\" is missing"},
      {File("{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8), "\"dtype\" is missing"},
      {File(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8), "negative"},
      {File(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})", 8),
       "expected more than 2^63 bytes"},
      {File(R"({"a":{"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,8]}})", 8),
       "expected more than 2^63 bytes"},
      {File(R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", 8),
       "over 2^63 - 1"},
      {File(R"({"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,8]}})", 8), "m.safetensors: "},
      {File(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})", 8),
       "at most 8 numbers"},
      {File(R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", 8), "an array"},
      {File(R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8), "the number 2"},
      {File(R"({"a":{"dtype":"F32","shape":null,"data_offsets":[0,8]}})", 8), "null"},
      {File(R"({"a":{"dtype":"F8_E5M2","shape":[8],"data_offsets":[0,8]}})", 8),
       "element type \"F8_E5M2\" is not supported"},
      {File(R"({"a":{"dtype":3,"shape":[8],"data_offsets":[0,8]}})", 8), "the number 3"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[0,8],\"x\":1}}", 8),
       "tensor \"a\", \"x\": unknown key"},
      {File("{\"a\":{" + f + "," + f + ",\"data_offsets\":[0,8]}}", 8), "key occurs twice"},
      {File("{\"a\":{" + f + ",\"data_offsets\":[0,8]},\"a\":{" + f + ",\"data_offsets\":[8,16]}}",
            16),
       "tensor \"a\": occurs twice"},
      {File(R"({"__metadata__":{"a":1}})", 0), "the number 1"},
      {File(R"({"__metadata__":{"a":{}}})", 0), "an object"},
      {File(R"({"__metadata__":{"a":"1","a":"2"}})", 0), "twice"},
      {File(R"({"__metadata__":[]})", 0), "an array"},
      {File(R"({"a":1})", 0), "the number 1"},
      {File(R"({"":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0), "a name has 1 to 512"},
      {File("{\"" + std::string(600, 'n') + "\":{}}", 0), "found 600 bytes"},
      {File("{\"a\\u0000b\":{}}", 0), "no NUL"},
      {File(std::string(100'000, '{') + std::string(100'000, '}'), 0), "not JSON"},
      {File("{\"a\":" + std::string(100'000, '[') + "}", 0), "an array"},
  };
  for (const auto& [bytes, message] : cases) {
    const std::string refusal = Refusal(bytes);
    EXPECT_THAT(refusal, HasSubstr(message)) << bytes.substr(8, 120);
    EXPECT_THAT(refusal, HasSubstr("m.safetensors: "));
    EXPECT_LT(refusal.size(), 1000u);
  }
}

TEST(HostileSafetensors, EdgesThatAreLegalAreTaken) {
  EXPECT_EQ(Refusal(File("{}", 0)), "accepted");
  EXPECT_EQ(Refusal(File("{}      ", 0)), "accepted");
  EXPECT_EQ(Refusal(File(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4)),
            "accepted");
  EXPECT_EQ(Refusal(File(R"({"a":{"dtype":"F32","shape":[0,9],"data_offsets":[0,0]},)"
                         R"("b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                         1)),
            "accepted");
}

TEST(HostileSafetensors, ManyTensorsAreReadInTime) {
  std::string header = "{";
  const int count = 200'000;
  for (int i = 0; i < count; ++i) {
    absl::StrAppend(&header, i == 0 ? "" : ",", "\"", i,
                    R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
  }
  const auto parsed = ParseSafetensors(File(header + "}", 0), "many");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tensors.size(), static_cast<size_t>(count));
}

TEST(HostileSafetensors, FilesThatAreNone) {
  EXPECT_EQ(SafetensorsFile::Open(::testing::TempDir() + "not-there").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(SafetensorsFile::Open(::testing::TempDir()).ok());
  EXPECT_FALSE(SafetensorsFile::Open("/dev/null").ok());
}

// Whatever a damaged file holds: no crash, and what is accepted describes exactly its bytes.
TEST(HostileSafetensors, SurviveMutations) {
  const std::string seeds[] = {
      File(R"({"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[2,3],)"
           R"("data_offsets":[0,24]},"b":{"dtype":"I64","shape":[1],"data_offsets":[24,32]}}   )",
           32),
      File(R"({"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}})", 8)};
  const uint32_t seed = 20261124;
  std::mt19937 random(seed);
  const std::string alphabet = "{}[]\",:0123456789-.eE\\ abFU\xff";
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = seeds[round % 2];
    for (uint32_t n = random() % 4 + 1; n > 0; --n) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = alphabet[random() % alphabet.size()];
          break;
        case 2:
          bytes.insert(at, 1, alphabet[random() % alphabet.size()]);
          break;
        default:
          bytes.erase(at, 1);
      }
      if (bytes.empty()) bytes = "x";
    }
    const auto parsed = ParseSafetensors(bytes, "fuzz");
    if (!parsed.ok()) continue;
    ++accepted;
    int64_t covered = 0;
    for (const TensorInfo& tensor : parsed->tensors) {
      ASSERT_EQ(tensor.begin, covered) << "seed " << seed << " round " << round;
      covered = tensor.end;
    }
    ASSERT_EQ(parsed->data_offset + covered, static_cast<int64_t>(bytes.size()))
        << "seed " << seed << " round " << round;
  }
  EXPECT_GT(accepted, 0) << "the mutations never leave a file legal: seed " << seed;
}

}  // namespace
}  // namespace thaw
