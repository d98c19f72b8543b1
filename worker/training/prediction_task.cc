#include "worker/training/prediction_task.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {

int64_t PredictionTask::Halved(int64_t bound) const {
  return std::max<int64_t>(bound / std::max(run.assignment().micro_step_divisor(), 1), 1);
}

ReadingContext PredictionTask::Reading(const PredictionModel& model) const {
  return {.run = run,
          .loaded = model,
          .threads = at::get_num_threads(),
          .tick = [reporter = reporter] { reporter->Beat(); },
          // Of the job, so that another attempt renders the same.
          .unix_seconds = run.assignment().create_time().seconds()};
}

absl::Status PredictionTask::Begin(int64_t rows, int64_t truncated_rows) {
  if (rows == 0) return absl::FailedPreconditionError("there are no rows to answer for");
  if (truncated_rows > 0) {
    reporter->Warn("ROWS_TRUNCATED", absl::StrCat(truncated_rows, " of ", rows,
                                                  " rows are longer than max_length and were cut"));
  }
  reporter->Log(absl::StrCat("rows read: ", rows));
  reporter->progress().set_rows_total(rows);
  metrics["rows"] = static_cast<double>(rows);
  metrics["truncated_rows"] = static_cast<double>(truncated_rows);
  return absl::OkStatus();
}

bool PredictionTask::GoOn(double share_done) {
  v1::Progress& progress = reporter->progress();
  progress.set_rows_done(
      static_cast<int64_t>(share_done * static_cast<double>(progress.rows_total())));
  if (share_done > 0) {
    progress.set_eta_seconds(reporter->SecondsSinceStart() / share_done * (1 - share_done));
  }
  reporter->Beat();
  context.control->AtBoundary([this] { reporter->Beat(); });
  return !context.control->ShouldEnd();
}

bool PredictionTask::GoOnRows(int64_t rows_done) {
  return GoOn(static_cast<double>(rows_done) /
              static_cast<double>(reporter->progress().rows_total()));
}

PredictionLines::PredictionLines(const std::string& directory)
    : path_(directory + "/predictions.jsonl"), file_(path_, std::ios::binary) {}

absl::Status PredictionLines::Close() {
  file_.close();
  if (!file_) return absl::ResourceExhaustedError(absl::StrCat(path_, " cannot be written"));
  return absl::OkStatus();
}

absl::Status CheckWritesText(const ModelConfig& config) {
  if (config.head == HeadKind::kLanguageModel && (config.causal || config.encoder_decoder) &&
      !config.reads_backward) {
    return absl::OkStatus();
  }
  return InvalidField("prediction.model",
                      "it writes no text: give a language model that reads left to right, or one "
                      "with encoder and decoder");
}

}  // namespace thaw
