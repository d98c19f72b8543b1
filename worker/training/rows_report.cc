#include "worker/training/rows_report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/dataset/length_histogram.h"

namespace thaw {

std::string DescribeRows(const std::string& what, const TokenizedDataset& rows) {
  LengthHistogram lengths;
  int64_t loss_units = 0;
  for (int64_t row = 0; row < rows.rows(); ++row) {
    lengths.Add(rows.size(row));
    loss_units += rows.loss_units(row);
  }
  std::string line = absl::StrFormat(
      "%s rows: half up to %d tokens, 90 %% up to %d, 99 %% up to %d, the longest %d", what,
      lengths.Percentile(0.5), lengths.Percentile(0.9), lengths.Percentile(0.99),
      lengths.greatest());
  const auto add = [&](int64_t count, const char* did) {
    if (count > 0) absl::StrAppend(&line, "; ", count, " ", did);
  };
  add(rows.truncated_rows, "cut at their ends");
  add(rows.split_texts, "texts split into several");
  add(rows.dropped_rows, "left out as too long");
  add(rows.skipped_rows, "left out without a token to learn from");
  if (!rows.answers.empty() || !rows.targets.empty()) {
    absl::StrAppend(&line, absl::StrFormat("; %d tokens carry loss, %.1f %%", loss_units,
                                           100.0 * static_cast<double>(loss_units) /
                                               static_cast<double>(rows.tokens())));
  }
  return line;
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
