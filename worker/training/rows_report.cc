#include "worker/training/rows_report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/dataset/length_histogram.h"

namespace thaw {

std::string DescribeRows(const std::string& what, const TokenizedDataset& rows) {
  const v1::PlannedRows counted = CountRows(rows);
  const v1::Percentiles& length = counted.length();
  std::string line = absl::StrFormat(
      "%s rows: half up to %d tokens, 90 %% up to %d, 99 %% up to %d, the longest %d", what,
      length.p50(), length.p90(), length.p99(), length.max());
  const auto add = [&](int64_t count, const char* did) {
    if (count > 0) absl::StrAppend(&line, "; ", count, " ", did);
  };
  add(rows.truncated_rows, "cut at their ends");
  add(rows.split_texts, "texts split into several");
  add(rows.dropped_rows, "left out as too long");
  add(rows.skipped_rows, "left out without a token to learn from");
  if (!rows.answers.empty() || !rows.targets.empty()) {
    absl::StrAppend(&line, absl::StrFormat("; %d tokens carry loss, %.1f %%", counted.loss_units(),
                                           100.0 * static_cast<double>(counted.loss_units()) /
                                               static_cast<double>(rows.tokens())));
  }
  return line;
}

v1::PlannedRows CountRows(const TokenizedDataset& rows) {
  LengthHistogram lengths;
  v1::PlannedRows counted;
  int64_t loss_units = 0, pieces = 0;
  for (int64_t row = 0; row < rows.rows(); ++row) {
    lengths.Add(rows.size(row));
    loss_units += rows.loss_units(row);
    // The pieces of a text lie side by side and have its line.
    const bool after = row > 0 && rows.lines[row - 1] == rows.lines[row];
    const bool before = row + 1 < rows.rows() && rows.lines[row + 1] == rows.lines[row];
    if (after || before) ++pieces;
  }
  counted.set_rows(rows.rows());
  counted.set_tokens(rows.tokens());
  counted.set_loss_units(loss_units);
  counted.set_truncated_rows(rows.truncated_rows);
  if (rows.split_texts > 0) counted.set_split_rows(pieces);
  counted.set_dropped_rows(rows.dropped_rows);
  counted.set_skipped_rows(rows.skipped_rows);
  v1::Percentiles* length = counted.mutable_length();
  length->set_p50(lengths.Percentile(0.5));
  length->set_p90(lengths.Percentile(0.9));
  length->set_p99(lengths.Percentile(0.99));
  length->set_max(lengths.greatest());
  return counted;
}

void WarnOfRows(const TrainingInputs& inputs, Reporter* reporter) {
  const TokenizedDataset &training = inputs.training, &validation = inputs.validation;
  const int64_t truncated = training.truncated_rows + validation.truncated_rows;
  if (truncated > 0) {
    reporter->Warn("ROWS_TRUNCATED",
                   absl::StrCat(truncated, " of ", training.rows() + validation.rows(),
                                " rows are longer than max_length and were cut"));
  }
  if (training.split_texts > 0) {
    reporter->Warn("ROWS_SPLIT", absl::StrCat(training.split_texts,
                                              " training texts are longer than max_length and go "
                                              "on in rows of their own"));
  }
  if (training.dropped_rows > 0) {
    reporter->Warn("ROWS_DROPPED",
                   absl::StrCat(training.dropped_rows,
                                " training examples are longer than max_length and were left out, "
                                "the first in line ",
                                training.first_dropped_line));
  }
  const int64_t skipped = training.skipped_rows + validation.skipped_rows;
  if (skipped > 0) {
    const int64_t line =
        training.skipped_rows > 0 ? training.first_skipped_line : validation.first_skipped_line;
    reporter->Warn("ROWS_SKIPPED",
                   absl::StrCat(skipped,
                                " examples have no token to learn from within max_length and were "
                                "left out, the first in line ",
                                line));
  }
  if (inputs.shared_examples > 0) {
    const auto named = static_cast<int64_t>(inputs.shared_lines.size());
    reporter->Warn(
        "ROWS_SHARED",
        absl::StrCat(inputs.shared_examples,
                     " training examples have the text of a validation example, so evaluations "
                     "flatter; leave them out of one side: line",
                     named > 1 ? "s " : " ", absl::StrJoin(inputs.shared_lines, ", "),
                     inputs.shared_examples > named
                         ? absl::StrCat(" and ", inputs.shared_examples - named, " more")
                         : ""));
  }
}

}  // namespace thaw
