// Inside common/spec: collects what is wrong with a spec, so that a user sees all of it at once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/base/status.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// Numbers from `low` to `high`. NaN lies in none.
struct Interval {
  double low = 0;
  double high = 0;
  bool without_low = false;
  bool without_high = false;
};

class SpecProblems {
 public:
  // `description` holds the value and the remedy.
  void Add(absl::string_view field, absl::string_view description);

  void ExpectWithin(absl::string_view field, int64_t value, int64_t low, int64_t high);
  void ExpectWithin(absl::string_view field, double value, const Interval& interval);

  // Text that is shown on screens: UTF-8 characters up to `limit`, none of them a control
  // character.
  void ExpectName(absl::string_view field, absl::string_view value, int limit);

  // A time from 1 s to 30 days.
  void ExpectDuration(absl::string_view field, const google::protobuf::Duration& time);

  // OK, or InvalidFields with all of them.
  absl::Status ToStatus() const;

 private:
  std::vector<FieldViolation> violations_;
};

// An RE2 expression of sensible size.
void ValidatePattern(absl::string_view field, const std::string& pattern, SpecProblems* problems);

// The parts of ValidateSpec. `field` names the message that is checked.
void ValidateTraining(absl::string_view field, const v1::Training& training,
                      SpecProblems* problems);
void ValidateProgram(absl::string_view field, const v1::Training& training, SpecProblems* problems);
// Training.added_part and Training.output; `field` names the training.
void ValidateAddedPart(absl::string_view field, const v1::Training& training,
                       SpecProblems* problems);
// Training.pooled_head; `field` names the training.
void ValidatePooledHead(absl::string_view field, const v1::Training& training,
                        SpecProblems* problems);
// A phase that ends by convergence; `field` names it.
void ValidateConvergence(absl::string_view field, const v1::Training& training,
                         const v1::Phase& phase, SpecProblems* problems);
void ValidateOptimizer(absl::string_view field, const v1::Optimizer& optimizer,
                       SpecProblems* problems);
// Of it, what is made of the rows: splits, long ones, weights of labels.
void ValidateRows(absl::string_view field, const v1::Training& training, SpecProblems* problems);
void ValidateReplay(absl::string_view field, const v1::Training& training, SpecProblems* problems);
void ValidateEvaluation(absl::string_view field, const v1::Training& training,
                        SpecProblems* problems);
// Notes metrics that the task does not have. Columns decide, so it is called again once they are
// resolved.
void CheckMetrics(absl::string_view field, const v1::Training& training, SpecProblems* problems);
void ValidatePrediction(absl::string_view field, const v1::Prediction& prediction,
                        SpecProblems* problems);
void ValidateWholeSpec(const v1::JobSpec& spec, SpecProblems* problems);

// Not given, or one that there is.
void ExpectPrecision(absl::string_view field, v1::Precision precision, SpecProblems* problems);

// Whether a training keeps rows back to evaluate on.
bool Evaluates(const v1::Training& training);

// Not given, or one of the metrics of the training's task.
void ExpectMetric(absl::string_view field, v1::Evaluation::Metric metric,
                  const v1::Training& training, SpecProblems* problems);

// Its own, or the default: "phase 3".
std::string PhaseName(const v1::Phase& phase, int number);

}  // namespace thaw
