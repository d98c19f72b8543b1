// A job's history: events numbered without gaps from 1, and the metric series in them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/jobs/store.h"
#include "thaw/v1/event.pb.h"
#include "thaw/v1/fine_tune_service.pb.h"

namespace thaw {

// Events with a sequence above `after`, in order, at most `limit`. NOT_FOUND for a foreign job.
absl::StatusOr<std::vector<v1::Event>> EventsAfter(Reader& reader, const std::string& owner,
                                                   const std::string& job, int64_t after,
                                                   int limit);

// The series of the surviving line of attempts: points that a later attempt rolled back are left
// out. `request.max_points` 0 means 1,000; longer series are thinned to means of equally many
// points, and further if there are so many that they would not fit into one message.
absl::StatusOr<v1::QueryMetricsResponse> QueryMetrics(Reader& reader, const std::string& owner,
                                                      const v1::QueryMetricsRequest& request);

// Thins up to `limit` blobs of metric points that are due (see StoreOptions) to every tenth point
// and the last. Returns how many; call again until 0.
absl::StatusOr<int> ThinMetrics(Transaction& transaction, int limit);

}  // namespace thaw
