#include "common/dataset/dataset_reader.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/dataset/dataset_split.h"
#include "common/dataset/example_parser.h"
#include "common/dataset/length_histogram.h"
#include "common/dataset/line_columns.h"
#include "common/dataset/row_source.h"

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

// Of UTF-8.
int64_t Characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

int64_t CharactersOf(const Example& example) {
  int64_t characters =
      Characters(example.text) + Characters(example.text_pair) + Characters(example.answer);
  for (const Turn& turn : example.turns) characters += Characters(turn.content);
  return characters;
}

}  // namespace

absl::Status ScanDataset(const std::string& path, const DatasetSchema& schema,
                         const DatasetLimits& limits,
                         const std::function<absl::Status(const DatasetIssue&)>& on_issue,
                         DatasetSummary* summary, const std::function<void()>& tick) {
  constexpr int64_t kTickRows = 1000;
  *summary = {};
  THAW_RETURN_IF_ERROR(CheckSchema(schema));
  THAW_ASSIGN_OR_RETURN(const std::unique_ptr<RowSource> rows,
                        RowSource::Open(path, schema, limits));
  ExampleParser parser(schema, limits);
  SeenExamples seen(limits.max_tracked_duplicates);
  LabelHistogram labels(limits.max_labels);
  LengthHistogram lengths;
  std::vector<DatasetIssue> issues;
  const auto report = [&] {
    for (const DatasetIssue& issue : issues) {
      ++summary->issues;
      if (on_issue) THAW_RETURN_IF_ERROR(on_issue(issue));
    }
    issues.clear();
    return absl::OkStatus();
  };

  SourceRow row;
  Example example;
  while (true) {
    THAW_ASSIGN_OR_RETURN(const bool more, rows->Next(&row));
    if (!more) break;
    if (tick && (summary->examples + summary->bad_lines) % kTickRows == 0) tick();
    bool good = parser.Parse(&row, &example, &issues);
    if (good && !labels.Add(schema, example)) {
      good = false;
      issues.push_back({row.line, row.byte_offset, Printable(schema.label_column, 64),
                        absl::StrCat("is a new class, but ", limits.max_labels, " are the most"),
                        "name the column of the classes, or join some of them"});
    }
    summary->unanswered_lines +=
        std::any_of(issues.begin(), issues.end(), [](const auto& i) { return i.lacks_answer; });
    THAW_RETURN_IF_ERROR(report());
    if (!good) {
      ++summary->bad_lines;
      continue;
    }
    CountExample(schema, example, summary);
    lengths.Add(CharactersOf(example));
    if (seen.full()) {
      summary->duplicates_exact = false;
    } else {
      summary->duplicates += seen.Insert(HashTexts(example) ^ HashAnswer(example));
    }
  }
  summary->lines = rows->lines();
  summary->blank_lines = rows->blank_lines();
  summary->bytes = rows->bytes_read();
  summary->byte_order_mark = rows->byte_order_mark();
  if (summary->examples + summary->bad_lines == 0) {
    issues.push_back({std::max<int64_t>(summary->lines, 1), 0, "", "the file holds no examples",
                      "give at least one"});
  }
  THAW_RETURN_IF_ERROR(report());
  summary->characters_p50 = lengths.Percentile(0.5);
  summary->characters_p90 = lengths.Percentile(0.9);
  summary->characters_p99 = lengths.Percentile(0.99);
  summary->characters_max = lengths.greatest();
  summary->labels = labels.InClassOrder(summary->label_kind);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DatasetReader>> DatasetReader::Open(const std::string& path,
                                                                   const DatasetSchema& schema,
                                                                   const DatasetLimits& limits) {
  THAW_RETURN_IF_ERROR(CheckSchema(schema));
  THAW_ASSIGN_OR_RETURN(std::unique_ptr<RowSource> rows, RowSource::Open(path, schema, limits));
  return std::unique_ptr<DatasetReader>(
      new DatasetReader(std::move(rows), std::make_unique<ExampleParser>(schema, limits)));
}

DatasetReader::DatasetReader(std::unique_ptr<RowSource> rows, std::unique_ptr<ExampleParser> parser)
    : rows_(std::move(rows)), parser_(std::move(parser)) {}
DatasetReader::~DatasetReader() = default;

absl::StatusOr<bool> DatasetReader::Next(Example* example) {
  SourceRow row;
  THAW_ASSIGN_OR_RETURN(const bool more, rows_->Next(&row));
  if (!more) return false;
  std::vector<DatasetIssue> issues;
  if (parser_->Parse(&row, example, &issues)) return true;
  const DatasetIssue& issue = issues.front();
  return absl::FailedPreconditionError(
      absl::StrCat("line ", issue.line, ", byte ", issue.byte_offset, ": ",
                   issue.field.empty() ? "the row" : absl::StrCat("\"", issue.field, "\""), " ",
                   issue.reason, issue.remedy.empty() ? "" : ": ", issue.remedy));
}

absl::StatusOr<std::vector<std::string>> FirstRowFields(const std::string& path, FileFormat format,
                                                        const DatasetLimits& limits) {
  const DatasetSchema schema = {.label_column = "", .form = ExampleForm::kText, .format = format};
  THAW_ASSIGN_OR_RETURN(const std::unique_ptr<RowSource> rows,
                        RowSource::Open(path, schema, limits));
  SourceRow row;
  THAW_ASSIGN_OR_RETURN(const bool more, rows->Next(&row));
  if (!more) return std::vector<std::string>();
  return std::vector<std::string>(row.names.begin(), row.names.end());
}

}  // namespace thaw
