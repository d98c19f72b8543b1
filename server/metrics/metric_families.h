// Building what a Collectable gives back.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "prometheus/metric_family.h"

namespace thaw {

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

inline prometheus::MetricFamily NewGauge(std::string name, std::string help) {
  return {std::move(name), std::move(help), prometheus::MetricType::Gauge, {}};
}

inline prometheus::MetricFamily NewCounter(std::string name, std::string help) {
  return {std::move(name), std::move(help), prometheus::MetricType::Counter, {}};
}

// Adds one series to a gauge or counter.
inline void AddSeries(prometheus::MetricFamily* family, const MetricLabels& labels, double value) {
  prometheus::ClientMetric metric;
  for (const auto& [name, text] : labels) metric.label.push_back({name, text});
  metric.gauge.value = value;
  metric.counter.value = value;
  family->metric.push_back(std::move(metric));
}

}  // namespace thaw
