#include "worker/tuning/metric.h"

#include <algorithm>

#include "common/spec/model_abilities.h"

namespace thaw {

v1::Evaluation::Metric DecidingMetric(const v1::Training& training) {
  if (training.evaluation().metric() != v1::Evaluation::METRIC_UNSPECIFIED) {
    return training.evaluation().metric();
  }
  const auto known = MetricsOf(training);
  return known.empty() ? v1::Evaluation::ACCURACY : known.front();
}

v1::Evaluation::Metric PlateauMetric(const v1::Training& training, const v1::Phase& phase) {
  const v1::Evaluation::Metric own = phase.plateau().metric();
  return own == v1::Evaluation::METRIC_UNSPECIFIED ? DecidingMetric(training) : own;
}

const char* MetricName(v1::Evaluation::Metric metric) {
  switch (metric) {
    case v1::Evaluation::ACCURACY:
      return "accuracy";
    case v1::Evaluation::MACRO_F1:
      return "macro_f1";
    case v1::Evaluation::MICRO_F1:
      return "micro_f1";
    case v1::Evaluation::MEAN_SQUARED_ERROR:
      return "mean_squared_error";
    case v1::Evaluation::PERPLEXITY:
      return "perplexity";
    case v1::Evaluation::MATTHEWS_CORRELATION:
      return "matthews_correlation";
    case v1::Evaluation::PEARSON:
      return "pearson";
    case v1::Evaluation::SPEARMAN:
      return "spearman";
    case v1::Evaluation::EXACT_MATCH:
      return "exact_match";
    case v1::Evaluation::DIGIT_MATCH:
      return "digit_match";
    default:
      return "loss";
  }
}

bool LessIsBetter(v1::Evaluation::Metric metric) {
  switch (metric) {
    case v1::Evaluation::LOSS:
    case v1::Evaluation::MEAN_SQUARED_ERROR:
    case v1::Evaluation::PERPLEXITY:
      return true;
    default:
      return false;
  }
}

bool Reports(const v1::Evaluation& evaluation, v1::Evaluation::Metric metric) {
  return evaluation.metric() == metric ||
         std::find(evaluation.also().begin(), evaluation.also().end(), metric) !=
             evaluation.also().end();
}

}  // namespace thaw
