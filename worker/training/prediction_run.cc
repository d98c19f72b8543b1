#include "worker/training/prediction_run.h"

#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "worker/training/failure.h"
#include "worker/training/prediction_task.h"
#include "worker/training/reporter.h"

namespace thaw {
namespace {

internal::Ended EndedAs(v1::AttemptEnd::Outcome outcome) {
  internal::Ended ended;
  ended.mutable_end()->set_outcome(outcome);
  return ended;
}

absl::StatusOr<bool> RunTask(PredictionTask* task) {
  switch (task->prediction().task_case()) {
    case v1::Prediction::kClassify:
      return Classify(task);
    case v1::Prediction::kEmbed:
      return Embed(task);
    case v1::Prediction::kScore:
      return ScoreRows(task);
    case v1::Prediction::kGenerate:
      return GenerateRows(task);
    case v1::Prediction::TASK_NOT_SET:
      break;
  }
  return InvalidField("prediction.task", "is not set; give classify, embed, score or generate");
}

// Leaves the wanted model in `warm`.
absl::Status BringModel(const internal::Run& run, Reporter* reporter, WarmModel* warm) {
  if (!run.warm_key().empty() && run.warm_key() == warm->key) {
    reporter->Log("warm model of the prediction before");
    return absl::OkStatus();
  }
  // Before the new one is loaded: there may be no room for both.
  *warm = {};
  THAW_ASSIGN_OR_RETURN(warm->loaded, LoadPredictionModel(run));
  warm->key = run.warm_key();
  reporter->Log(absl::StrFormat("model loaded in %.1f s", reporter->SecondsSinceStart()));
  return absl::OkStatus();
}

absl::StatusOr<internal::Ended> Predict(const internal::Run& run, const AttemptContext& context,
                                        WarmModel* warm) {
  Reporter reporter(context.sink, context.clock, context.point_interval_seconds);
  reporter.Beat();
  THAW_RETURN_IF_ERROR(BringModel(run, &reporter, warm));
  internal::Ended ended = EndedAs(v1::AttemptEnd::SUCCEEDED);
  ended.set_result_dir("result");
  PredictionTask task{.run = run,
                      .context = context,
                      .loaded = warm->loaded,
                      .reporter = &reporter,
                      .directory = run.work_dir() + "/" + ended.result_dir()};
  THAW_RETURN_IF_ERROR(MakeDirectories(task.directory));
  THAW_ASSIGN_OR_RETURN(const bool all, RunTask(&task));
  if (!all) {
    const bool stop = context.control->AtBoundary([] {}).stop;
    return EndedAs(stop ? v1::AttemptEnd::STOPPED : v1::AttemptEnd::PAUSED);
  }
  reporter.progress().set_rows_done(reporter.progress().rows_total());
  reporter.progress().set_eta_seconds(0);
  reporter.BeatNow();
  reporter.Log(absl::StrFormat("result written: %d answers", reporter.progress().rows_total()));
  task.metrics["seconds"] = reporter.SecondsSinceStart();
  ended.mutable_metrics()->insert(task.metrics.begin(), task.metrics.end());
  return ended;
}

}  // namespace

internal::Ended RunPrediction(const internal::Run& run, const AttemptContext& context,
                              WarmModel* warm) {
  WarmModel own;
  absl::StatusOr<internal::Ended> ended = Predict(run, context, warm == nullptr ? &own : warm);
  return ended.ok() ? *std::move(ended) : FailedEnd(ended.status(), 0);
}

}  // namespace thaw
