// New text after prompts and conversations.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/decoder_start.h"
#include "worker/text/special_tokens.h"
#include "worker/training/generation.h"
#include "worker/training/live_text.h"
#include "worker/training/prediction_task.h"

namespace thaw {
namespace {

constexpr int64_t kRowsAtATime = 64;
constexpr int64_t kPromptTokensAtATime = 2048;
constexpr int64_t kCacheBytes = int64_t{2} << 30;
constexpr int64_t kMostNewTokens = 256;

absl::StatusOr<GenerationOptions> OptionsFor(const PredictionTask& task) {
  const v1::Generate& generate = task.prediction().generate();
  GenerationOptions options;
  options.max_new_tokens =
      generate.max_new_tokens() > 0 ? generate.max_new_tokens() : kMostNewTokens;
  options.sampling = {
      .temperature = generate.temperature(),
      .top_k = generate.top_k(),
      .top_p = generate.has_top_p() ? generate.top_p() : 1,
      .min_p = generate.min_p(),
      .repetition_penalty = generate.has_repetition_penalty() ? generate.repetition_penalty() : 1,
      .seed = generate.has_seed() ? generate.seed() : 42};
  options.stop = {generate.stop().begin(), generate.stop().end()};
  options.ignore_end = generate.ignore_end();
  THAW_RETURN_IF_ERROR(task.loaded.special.status());
  options.ends = task.loaded.special->stops;
  THAW_ASSIGN_OR_RETURN(options.decoder_start, task.loaded.decoder_start);
  options.most_rows = task.Halved(kRowsAtATime);
  options.prompt_tokens = task.Halved(kPromptTokensAtATime);
  options.cache_bytes = task.Halved(kCacheBytes);
  return options;
}

}  // namespace

absl::StatusOr<bool> GenerateRows(PredictionTask* task) {
  Model* model = task->loaded.model.get();
  THAW_RETURN_IF_ERROR(CheckWritesText(model->config()));
  THAW_ASSIGN_OR_RETURN(const GenerationOptions options, OptionsFor(*task));
  THAW_ASSIGN_OR_RETURN(const GenerateInputs inputs,
                        ReadGenerateInputs(task->Reading(task->loaded)));
  const auto rows = static_cast<int64_t>(inputs.prompts.size());
  THAW_RETURN_IF_ERROR(task->Begin(rows, inputs.truncated_rows));
  Reporter* const reporter = task->reporter;
  LiveText live([reporter](v1::Event event) { reporter->Emit(std::move(event)); });
  std::vector<GeneratedRow> results(inputs.prompts.size());
  const bool is_live = !task->prediction().has_dataset();
  const double start = reporter->SecondsSinceStart();
  int64_t tokens = 0;
  GenerationListener listener;
  if (is_live) {
    listener.on_text = [&](int64_t row, absl::string_view piece, int64_t row_tokens) {
      live.Add(row, piece, row_tokens);
    };
  }
  listener.on_done = [&](int64_t row, const GeneratedRow& result) {
    tokens += result.tokens;
    if (is_live) live.Done(row, result.finish_reason, result.tokens);
    results[static_cast<size_t>(row)] = result;
  };
  listener.go_on = [&](int64_t rows_done) {
    live.Tick(reporter->SecondsSinceStart());
    return task->GoOnRows(rows_done);
  };
  const absl::Status status =
      Generate(model, *task->loaded.tokenizer, inputs.prompts, options, listener);
  if (absl::IsCancelled(status)) return false;
  THAW_RETURN_IF_ERROR(status);
  live.Finish();
  PredictionLines lines(task->directory);
  for (size_t row = 0; row < results.size(); ++row) {
    lines.Add({{"row", row},
               {"text", results[row].text},
               {"tokens", results[row].tokens},
               {"finish_reason", results[row].finish_reason}});
  }
  THAW_RETURN_IF_ERROR(lines.Close());
  int64_t prompt_tokens = 0;
  for (const auto& prompt : inputs.prompts) prompt_tokens += static_cast<int64_t>(prompt.size());
  task->metrics["prompt_tokens"] = static_cast<double>(prompt_tokens);
  task->metrics["tokens"] = static_cast<double>(tokens);
  task->metrics["tokens_per_second"] =
      static_cast<double>(tokens) / std::max(reporter->SecondsSinceStart() - start, 1e-6);
  return true;
}

}  // namespace thaw
