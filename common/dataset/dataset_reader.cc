#include "common/dataset/dataset_reader.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/dataset/dataset_split.h"
#include "common/dataset/example_parser.h"
#include "common/dataset/line_columns.h"
#include "common/dataset/line_reader.h"

namespace thaw {
namespace {

absl::Status CheckSchema(const DatasetSchema& schema) {
  if (schema.text_column.empty()) {
    return InvalidField("text_column", "must name the column that holds the text");
  }
  const std::string answer = schema.HasAnswerColumn() ? schema.label_column : "";
  if (schema.text_column == schema.text_pair_column || schema.text_column == answer ||
      (!answer.empty() && answer == schema.text_pair_column)) {
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

class LabelHistogram {
 public:
  explicit LabelHistogram(int max_labels) : max_labels_(max_labels) {}

  // False, and nothing counted, if the example brings a class too many.
  bool Add(const DatasetSchema& schema, const Example& example) {
    if (schema.form == ExampleForm::kLabels) {
      int64_t fresh = 0;
      for (const std::string& label : example.labels) fresh += counts_.count(label) == 0;
      if (static_cast<int64_t>(counts_.size()) + fresh > max_labels_) return false;
      for (const std::string& label : example.labels) ++counts_[label];
    } else if (example.label_kind != LabelKind::kNone) {
      const auto count = counts_.find(example.label);
      if (count == counts_.end() && static_cast<int64_t>(counts_.size()) >= max_labels_) {
        return false;
      }
      ++counts_[example.label];
    }
    return true;
  }

  std::vector<LabelCount> InClassOrder(LabelKind kind) const {
    std::vector<LabelCount> labels;
    for (const auto& [label, examples] : counts_) labels.push_back({label, examples});
    std::sort(labels.begin(), labels.end(), [kind](const LabelCount& a, const LabelCount& b) {
      if (kind != LabelKind::kInteger) return a.label < b.label;
      int64_t x = 0, y = 0;
      return absl::SimpleAtoi(a.label, &x) && absl::SimpleAtoi(b.label, &y) && x < y;
    });
    return labels;
  }

 private:
  const int64_t max_labels_;
  std::unordered_map<std::string, int64_t> counts_;
};

size_t HashAnswer(const Example& example) {
  std::string all = absl::StrCat(example.label, example.answer);
  for (const std::string& label : example.labels) absl::StrAppend(&all, "\xFF", label);
  for (const Turn& turn : example.turns) {
    if (turn.role == "assistant") absl::StrAppend(&all, "\xFF", turn.content);
  }
  if (example.number != 0) absl::StrAppend(&all, "\xFF", example.number);
  return std::hash<std::string>()(all);
}

void CountExample(const DatasetSchema& schema, const Example& example, DatasetSummary* summary) {
  if (schema.form == ExampleForm::kNumber && schema.HasAnswerColumn()) {
    const bool first = summary->examples == 0;
    const double number = example.number;
    summary->least_number = first ? number : std::min(summary->least_number, number);
    summary->greatest_number = first ? number : std::max(summary->greatest_number, number);
  }
  if (schema.form == ExampleForm::kLabels && schema.HasAnswerColumn()) {
    summary->without_labels += example.labels.empty();
  }
  if (example.label_kind != LabelKind::kNone) summary->label_kind = example.label_kind;
  ++summary->examples;
  size_t bytes = example.text.size() + example.text_pair.size() + example.answer.size();
  for (const Turn& turn : example.turns) bytes += turn.content.size();
  summary->text_bytes += static_cast<int64_t>(bytes);
  summary->longest_text_bytes = std::max(summary->longest_text_bytes, static_cast<int64_t>(bytes));
}

}  // namespace

absl::Status ScanDataset(const std::string& path, const DatasetSchema& schema,
                         const DatasetLimits& limits,
                         const std::function<absl::Status(const DatasetIssue&)>& on_issue,
                         DatasetSummary* summary, const std::function<void()>& tick) {
  constexpr int64_t kTickLines = 1000;
  *summary = {};
  THAW_RETURN_IF_ERROR(CheckSchema(schema));
  THAW_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines,
                        LineReader::Open(path, limits.max_line_bytes));
  ExampleParser parser(schema, limits);
  SeenExamples seen(limits.max_tracked_duplicates);
  LabelHistogram labels(limits.max_labels);
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
    if (tick && summary->lines % kTickLines == 0) tick();
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
    if (good && !labels.Add(schema, example)) {
      good = false;
      issues.push_back({line.number, line.byte_offset, Printable(schema.label_column, 64),
                        absl::StrCat("is a new class, but ", limits.max_labels,
                                     " are the most; is this the column of the classes?")});
    }
    summary->unanswered_lines +=
        std::any_of(issues.begin(), issues.end(), [](const auto& i) { return i.lacks_answer; });
    THAW_RETURN_IF_ERROR(report());
    if (!good) {
      ++summary->bad_lines;
      continue;
    }
    CountExample(schema, example, summary);
    if (seen.full()) {
      summary->duplicates_exact = false;
    } else {
      summary->duplicates += seen.Insert(HashTexts(example) ^ HashAnswer(example));
    }
  }
  if (summary->lines == summary->blank_lines) {
    issues.push_back({std::max<int64_t>(summary->lines, 1), 0, "", "the file holds no examples"});
  }
  THAW_RETURN_IF_ERROR(report());
  summary->bytes = lines->bytes_read();
  summary->byte_order_mark = lines->byte_order_mark();
  summary->labels = labels.InClassOrder(summary->label_kind);
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

absl::StatusOr<bool> HoldsConversations(const std::string& path, const DatasetLimits& limits) {
  THAW_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines,
                        LineReader::Open(path, limits.max_line_bytes));
  Line line;
  do {
    THAW_ASSIGN_OR_RETURN(const bool more, lines->Next(&line));
    if (!more) return false;
  } while (!line.too_long && IsBlank(line.text));
  if (line.too_long || line.text.find('\0') != std::string_view::npos) return false;
  std::vector<ColumnValue> columns = {{.name = "messages"}, {.name = "prompt"}};
  std::string listed;
  LineFault fault;
  return ReadColumns(line.text, limits, &columns, &listed, &fault) &&
         columns[0].value.kind != ValueKind::kMissing &&
         columns[1].value.kind == ValueKind::kMissing;
}

}  // namespace thaw
