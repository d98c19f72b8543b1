// The tasks of a prediction: each answers for every row and leaves its files.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "thaw/internal/trainer.pb.h"
#include "worker/training/prediction_inputs.h"
#include "worker/training/prediction_model.h"
#include "worker/training/reporter.h"
#include "worker/training/training_run.h"

namespace thaw {

struct PredictionTask {
  const internal::Run& run;
  const AttemptContext& context;
  const PredictionModel& loaded;
  Reporter* reporter = nullptr;
  std::string directory = {};  // of the result; exists
  std::map<std::string, double> metrics = {};

  const v1::Prediction& prediction() const { return run.assignment().spec().prediction(); }
  // A bound on memory, halved after each out of memory.
  int64_t Halved(int64_t bound) const;
  ReadingContext Reading(const PredictionModel& model) const;

  // Tells how many rows there are, and warns if any were cut. FAILED_PRECONDITION without rows.
  absl::Status Begin(int64_t rows, int64_t truncated_rows);
  // A boundary between batches with so much done of all (0 to 1): beats, waits out a hold. False
  // once the attempt is to end.
  bool GoOn(double share_done);
  bool GoOnRows(int64_t rows_done);
};

// True when all rows are answered, false when told to end before. An error is the attempt's.
absl::StatusOr<bool> Classify(PredictionTask* task);
absl::StatusOr<bool> Embed(PredictionTask* task);
absl::StatusOr<bool> ScoreRows(PredictionTask* task);
absl::StatusOr<bool> GenerateRows(PredictionTask* task);

// predictions.jsonl of the result.
class PredictionLines {
 public:
  explicit PredictionLines(const std::string& directory);
  void Add(const nlohmann::ordered_json& line) { file_ << line.dump() << '\n'; }
  // RESOURCE_EXHAUSTED if anything could not be written.
  absl::Status Close();

 private:
  const std::string path_;
  std::ofstream file_;
};

// INVALID_ARGUMENT for a model that writes no text.
absl::Status CheckWritesText(const ModelConfig& config);

}  // namespace thaw
