// CSV, TSV and plain text: what is taken, what is refused and where.
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "common/dataset/dataset_reader.h"
#include "common/dataset/length_histogram.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string FormatFile(const std::string& contents) {
  static int files = 0;
  const std::string path =
      testing::TempDir() + "/formats_" + std::to_string(getpid()) + "_" + std::to_string(files++);
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

const DatasetSchema kCsv = {.format = FileFormat::kCsv};
const DatasetSchema kTsv = {.format = FileFormat::kTsv};
const DatasetSchema kPlain = {
    .label_column = "", .form = ExampleForm::kText, .format = FileFormat::kText};
const DatasetSchema kCsvNumber = {.form = ExampleForm::kNumber, .format = FileFormat::kCsv};

struct Scan {
  DatasetSummary summary;
  std::vector<DatasetIssue> issues;
};

Scan ScanOf(const std::string& contents, const DatasetSchema& schema,
            const DatasetLimits& limits = {}) {
  Scan scan;
  const absl::Status status = ScanDataset(
      FormatFile(contents), schema, limits,
      [&](const DatasetIssue& issue) {
        scan.issues.push_back(issue);
        return absl::OkStatus();
      },
      &scan.summary);
  EXPECT_TRUE(status.ok()) << status;
  return scan;
}

// "text|label" of every example.
std::vector<std::string> Read(const std::string& contents, const DatasetSchema& schema) {
  auto reader = DatasetReader::Open(FormatFile(contents), schema);
  EXPECT_TRUE(reader.ok()) << reader.status();
  std::vector<std::string> examples;
  Example example;
  while (true) {
    const auto more = (*reader)->Next(&example);
    EXPECT_TRUE(more.ok()) << more.status();
    if (!more.ok() || !*more) return examples;
    examples.push_back(example.text + "|" + example.label + "@" + std::to_string(example.line));
  }
}

TEST(FileFormatsTest, ReadsSeparatedValues) {
  EXPECT_THAT(Read("text,label\none,a\ntwo,b", kCsv), ElementsAre("one|a@2", "two|b@3"));
  EXPECT_THAT(Read("\xEF\xBB\xBFlabel,id,text\r\na,1,one\r\nb,2,two\r\n", kCsv),
              ElementsAre("one|a@2", "two|b@3"));
  EXPECT_THAT(Read("text,label\rone,a\r\rtwo,b\r", kCsv), ElementsAre("one|a@2", "two|b@4"));
  EXPECT_THAT(Read("text\tlabel\none, and\t007\n", kTsv), ElementsAre("one, and|007@2"));
  // Quotes: separators, line ends and doubled quotes within.
  EXPECT_THAT(Read("\"text\",\"label\"\n\"a, \"\"b\"\"\r\nc\",x\n\"\"\"\",\"y\"\n", kCsv),
              ElementsAre("a, \"b\"\r\nc|x@2", "\"|y@4"));
  // Labels are text as it is, in the order of their bytes.
  const Scan scan = ScanOf("text,label\na,10\nb, 9\nc,9\n", kCsv);
  EXPECT_TRUE(scan.issues.empty());
  ASSERT_EQ(scan.summary.labels.size(), 3u);
  EXPECT_EQ(scan.summary.labels[0].label, " 9");
  EXPECT_EQ(scan.summary.labels[1].label, "10");
  EXPECT_EQ(scan.summary.label_kind, LabelKind::kString);
  EXPECT_EQ(scan.summary.lines, 4);
}

TEST(FileFormatsTest, ReadsNumbersStrictly) {
  EXPECT_TRUE(ScanOf("text,label\na,-1\nb,2.5e3\nc,0\nd,0.5\n", kCsvNumber).issues.empty());
  for (const char* bad : {"", "1,", " 1", "1 ", "+1", "01", ".5", "1.", "1e", "0x1", "nan", "inf",
                          "1e999", "1 000", "-", "--1", "1.5.2"}) {
    const Scan scan = ScanOf("text,label\na,\"" + std::string(bad) + "\"\n", kCsvNumber);
    ASSERT_EQ(scan.issues.size(), 1u) << bad;
    EXPECT_THAT(scan.issues[0].reason, HasSubstr("must be a number"));
    EXPECT_EQ(scan.issues[0].field, "label");
  }
}

TEST(FileFormatsTest, SaysWhatIsWrongWithSeparatedValuesAndWhere) {
  struct Case {
    std::string contents;
    int64_t line;
    int64_t byte_offset;
    std::string field;
    std::string reason;
    int64_t examples;
  };
  const std::string header = "text,label\n";  // 11 bytes
  for (const Case& c : std::vector<Case>{
           {"", 1, 0, "", "holds no examples", 0},
           {header, 1, 0, "", "holds no examples", 0},
           {header + "one,a\ntwo\nx,b\n", 3, 17, "", "has 1 field; the header names 2", 2},
           {header + "one,a,\n", 2, 11, "", "has 3 fields", 0},
           {header + "say \"hi\",a\nx,b\n", 2, 15, "", "has a quote in a field", 1},
           {header + "\"x\"y,a\n\"z\",b\n", 2, 14, "", "goes on behind a quote", 1},
           {header + "one,a\n\"two,b\nx,c\n", 3, 17, "", "opens a quote that is never closed", 1},
           {header + std::string("a\0b,x\n", 6) + "x,b\n", 2, 12, "", "NUL", 1},
           {header + "a\xFF,x\nx,b\n", 2, 11, "text", "is not UTF-8", 1},
           {header + "x,a\xC3\n\xA9y,b\n", 2, 11, "label", "is not UTF-8", 0},
           {header + ",a\nx,b\n", 2, 11, "text", "is empty", 1},
           {header + "x,\n", 2, 11, "label", "is empty", 0},
           {"text,label,text\nx,a,y\n", 1, 0, "text", "is the name of columns 1 and 3", 0},
           {"text,,label\nx,a,y\n", 1, 0, "", "names no column 2 of 3", 0},
           {"\"text,label\nx,a\n", 1, 0, "", "opens a quote", 0},
           {"review,label\nx,a\ny,b\n", 1, 0, "text", "it has \"review\", \"label\"", 0},
           {std::string("\xFF\xFEt\0", 4), 1, 0, "", "UTF-16", 0}}) {
    SCOPED_TRACE(c.contents);
    const Scan scan = ScanOf(c.contents, kCsv);
    ASSERT_GE(scan.issues.size(), 1u);
    EXPECT_EQ(scan.issues[0].line, c.line);
    EXPECT_EQ(scan.issues[0].byte_offset, c.byte_offset);
    EXPECT_EQ(scan.issues[0].field, c.field);
    EXPECT_THAT(scan.issues[0].reason, HasSubstr(c.reason));
    EXPECT_NE(scan.issues[0].remedy, "");
    EXPECT_EQ(scan.summary.examples, c.examples);
  }
  // A file whose header lacks the answer may serve for prediction.
  const Scan unlabelled = ScanOf("id,text\n1,x\n2,y\n", kCsv);
  EXPECT_EQ(unlabelled.summary.unanswered_lines, 2);
  EXPECT_TRUE(
      ScanOf("id,text\n1,x\n", {.label_column = "", .format = FileFormat::kCsv}).issues.empty());
}

TEST(FileFormatsTest, BoundsRows) {
  DatasetLimits limits;
  limits.max_line_bytes = 20;
  const std::string fits = std::string(18, 'x') + ",a\n", over = std::string(19, 'x') + ",a\n";
  Scan scan = ScanOf("text,label\n" + fits + over + fits, kCsv, limits);
  ASSERT_EQ(scan.issues.size(), 1u);
  EXPECT_EQ(scan.issues[0].line, 3);
  EXPECT_EQ(scan.issues[0].byte_offset, 32);
  EXPECT_THAT(scan.issues[0].reason, HasSubstr("longer than 20 bytes"));
  EXPECT_EQ(scan.summary.examples, 2);
  // A quote that is left open is named.
  scan = ScanOf("text,label\n\"x\n" + over + over + "\"y\",b\n", kCsv, limits);
  ASSERT_GE(scan.issues.size(), 1u);
  EXPECT_THAT(scan.issues[0].remedy, HasSubstr("close the quote that line 2 opens"));
  scan = ScanOf("0123456789\n012345678\n\n0123456789\n0123456789\n\nx\n", kPlain, limits);
  ASSERT_EQ(scan.issues.size(), 1u);
  EXPECT_EQ(scan.issues[0].line, 4);
  EXPECT_EQ(scan.summary.examples, 2);
}

// A sparse gigabyte inside a quote, or without an empty line: memory must not follow the file.
TEST(FileFormatsTest, ReadsAGigabyteRowInBoundedMemory) {
  for (const DatasetSchema& schema : {kCsv, kPlain}) {
    const bool csv = schema.format == FileFormat::kCsv;
    const std::string path = FormatFile(csv ? "text,label\n\"x" : "x");
    ASSERT_EQ(truncate(path.c_str(), off_t{200} << 20), 0);
    std::ofstream(path, std::ios::binary | std::ios::app) << (csv ? "\",a\ny,b\n" : "\n\ny\n");
    rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    DatasetSummary summary;
    ASSERT_TRUE(ScanDataset(path, schema, {}, nullptr, &summary).ok());
    getrusage(RUSAGE_SELF, &after);
    unlink(path.c_str());
    EXPECT_EQ(summary.bad_lines, 1);
    EXPECT_EQ(summary.examples, 1);
    EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 64 << 10) << "KiB";
  }
}

TEST(FileFormatsTest, ReadsPlainText) {
  EXPECT_THAT(Read("\xEF\xBB\xBFone\ntwo\r\nthree\n\n \t\n\nfour\rfive", kPlain),
              ElementsAre("one\ntwo\nthree|@1", "four\nfive|@7"));
  EXPECT_THAT(Read("a\r\n\r\nb\r\n\r\n", kPlain), ElementsAre("a|@1", "b|@3"));
  EXPECT_THAT(Read("", kPlain), ElementsAre());
  const Scan scan = ScanOf("fine\n\na\xFF\nb\n\nfine\n\n" + std::string("\0x\n", 3), kPlain);
  ASSERT_EQ(scan.issues.size(), 2u);
  EXPECT_EQ(scan.issues[0].line, 3);
  EXPECT_EQ(scan.issues[0].byte_offset, 6);
  EXPECT_THAT(scan.issues[0].reason, HasSubstr("is not UTF-8"));
  EXPECT_EQ(scan.issues[1].line, 8);
  EXPECT_THAT(scan.issues[1].reason, HasSubstr("NUL"));
  EXPECT_EQ(scan.summary.examples, 2);
  EXPECT_EQ(scan.summary.duplicates, 1);
}

TEST(FileFormatsTest, RefusesSchemasThatAFormatCannotHold) {
  for (const DatasetSchema& schema :
       std::vector<DatasetSchema>{{.form = ExampleForm::kLabels, .format = FileFormat::kCsv},
                                  {.text_column = "messages",
                                  .form = ExampleForm::kConversation,
                                  .format = FileFormat::kTsv},
                                  {.text_column = "review",
                                  .label_column = "",
                                  .form = ExampleForm::kText,
                                  .format = FileFormat::kText}}) {
    EXPECT_EQ(DatasetReader::Open(FormatFile(""), schema).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

// Random pieces: every row is counted once, the reader agrees with the scan, messages are bounded.
TEST(FileFormatsTest, SurvivesRandomBytes) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const std::vector<std::string> pieces = {"text",
                                           "label",
                                           ",",
                                           "\t",
                                           "\"",
                                           "\"\"",
                                           "\n",
                                           "\r\n",
                                           "\r",
                                           "x",
                                           "\"",
                                           "\xC3\xA9",
                                           "\xFF",
                                           "text,label\n",
                                           "\"a\nb\",c\n",
                                           std::string(1, '\0')};
  for (int round = 0; round < 3000; ++round) {
    std::string contents = round % 2 == 0 ? "text,label\n" : "";
    for (int i = static_cast<int>(random() % 40); i > 0; --i) {
      contents += pieces[random() % pieces.size()];
    }
    DatasetLimits limits;
    limits.max_line_bytes = 64;
    for (const DatasetSchema& schema : {kCsv, kTsv, kPlain}) {
      const Scan scan = ScanOf(contents, schema, limits);
      ASSERT_LE(scan.summary.examples + scan.summary.bad_lines, scan.summary.lines);
      for (const DatasetIssue& issue : scan.issues) {
        ASSERT_LE(issue.reason.size(), 300u);
        ASSERT_LE(issue.byte_offset, static_cast<int64_t>(contents.size()));
        ASSERT_LE(issue.line, std::max<int64_t>(scan.summary.lines, 1));
        ASSERT_NO_THROW(nlohmann::json(issue.reason + issue.field).dump()) << issue.reason;
      }
      auto reader = DatasetReader::Open(FormatFile(contents), schema, limits);
      ASSERT_TRUE(reader.ok());
      Example example;
      int64_t examples = 0;
      absl::StatusOr<bool> more = true;
      while ((more = (*reader)->Next(&example)).ok() && *more) ++examples;
      if (scan.summary.bad_lines == 0) {
        ASSERT_TRUE(more.ok()) << more.status();
        ASSERT_EQ(examples, scan.summary.examples);
      } else {
        ASSERT_FALSE(more.ok());
      }
    }
  }
}

TEST(LengthHistogramTest, IsExactForShortLengthsAndCloseForLongOnes) {
  LengthHistogram histogram;
  EXPECT_EQ(histogram.Percentile(0.5), 0);
  for (int64_t length = 0; length < 100; ++length) histogram.Add(length);
  EXPECT_EQ(histogram.Percentile(0.5), 49);
  EXPECT_EQ(histogram.Percentile(0.99), 98);
  EXPECT_EQ(histogram.Percentile(1), 99);
  for (const int64_t length :
       {int64_t{0}, int64_t{1}, int64_t{255}, int64_t{256}, int64_t{257}, int64_t{511},
        int64_t{512}, int64_t{1000}, int64_t{123'456'789}, INT64_MAX - 1}) {
    LengthHistogram one;
    one.Add(length);
    one.Add(INT64_MAX);
    const int64_t found = one.Percentile(0.5);
    EXPECT_GE(found, length);
    EXPECT_LE(static_cast<double>(found - length), static_cast<double>(length) / 128) << length;
    if (length < 256) {
      EXPECT_EQ(found, length);
    }
    EXPECT_EQ(one.greatest(), INT64_MAX);
  }
}

TEST(FileFormatsTest, CountsCharactersNotBytes) {
  const Scan scan = ScanOf("text,label\nab,x\n\xC3\xA9\xC3\xA9\xC3\xA9,x\nabcdefghij,y\n", kCsv);
  EXPECT_EQ(scan.summary.characters_p50, 3);
  EXPECT_EQ(scan.summary.characters_max, 10);
}

}  // namespace
}  // namespace thaw
