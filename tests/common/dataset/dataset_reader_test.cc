#include "common/dataset/dataset_reader.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Writes `contents` to a file of its own.
std::string DatasetFile(const std::string& contents) {
  static int files = 0;
  const std::string path = testing::TempDir() + "/dataset_" + std::to_string(getpid()) + "_" +
                           std::to_string(files++) + ".jsonl";
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

struct Scanned {
  absl::Status status;
  DatasetSummary summary;
  std::vector<DatasetIssue> issues;
};

Scanned Scan(const std::string& path, const DatasetSchema& schema = {},
             const DatasetLimits& limits = {}) {
  Scanned scanned;
  scanned.status = ScanDataset(
      path, schema, limits,
      [&](const DatasetIssue& issue) {
        scanned.issues.push_back(issue);
        return absl::OkStatus();
      },
      &scanned.summary);
  return scanned;
}

// One file and the issues it must give, in order; reasons by substring.
struct IssueCase {
  std::string name;
  std::string contents;
  std::vector<DatasetIssue> expected;
  int64_t examples = 0;
};

const std::string kGood = "{\"text\":\"fine\",\"label\":\"a\"}\n";  // 28 bytes

std::vector<IssueCase> IssueCases() {
  const std::string deep_object(100'000, '{');
  std::string nested = "{\"text\":\"t\",\"label\":\"a\",\"x\":";
  for (int i = 0; i < 100'000; ++i) nested += "[";
  std::string long_names = "{\"a\":1";
  for (char c = 'b'; c < 'z'; ++c) long_names += ",\"" + std::string(500, c) + "\":1";
  long_names += "}";
  return {
      {"empty_file", "", {{1, 0, "", "holds no examples"}}},
      {"only_blank_lines", "\n \t\r\n\n", {{3, 0, "", "holds no examples"}}},
      {"one_line_without_feed", "{\"text\":\"t\",\"label\":\"a\"}", {}, 1},
      {"garbage", "hello\n" + kGood, {{1, 0, "", "not JSON"}}, 1},
      {"offset_of_the_fault",
       kGood + "{\"text\":\"t\" \"label\":1}\n",
       {{2, 46, "", "not JSON"}},
       1},
      {"cut_off", kGood + "{\"text\":\"t\",\"lab", {{2, 44, "", "missing closing quote"}}, 1},
      {"two_objects_a_line", "{\"text\":\"t\",\"label\":1}{}\n", {{1, 22, "", "not JSON"}}},
      {"trailing_comma", "{\"text\":\"t\",\"label\":1,}\n", {{1, 22, "", "not JSON"}}},
      {"comment", "{\"text\":\"t\",\"label\":1} // x\n", {{1, 23, "", "not JSON"}}},
      {"nan", "{\"text\":\"t\",\"label\":NaN}\n", {{1, 20, "", "invalid literal"}}},
      {"array", "[\"t\", 1]\n", {{1, 0, "", "is an array, not an object"}}},
      {"string", "\"t\"\n", {{1, 0, "", "is a string, not an object"}}},
      {"null", "null\n", {{1, 0, "", "is null, not an object"}}},
      {"missing_label",
       "{\"text\":\"t\",\"lable\":1}\n",
       {{1, 0, "label", "it has \"text\", \"lable\""}}},
      {"missing_both",
       "{}\n",
       {{1, 0, "text", "it has no fields"}, {1, 0, "label", "it has no fields"}}},
      {"many_long_fields",
       long_names + "\n",
       {{1, 0, "text", "and others"}, {1, 0, "label", "and others"}}},
      {"text_wrong_types",
       "{\"text\":1,\"label\":1}\n{\"text\":null,\"label\":1}\n{\"text\":[\"t\"],\"label\":1}\n"
       "{\"text\":{\"text\":\"t\"},\"label\":1}\n{\"text\":true,\"label\":1}\n",
       {{1, 0, "text", "is an integer, must be a string"},
        {2, 21, "text", "is null"},
        {3, 45, "text", "is an array"},
        {4, 70, "text", "is an object"},
        {5, 102, "text", "is a boolean"}}},
      {"label_wrong_types",
       "{\"text\":\"t\",\"label\":1.0}\n{\"text\":\"t\",\"label\":false}\n{\"text\":\"t\","
       "\"label\":[0]}\n"
       "{\"text\":\"t\",\"label\":18446744073709551615}\n{\"text\":\"t\",\"label\":\"\"}\n",
       {{1, 0, "label", "fraction"},
        {2, 25, "label", "is a boolean"},
        {3, 52, "label", "is an array"},
        {4, 77, "label", "more than 63 bits"},
        {5, 119, "label", "is empty"}}},
      {"label_long_or_unprintable",
       "{\"text\":\"t\",\"label\":\"" + std::string(257, 'x') +
           "\"}\n{\"text\":\"t\",\"label\":\"a\\nb\"}\n",
       {{1, 0, "label", "has 257 bytes, a class name at most 256"},
        {2, 281, "label", "control character"}}},
      {"mixed_label_kinds",
       kGood + "{\"text\":\"t\",\"label\":1}\n",
       {{2, 28, "label", "is an integer, but a string on line 1"}},
       1},
      {"empty_text",
       "{\"text\":\"\",\"label\":1}\n{\"text\":\" \\t\\n\",\"label\":1}\n",
       {{1, 0, "text", "is empty"}, {2, 22, "text", "is empty"}}},
      {"repeated_key",
       "{\"text\":\"t\",\"label\":1,\"text\":\"u\"}\n",
       {{1, 0, "text", "occurs twice"}}},
      {"repeated_ignored_key",
       "{\"text\":\"t\",\"label\":1,\"\\u0078\":1,\"x\":1}\n",
       {{1, 0, "x", "occurs twice"}}},
      {"inner_repetition_is_ignored",
       "{\"text\":\"t\",\"label\":1,\"x\":{\"text\":1,\"text\":1}}\n",
       {},
       1},
      {"byte_order_mark", "\xEF\xBB\xBF" + kGood + "x\n", {{2, 31, "", "not JSON"}}, 1},
      {"byte_order_mark_inside",
       kGood + "\xEF\xBB\xBF" + kGood,
       {{2, 28, "", "begins with a byte order mark"}},
       1},
      {"utf16", std::string("\xFF\xFE{\0\"\0t\0", 8) + kGood, {{1, 0, "", "UTF-16"}}},
      {"nul_byte",
       kGood + std::string("{\"text\":\"a\0b\",\"label\":1}\n", 25),
       {{2, 38, "", "NUL"}},
       1},
      {"nul_after_the_object",
       std::string("{\"text\":\"a\",\"label\":1}\0rest\n", 28),
       {{1, 22, "", "NUL"}}},
      {"escaped_nul", "{\"text\":\"a\\u0000b\",\"label\":1}\n", {{1, 0, "text", "U+0000"}}},
      {"raw_control_character",
       "{\"text\":\"a\x01\",\"label\":1}\n",
       {{1, 10, "", "must be escaped"}}},
      {"invalid_utf8", "{\"text\":\"a\xFF\",\"label\":1}\n", {{1, 10, "", "ill-formed UTF-8"}}},
      {"overlong_utf8", "{\"text\":\"\xC0\xAF\",\"label\":1}\n", {{1, 9, "", "ill-formed UTF-8"}}},
      {"surrogate_as_utf8",
       "{\"text\":\"\xED\xA0\x80\",\"label\":1}\n",
       {{1, 10, "", "ill-formed UTF-8"}}},
      {"lone_high_surrogate", "{\"text\":\"\\ud83d\",\"label\":1}\n", {{1, 15, "", "surrogate"}}},
      {"lone_low_surrogate", "{\"text\":\"\\ude00\",\"label\":1}\n", {{1, 14, "", "surrogate"}}},
      {"surrogate_pair", "{\"text\":\"\\ud83d\\ude00\",\"label\":1}\n", {}, 1},
      {"huge_number", "{\"text\":\"t\",\"label\":1e400}\n", {{1, 24, "", "too large"}}},
      {"huge_ignored_number",
       "{\"text\":\"t\",\"label\":1,\"x\":1" + std::string(400, '0') + "}\n",
       {{1, 426, "", "too large"}}},
      {"deep_array", nested + "\n" + kGood, {{1, 0, "", "nested deeper than 32"}}, 1},
      {"deep_object", deep_object + "\n" + kGood, {{1, 1, "", "not JSON"}}, 1},
      {"carriage_returns",
       "{\"text\":\"t\",\"label\":1}\r\n\r\n{\"text\":\"u\",\"label\":1}\r\n",
       {},
       2},
  };
}

TEST(DatasetReaderTest, ReportsEveryIssueWithItsPlace) {
  for (const IssueCase& c : IssueCases()) {
    SCOPED_TRACE(c.name);
    const std::string path = DatasetFile(c.contents);
    const Scanned scanned = Scan(path);
    ASSERT_TRUE(scanned.status.ok()) << scanned.status;
    ASSERT_EQ(scanned.issues.size(), c.expected.size())
        << (scanned.issues.empty() ? "" : scanned.issues[0].reason);
    for (size_t i = 0; i < c.expected.size(); ++i) {
      EXPECT_EQ(scanned.issues[i].line, c.expected[i].line);
      EXPECT_EQ(scanned.issues[i].byte_offset, c.expected[i].byte_offset)
          << scanned.issues[i].reason;
      EXPECT_EQ(scanned.issues[i].field, c.expected[i].field);
      EXPECT_THAT(scanned.issues[i].reason, HasSubstr(c.expected[i].reason));
      EXPECT_LE(scanned.issues[i].reason.size(), 300u);
      EXPECT_NE(scanned.issues[i].remedy, "");
    }
    EXPECT_EQ(scanned.summary.examples, c.examples);
    EXPECT_EQ(scanned.summary.issues, static_cast<int64_t>(c.expected.size()));
    EXPECT_EQ(scanned.summary.bytes,
              c.name == "utf16" ? scanned.summary.bytes : static_cast<int64_t>(c.contents.size()));
  }
}

// The reader of the trainer stops where the scan would report, and yields the same examples
// otherwise.
TEST(DatasetReaderTest, ReaderAgreesWithTheScan) {
  for (const IssueCase& c : IssueCases()) {
    SCOPED_TRACE(c.name);
    auto reader = DatasetReader::Open(DatasetFile(c.contents), {});
    ASSERT_TRUE(reader.ok());
    Example example;
    int64_t examples = 0;
    absl::StatusOr<bool> more = true;
    while ((more = (*reader)->Next(&example)).ok() && *more) ++examples;
    const bool no_bad_line =
        c.expected.empty() || c.name == "empty_file" || c.name == "only_blank_lines";
    EXPECT_EQ(more.ok(), no_bad_line) << more.status();
    if (no_bad_line) {
      EXPECT_EQ(examples, c.examples);
    } else {
      EXPECT_EQ(more.status().code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(std::string(more.status().message()),
                  HasSubstr("line " + std::to_string(c.expected[0].line)));
    }
  }
}

TEST(DatasetReaderTest, SumsUpAGoodFile) {
  const Scanned scanned =
      Scan(DatasetFile("\xEF\xBB\xBF{\"text\":\"b\",\"label\":10}\n{\"text\":\"a\",\"label\":-2,"
                       "\"source\":{\"a\":[1]}}\n\n"
                       "{\"label\":9,\"text\":\"long "
                       "\\u00e9\"}\n{\"text\":\"b\",\"label\":10}\n{\"text\":\"b\",\"label\":9}"));
  ASSERT_TRUE(scanned.status.ok()) << scanned.status;
  const DatasetSummary& summary = scanned.summary;
  EXPECT_EQ(summary.lines, 6);
  EXPECT_EQ(summary.blank_lines, 1);
  EXPECT_EQ(summary.examples, 5);
  EXPECT_EQ(summary.bad_lines, 0);
  EXPECT_EQ(summary.duplicates, 1);
  EXPECT_TRUE(summary.duplicates_exact);
  EXPECT_TRUE(summary.byte_order_mark);
  EXPECT_EQ(summary.longest_text_bytes, 7);
  EXPECT_EQ(summary.text_bytes, 11);
  EXPECT_EQ(summary.label_kind, LabelKind::kInteger);
  ASSERT_EQ(summary.labels.size(), 3u);
  EXPECT_EQ(summary.labels[0].label, "-2");
  EXPECT_EQ(summary.labels[1].label, "9");
  EXPECT_EQ(summary.labels[1].examples, 2);
  EXPECT_EQ(summary.labels[2].label, "10");
}

TEST(DatasetReaderTest, ReadsPairsAndRenamedOrAbsentColumns) {
  const std::string path = DatasetFile(
      "{\"a\":\"one\",\"b\":\"two\",\"class\":\"yes\"}\n{\"a\":\"one\",\"class\":\"no\"}\n");
  const DatasetSchema pairs = {"a", "b", "class"};
  EXPECT_EQ(Scan(path, pairs).issues.size(), 1u);
  EXPECT_EQ(Scan(path, pairs).issues[0].field, "b");
  auto reader = DatasetReader::Open(path, pairs);
  ASSERT_TRUE(reader.ok());
  Example example;
  ASSERT_TRUE(*(*reader)->Next(&example));
  EXPECT_EQ(example.text, "one");
  EXPECT_EQ(example.text_pair, "two");
  EXPECT_EQ(example.label, "yes");
  EXPECT_EQ(example.label_kind, LabelKind::kString);

  const Scanned unlabelled = Scan(path, {"a", "", ""});
  EXPECT_THAT(unlabelled.issues, IsEmpty());
  EXPECT_THAT(unlabelled.summary.labels, IsEmpty());
  EXPECT_EQ(unlabelled.summary.label_kind, LabelKind::kNone);

  for (const DatasetSchema& schema : std::vector<DatasetSchema>{
           {"", "", "label"}, {"a", "", "a"}, {"a", "a", "b"}, {"a", "b", "b"}}) {
    EXPECT_EQ(Scan(path, schema).status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(DatasetReader::Open(path, schema).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(DatasetReaderTest, BoundsLabelsAndDuplicateTracking) {
  std::string contents;
  for (int i = 0; i < 6; ++i) {
    contents += "{\"text\":\"t" + std::to_string(i) + "\",\"label\":" + std::to_string(i) + "}\n";
  }
  contents += "{\"text\":\"t0\",\"label\":0}\n";
  DatasetLimits limits;
  limits.max_labels = 4;
  Scanned scanned = Scan(DatasetFile(contents), {}, limits);
  ASSERT_EQ(scanned.issues.size(), 2u);
  EXPECT_EQ(scanned.issues[0].line, 5);
  EXPECT_THAT(scanned.issues[0].reason, HasSubstr("4 are the most"));
  EXPECT_EQ(scanned.summary.labels.size(), 4u);
  EXPECT_EQ(scanned.summary.duplicates, 1);
  limits = {};
  limits.max_tracked_duplicates = 3;
  scanned = Scan(DatasetFile(contents), {}, limits);
  EXPECT_FALSE(scanned.summary.duplicates_exact);
  EXPECT_EQ(scanned.summary.duplicates, 0);
}

TEST(DatasetReaderTest, CountsManyDuplicates) {
  std::string contents;
  for (int i = 0; i < 5000; ++i) {
    contents += "{\"text\":\"t" + std::to_string(i % 3000) + "\",\"label\":0}\n";
  }
  EXPECT_EQ(Scan(DatasetFile(contents)).summary.duplicates, 2000);
}

TEST(DatasetReaderTest, OpensRegularFilesOnly) {
  const std::string fifo = testing::TempDir() + "/fifo_" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(Scan(fifo).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Scan("/dev/zero").status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Scan(testing::TempDir()).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Scan("/no/such/file").status.code(), absl::StatusCode::kNotFound);
  unlink(fifo.c_str());
}

TEST(DatasetReaderTest, StopsWhenTheCallerDoes) {
  DatasetSummary summary;
  int calls = 0;
  const absl::Status status = ScanDataset(
      DatasetFile("x\nx\nx\n"), {}, {},
      [&](const DatasetIssue&) {
        ++calls;
        return absl::CancelledError("enough");
      },
      &summary);
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(ScanDataset(DatasetFile("x\n"), {}, {}, nullptr, &summary).ok());
  EXPECT_EQ(summary.issues, 1);
}

// Lines exactly at the limit pass; one byte more is reported with the right place, and reading goes
// on.
TEST(DatasetReaderTest, BoundsLineLength) {
  DatasetLimits limits;
  limits.max_line_bytes = 100;
  const std::string fits = "{\"label\":1,\"text\":\"" + std::string(79, 'x') + "\"}";
  ASSERT_EQ(fits.size(), 100u);
  const std::string over = "{\"label\":1,\"text\":\"" + std::string(80, 'x') + "\"}";
  const Scanned scanned =
      Scan(DatasetFile(fits + "\n" + over + "\n" + fits + "\n" + over), {}, limits);
  ASSERT_EQ(scanned.issues.size(), 2u);
  EXPECT_EQ(scanned.issues[0].line, 2);
  EXPECT_EQ(scanned.issues[0].byte_offset, 101);
  EXPECT_THAT(scanned.issues[0].reason, HasSubstr("longer than 100 bytes"));
  EXPECT_EQ(scanned.issues[1].line, 4);
  EXPECT_EQ(scanned.issues[1].byte_offset, 304);
  EXPECT_EQ(scanned.summary.examples, 2);
}

// A sparse gigabyte without a line feed, then a good line: memory must not follow the file.
TEST(DatasetReaderTest, ReadsAGigabyteLineInBoundedMemory) {
  const std::string path = DatasetFile(kGood);
  constexpr off_t kGigabyte = off_t{1} << 30;
  ASSERT_EQ(truncate(path.c_str(), kGigabyte), 0);
  std::ofstream(path, std::ios::binary | std::ios::app) << "\n" << kGood;
  rusage before, after;
  getrusage(RUSAGE_SELF, &before);
  const Scanned scanned = Scan(path);
  getrusage(RUSAGE_SELF, &after);
  unlink(path.c_str());
  ASSERT_EQ(scanned.issues.size(), 1u);
  EXPECT_EQ(scanned.issues[0].line, 2);
  EXPECT_EQ(scanned.issues[0].byte_offset, 28);
  EXPECT_EQ(scanned.summary.examples, 2);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 64 << 10) << "KiB";
}

// Random bytes and broken pieces of good lines: every line is counted once, nothing crashes,
// messages are UTF-8 of bounded length, and what is good here is good for a DOM parser too.
TEST(DatasetReaderTest, SurvivesRandomBytes) {
  const uint32_t seed = std::random_device{}();
  RecordProperty("seed", std::to_string(seed));
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const std::vector<std::string> pieces = {"{",
                                           "}",
                                           "[",
                                           "]",
                                           ":",
                                           ",",
                                           "\"",
                                           "\"text\"",
                                           "\"label\"",
                                           "\"t\"",
                                           "\"\\ud800\"",
                                           "\\u0000",
                                           "1",
                                           "-",
                                           "1e999",
                                           "null",
                                           "true",
                                           " ",
                                           "\t",
                                           "\r",
                                           "\n",
                                           "\xC3\xA9",
                                           "\xFF",
                                           "\xEF\xBB\xBF",
                                           "\x01",
                                           std::string(1, '\0'),
                                           "{\"text\":\"x\",\"label\":1}",
                                           "{\"text\":\"x\",\"label\":",
                                           "\\"};
  const std::string path = DatasetFile("");
  int64_t good = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string contents;
    if (round % 2 == 0) {
      for (int i = 0; i < 3; ++i) contents += kGood;
      for (int i = static_cast<int>(random() % 4); i > 0; --i) {
        contents[random() % contents.size()] = static_cast<char>(random() % 256);
      }
    } else {
      for (int i = static_cast<int>(random() % 40); i > 0; --i)
        contents += pieces[random() % pieces.size()];
    }
    std::ofstream(path, std::ios::binary | std::ios::trunc) << contents;
    DatasetLimits limits;
    limits.max_line_bytes = 64;
    const Scanned scanned = Scan(path, {}, limits);
    ASSERT_TRUE(scanned.status.ok());
    const DatasetSummary& summary = scanned.summary;
    ASSERT_EQ(summary.lines, summary.blank_lines + summary.examples + summary.bad_lines);
    ASSERT_GE(summary.issues, summary.bad_lines);
    for (const DatasetIssue& issue : scanned.issues) {
      ASSERT_LE(issue.reason.size(), 300u);
      ASSERT_LE(issue.byte_offset, static_cast<int64_t>(contents.size()));
      ASSERT_NO_THROW(nlohmann::json(issue.reason + issue.field).dump()) << issue.reason;
    }
    good += summary.examples;
  }
  EXPECT_GT(good, 50);
}

}  // namespace
}  // namespace thaw
