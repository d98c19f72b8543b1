#include "worker/training/prediction_inputs.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "worker/training/inputs.h"

namespace thaw {

absl::StatusOr<PredictionInputs> ReadPredictionInputs(const internal::Run& run,
                                                      const ModelConfig& config, int threads,
                                                      const Tick& tick) {
  const v1::Prediction& prediction = run.assignment().spec().prediction();
  THAW_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(run.model_dir(), config));
  const std::vector<std::string>& labels = config.labels;
  const TokenizeOptions options{
      .max_length = MaxLength(prediction.max_length(), config), .threads = threads, .keep = {}};
  PredictionInputs inputs;
  if (prediction.has_texts()) {
    std::vector<TextInput> texts;
    for (const std::string& text : prediction.texts().values()) texts.push_back({.text = text});
    THAW_ASSIGN_OR_RETURN(inputs.rows, TokenizeTexts(texts, *tokenizer, options));
    return inputs;
  }
  DatasetSchema schema{.text_column = OrDefault(prediction.classify().text_column(), "text"),
                       .text_pair_column = "",
                       .label_column = OrDefault(prediction.classify().label_column(), "label")};
  THAW_ASSIGN_OR_RETURN(const std::string path, DatasetFile(run.dataset_dir()));
  const auto summary = ScanAll(path, schema);
  tick();
  if (summary.ok() && summary->examples > 0) {
    const std::vector<std::string> found = LabelNames(*summary);
    inputs.labelled = std::all_of(found.begin(), found.end(), [&](const std::string& label) {
      return std::find(labels.begin(), labels.end(), label) != labels.end();
    });
  }
  if (!inputs.labelled) schema.label_column.clear();
  THAW_ASSIGN_OR_RETURN(
      inputs.rows, ReadRows(path, schema, *tokenizer,
                            inputs.labelled ? labels : std::vector<std::string>(), options, tick));
  return inputs;
}

}  // namespace thaw
