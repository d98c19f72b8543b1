#include "common/dataset/dataset_reader.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/dataset/dataset_split.h"
#include "common/dataset/example_parser.h"
#include "common/dataset/line_reader.h"

namespace thaw {
namespace {

absl::Status CheckSchema(const DatasetSchema& schema) {
  if (schema.text_column.empty()) {
    return InvalidField("text_column", "must name the column that holds the text");
  }
  if (schema.text_column == schema.text_pair_column || schema.text_column == schema.label_column ||
      (!schema.label_column.empty() && schema.label_column == schema.text_pair_column)) {
    return InvalidField("label_column", "text, text pair and label must be different columns");
  }
  return absl::OkStatus();
}

// UTF-16 files begin so; nothing in them can be read, and one message says more than one a line.
bool IsUtf16(std::string_view text) {
  return text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF");
}

// The hashes of examples seen, in an open-addressed table that stops growing at a limit.
class SeenExamples {
 public:
  explicit SeenExamples(int64_t limit) : limit_(static_cast<size_t>(limit)), slots_(1024) {}

  bool full() const { return size_ >= limit_; }
  // True if `hash` was there. Only while not full.
  bool Insert(uint64_t hash) {
    hash += hash == 0;  // 0 marks a free slot
    if (!Place(hash)) return true;
    if (++size_ * 2 > slots_.size()) Grow();
    return false;
  }

 private:
  bool Place(uint64_t hash) {
    for (size_t i = hash & (slots_.size() - 1);; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i] == hash) return false;
      if (slots_[i] == 0) {
        slots_[i] = hash;
        return true;
      }
    }
  }

  void Grow() {
    std::vector<uint64_t> old(slots_.size() * 2);
    old.swap(slots_);
    for (const uint64_t hash : old) {
      if (hash != 0) Place(hash);
    }
  }

  const size_t limit_;
  size_t size_ = 0;
  std::vector<uint64_t> slots_;
};

std::vector<LabelCount> InClassOrder(const std::unordered_map<std::string, int64_t>& counts,
                                     LabelKind kind) {
  std::vector<LabelCount> labels;
  for (const auto& [label, examples] : counts) labels.push_back({label, examples});
  std::sort(labels.begin(), labels.end(), [kind](const LabelCount& a, const LabelCount& b) {
    if (kind != LabelKind::kInteger) return a.label < b.label;
    int64_t x = 0, y = 0;
    return absl::SimpleAtoi(a.label, &x) && absl::SimpleAtoi(b.label, &y) && x < y;
  });
  return labels;
}

}  // namespace

absl::Status ScanDataset(const std::string& path, const DatasetSchema& schema,
                         const DatasetLimits& limits,
                         const std::function<absl::Status(const DatasetIssue&)>& on_issue,
                         DatasetSummary* summary) {
  *summary = {};
  THAW_RETURN_IF_ERROR(CheckSchema(schema));
  THAW_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines,
                        LineReader::Open(path, limits.max_line_bytes));
  ExampleParser parser(schema, limits);
  SeenExamples seen(limits.max_tracked_duplicates);
  std::unordered_map<std::string, int64_t> label_counts;
  std::vector<DatasetIssue> issues;
  const auto report = [&] {
    for (const DatasetIssue& issue : issues) {
      ++summary->issues;
      if (on_issue) THAW_RETURN_IF_ERROR(on_issue(issue));
    }
    issues.clear();
    return absl::OkStatus();
  };

  Line line;
  Example example;
  while (true) {
    THAW_ASSIGN_OR_RETURN(const bool more, lines->Next(&line));
    if (!more) break;
    ++summary->lines;
    if (line.number == 1 && IsUtf16(line.text)) {
      ++summary->bad_lines;
      issues.push_back({1, 0, "", "the file is UTF-16; convert it to UTF-8"});
      break;
    }
    if (!line.too_long && IsBlank(line.text)) {
      ++summary->blank_lines;
      continue;
    }
    bool good = parser.Parse(line, &example, &issues);
    if (good && example.label_kind != LabelKind::kNone) {
      auto count = label_counts.find(example.label);
      if (count != label_counts.end()) {
        ++count->second;
      } else if (static_cast<int>(label_counts.size()) < limits.max_labels) {
        label_counts.emplace(example.label, 1);
      } else {
        good = false;
        issues.push_back({line.number, line.byte_offset, Printable(schema.label_column, 64),
                          absl::StrCat("is a new class, but ", limits.max_labels,
                                       " are the most; is this the column of the classes?")});
      }
      if (good) summary->label_kind = example.label_kind;
    }
    THAW_RETURN_IF_ERROR(report());
    if (!good) {
      ++summary->bad_lines;
      continue;
    }
    ++summary->examples;
    const auto text_bytes = static_cast<int64_t>(example.text.size() + example.text_pair.size());
    summary->text_bytes += text_bytes;
    summary->longest_text_bytes = std::max(summary->longest_text_bytes, text_bytes);
    if (seen.full()) {
      summary->duplicates_exact = false;
    } else {
      summary->duplicates +=
          seen.Insert(HashTexts(example) ^ std::hash<std::string>()(example.label));
    }
  }
  if (summary->lines == summary->blank_lines) {
    issues.push_back({std::max<int64_t>(summary->lines, 1), 0, "", "the file holds no examples"});
  }
  THAW_RETURN_IF_ERROR(report());
  summary->bytes = lines->bytes_read();
  summary->byte_order_mark = lines->byte_order_mark();
  summary->labels = InClassOrder(label_counts, summary->label_kind);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DatasetReader>> DatasetReader::Open(const std::string& path,
                                                                   const DatasetSchema& schema,
                                                                   const DatasetLimits& limits) {
  THAW_RETURN_IF_ERROR(CheckSchema(schema));
  THAW_ASSIGN_OR_RETURN(std::unique_ptr<LineReader> lines,
                        LineReader::Open(path, limits.max_line_bytes));
  return std::unique_ptr<DatasetReader>(
      new DatasetReader(std::move(lines), std::make_unique<ExampleParser>(schema, limits)));
}

DatasetReader::DatasetReader(std::unique_ptr<LineReader> lines,
                             std::unique_ptr<ExampleParser> parser)
    : lines_(std::move(lines)), parser_(std::move(parser)) {}
DatasetReader::~DatasetReader() = default;

absl::StatusOr<bool> DatasetReader::Next(Example* example) {
  Line line;
  do {
    THAW_ASSIGN_OR_RETURN(const bool more, lines_->Next(&line));
    if (!more) return false;
  } while (!line.too_long && IsBlank(line.text));
  std::vector<DatasetIssue> issues;
  if (parser_->Parse(line, example, &issues)) return true;
  const DatasetIssue& issue = issues.front();
  return absl::FailedPreconditionError(absl::StrCat(
      "line ", issue.line, ", byte ", issue.byte_offset, ": ",
      issue.field.empty() ? "the line" : absl::StrCat("\"", issue.field, "\""), " ", issue.reason));
}

}  // namespace thaw
