// The metric that decides what is best.
#pragma once

#include "thaw/v1/job_spec.pb.h"

namespace thaw {

// That of the spec, or the task's default.
v1::Evaluation::Metric DecidingMetric(const v1::Training& training);

// That of a phase's plateau, or the deciding one.
v1::Evaluation::Metric PlateauMetric(const v1::Training& training, const v1::Phase& phase);

// Its name among the values of an evaluation: "macro_f1".
const char* MetricName(v1::Evaluation::Metric metric);

// Whether smaller values are better.
bool LessIsBetter(v1::Evaluation::Metric metric);

// Whether an evaluation is to tell a metric that is left out unless it is asked for.
bool Reports(const v1::Evaluation& evaluation, v1::Evaluation::Metric metric);

}  // namespace thaw
