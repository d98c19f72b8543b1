#include "server/artifacts/dataset_check.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/dataset/dataset_columns.h"
#include "common/dataset/dataset_reader.h"
#include "google/protobuf/util/json_util.h"

namespace thaw {
namespace {

// Two bytes of a dataset can earn a hundred of report, which nobody reserved: hence the limit.
class IssueFile {
 public:
  IssueFile(std::string path, std::string dataset_file, int64_t max_bytes)
      : path_(std::move(path)), dataset_file_(std::move(dataset_file)), max_bytes_(max_bytes) {}

  absl::Status Add(const DatasetIssue& issue) {
    if (bytes_ < max_bytes_) return Append(issue);
    ++omitted_;
    last_ = issue;
    return absl::OkStatus();
  }

  // Nothing was added.
  void Clear() {
    out_.close();
    out_.clear();
    bytes_ = omitted_ = 0;
    (void)RemoveTree(path_ + ".part");
  }

  // What was added becomes the report; nothing added: no report.
  absl::Status Publish() {
    if (!out_.is_open()) return RemoveTree(path_);
    if (omitted_ > 0) {
      last_.field.clear();
      last_.reason =
          absl::StrCat("is the last of ", omitted_, " more that this report has no room for");
      last_.remedy = "mend those above, then upload again";
      THAW_RETURN_IF_ERROR(Append(last_));
    }
    out_.close();
    if (out_.fail() || rename((path_ + ".part").c_str(), path_.c_str()) != 0) {
      return absl::ResourceExhaustedError(absl::StrCat("writing ", path_, " failed"));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Append(const DatasetIssue& issue) {
    if (!out_.is_open()) out_.open(path_ + ".part", std::ios::trunc | std::ios::binary);
    v1::DatasetIssue line;
    line.set_path(dataset_file_);
    line.set_line(issue.line);
    line.set_byte_offset(issue.byte_offset);
    line.set_field(issue.field);
    line.set_reason(issue.reason);
    line.set_remedy(issue.remedy);
    std::string json;
    if (!google::protobuf::util::MessageToJsonString(line, &json).ok()) {
      return absl::InternalError("an issue cannot be written as JSON");
    }
    out_ << json << '\n';
    bytes_ += static_cast<int64_t>(json.size()) + 1;
    return out_.good() ? absl::OkStatus()
                       : absl::ResourceExhaustedError(absl::StrCat("writing ", path_, " failed"));
  }

  const std::string path_;
  const std::string dataset_file_;
  const int64_t max_bytes_;
  std::ofstream out_;
  int64_t bytes_ = 0;
  int64_t omitted_ = 0;
  DatasetIssue last_;  // of those omitted
};

void FillSummary(const DatasetSummary& scanned, bool labelled, v1::DatasetSummary* summary) {
  summary->set_rows(scanned.examples);
  summary->set_bad_lines(scanned.bad_lines);
  summary->set_duplicate_rows(scanned.duplicates);
  summary->set_text_bytes(scanned.text_bytes);
  summary->set_unlabelled_rows(labelled ? 0 : scanned.examples);
  summary->set_rows_without_labels(scanned.without_labels);
  summary->set_least_target(scanned.least_number);
  summary->set_greatest_target(scanned.greatest_number);
  v1::Percentiles* characters = summary->mutable_characters();
  characters->set_p50(scanned.characters_p50);
  characters->set_p90(scanned.characters_p90);
  characters->set_p99(scanned.characters_p99);
  characters->set_max(scanned.characters_max);
  summary->clear_labels();
  for (const LabelCount& label : scanned.labels) {
    v1::LabelCount* count = summary->add_labels();
    count->set_label(label.label);
    count->set_rows(label.examples);
  }
}

}  // namespace

absl::Status CheckDataset(const std::string& directory, const std::string& report_path,
                          v1::Artifact* dataset, int64_t max_report_bytes) {
  const std::string& file = dataset->files(0).path();
  const std::string path = absl::StrCat(directory, "/", file);
  THAW_ASSIGN_OR_RETURN(const v1::DatasetColumns columns,
                        ResolveColumns(path, ColumnsIn(dataset->dataset())));
  CopyColumns(columns, dataset->mutable_dataset());
  DatasetSchema schema = SchemaOf(dataset->dataset());
  DatasetSummary scanned;
  bool labelled = true;
  IssueFile issues(report_path, file, max_report_bytes);
  const auto scan = [&] {
    return ScanDataset(
        path, schema, DatasetLimits(), [&](const DatasetIssue& issue) { return issues.Add(issue); },
        &scanned);
  };
  THAW_RETURN_IF_ERROR(scan());
  if (scanned.examples == 0 && scanned.unanswered_lines > 0 &&
      scanned.unanswered_lines == scanned.bad_lines) {
    labelled = false;
    schema.label_column.clear();
    issues.Clear();
    THAW_RETURN_IF_ERROR(scan());
  }
  THAW_RETURN_IF_ERROR(issues.Publish());
  FillSummary(scanned, labelled, dataset->mutable_dataset());
  if (scanned.issues == 0) {
    dataset->set_state(v1::Artifact::READY);
    dataset->clear_state_reason();
    return absl::OkStatus();
  }
  dataset->set_state(v1::Artifact::REJECTED);
  dataset->set_state_reason(absl::StrCat(
      scanned.bad_lines, " of ", scanned.examples + scanned.bad_lines,
      " rows cannot be used: see the dataset's report, mend them and upload it again"));
  return absl::OkStatus();
}

absl::Status ReadDatasetReport(const std::string& report_path,
                               const std::function<bool(const v1::DatasetIssue&)>& each) {
  if (!Exists(report_path)) return absl::OkStatus();
  std::ifstream in(report_path, std::ios::binary);
  std::string line;
  while (std::getline(in, line)) {
    v1::DatasetIssue issue;
    if (!google::protobuf::util::JsonStringToMessage(line, &issue).ok()) {
      return absl::DataLossError(absl::StrCat(report_path, " is damaged"));
    }
    if (!each(issue)) return absl::OkStatus();
  }
  return in.bad() ? absl::UnavailableError(absl::StrCat("reading ", report_path, " failed"))
                  : absl::OkStatus();
}

}  // namespace thaw
