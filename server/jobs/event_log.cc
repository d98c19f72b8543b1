#include "server/jobs/event_log.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "common/base/status.h"
#include "server/jobs/job_row.h"

namespace thaw {
namespace {

constexpr int64_t kMaxEventBytes = 1 << 20;  // of one answer, so that it fits a message
constexpr int kDefaultPoints = 1'000;
constexpr int kThinnedStride = 10;
// Of all series of an answer; with at most 14 bytes each they are 3 MiB.
constexpr size_t kMaxAnswerPoints = (3 << 20) / 14;

bool ParseEvent(absl::string_view body, v1::Event* event) {
  return event->ParseFromArray(body.data(), static_cast<int>(body.size()));
}

// A series of any length in at most `max_points` means. Holds that many, however many are added:
// when full, neighbours are merged and from then on twice as many points make one.
class ThinSeries {
 public:
  explicit ThinSeries(int max_points) : max_points_(max_points) {}

  void Add(int64_t step, double value) {
    if (buckets_.empty() || buckets_.back().count == stride_) {
      if (static_cast<int>(buckets_.size()) == max_points_) Halve();
      if (buckets_.empty() || buckets_.back().count == stride_) buckets_.push_back({});
    }
    Bucket& bucket = buckets_.back();
    bucket.step = step;
    bucket.sum += value;
    ++bucket.count;
  }

  void ShrinkTo(size_t points) {
    while (buckets_.size() > std::max<size_t>(points, 1)) Halve();
  }
  void CopyTo(v1::MetricSeries* series) const {
    for (const Bucket& bucket : buckets_) {
      series->add_steps(bucket.step);
      series->add_values(bucket.sum / static_cast<double>(bucket.count));
    }
  }

 private:
  struct Bucket {
    int64_t step = 0;  // of its last point
    double sum = 0;
    int64_t count = 0;
  };
  void Halve() {
    std::vector<Bucket> merged;
    for (size_t i = 0; i < buckets_.size(); i += 2) {
      Bucket bucket = buckets_[i];
      if (i + 1 < buckets_.size()) {
        bucket.step = buckets_[i + 1].step;
        bucket.sum += buckets_[i + 1].sum;
        bucket.count += buckets_[i + 1].count;
      }
      merged.push_back(bucket);
    }
    buckets_ = std::move(merged);
    stride_ *= 2;
  }

  const int max_points_;
  int64_t stride_ = 1;
  std::vector<Bucket> buckets_;
};

// From which sequence on points up to which step count: the start of every later attempt cuts off
// what lies beyond it.
class SurvivingLine {
 public:
  absl::Status Load(Reader& reader, int64_t job) {
    Statement rows = reader.connection().Prepare(
        "SELECT begin_sequence, start_step FROM attempts WHERE job = ? AND number > 1");
    rows.Int(job);
    while (rows.Step()) cuts_[rows.GetInt(0)] = rows.GetInt(1);
    int64_t least = std::numeric_limits<int64_t>::max();
    for (auto cut = cuts_.rbegin(); cut != cuts_.rend(); ++cut) {
      least = std::min(least, cut->second);
      cut->second = least;
    }
    return rows.status();
  }
  // The last step of an event with this sequence that still counts.
  int64_t LastStep(int64_t sequence) const {
    const auto later = cuts_.upper_bound(sequence);
    return later == cuts_.end() ? std::numeric_limits<int64_t>::max() : later->second;
  }

 private:
  std::map<int64_t, int64_t> cuts_;
};

bool HasGroups(const v1::MetricPoint& point) {
  return std::any_of(point.values().begin(), point.values().end(),
                     [](const v1::MetricValue& value) { return !value.group().empty(); });
}

// Every tenth point and the last, or rather, where there are values of groups, the next one that
// has some, for few do; sums since the point before take over those of the dropped points.
v1::MetricPoints Thin(const v1::MetricPoints& points) {
  v1::MetricPoints thinned;
  std::map<std::pair<std::string, std::string>, double> carried;
  const bool groups = std::any_of(points.points().begin(), points.points().end(), HasGroups);
  int passed = 0;  // since the last one that was kept
  for (int i = 0; i < points.points_size(); ++i) {
    v1::MetricPoint point = points.points(i);
    ++passed;
    const bool wanted = !groups || HasGroups(point) || passed >= 2 * kThinnedStride;
    const bool keep = (passed >= kThinnedStride && wanted) || i + 1 == points.points_size();
    if (keep) passed = 0;
    for (v1::MetricValue& value : *point.mutable_values()) {
      if (value.name() != "loss_sum" && value.name() != "loss_units") continue;
      double& sum = carried[{value.name(), value.group()}];
      sum += value.value();
      value.set_value(sum);
      if (keep) sum = 0;
    }
    if (keep) *thinned.add_points() = std::move(point);
  }
  return thinned;
}

struct DueBlob {
  int64_t job;
  int64_t sequence;
  v1::Event event;
};

absl::StatusOr<std::vector<DueBlob>> DueBlobs(Transaction& transaction, int64_t created_before,
                                              int limit) {
  std::vector<DueBlob> due;
  Statement rows = transaction.connection().Prepare(
      "SELECT job, sequence, body FROM metric_blobs WHERE thinned = 0 AND created < ? "
      "ORDER BY created LIMIT ?");
  rows.Int(created_before).Int(limit);
  while (rows.Step()) {
    due.push_back({rows.GetInt(0), rows.GetInt(1), {}});
    ParseEvent(rows.GetBlob(2), &due.back().event);
  }
  THAW_RETURN_IF_ERROR(rows.status());
  return due;
}

absl::StatusOr<int64_t> MetricBytes(Reader& reader) {
  Statement row = reader.connection().Prepare("SELECT total(size) FROM metric_blobs");
  const int64_t bytes = row.Step() ? row.GetInt(0) : 0;
  THAW_RETURN_IF_ERROR(row.status());
  return bytes;
}

}  // namespace

absl::StatusOr<std::vector<v1::Event>> EventsAfter(Reader& reader, const std::string& owner,
                                                   const std::string& job, int64_t after,
                                                   int limit) {
  THAW_ASSIGN_OR_RETURN(const JobRow row, LoadJob(reader, owner, job));
  std::vector<v1::Event> events;
  int64_t bytes = 0;
  Statement rows = reader.connection().Prepare(
      "SELECT sequence, body FROM events WHERE job = ?1 AND sequence > ?2 UNION ALL "
      "SELECT sequence, body FROM metric_blobs WHERE job = ?1 AND sequence > ?2 "
      "ORDER BY sequence LIMIT ?3");
  rows.Int(row.number).Int(after).Int(limit);
  while (rows.Step()) {
    const absl::string_view body = rows.GetBlob(1);
    bytes += static_cast<int64_t>(body.size());
    if (bytes > kMaxEventBytes && !events.empty()) break;
    v1::Event event;
    if (!ParseEvent(body, &event)) {
      return absl::InternalError(
          absl::StrCat("event ", rows.GetInt(0), " of ", job, " is unreadable"));
    }
    events.push_back(std::move(event));
  }
  THAW_RETURN_IF_ERROR(rows.status());
  return events;
}

absl::StatusOr<v1::QueryMetricsResponse> QueryMetrics(Reader& reader, const std::string& owner,
                                                      const v1::QueryMetricsRequest& request) {
  THAW_ASSIGN_OR_RETURN(const JobRow row, LoadJob(reader, owner, request.id()));
  const int max_points = request.max_points() == 0 ? kDefaultPoints : request.max_points();
  const std::set<std::string> names(request.names().begin(), request.names().end());
  SurvivingLine line;
  THAW_RETURN_IF_ERROR(line.Load(reader, row.number));
  std::map<std::pair<std::string, std::string>, ThinSeries> series;
  Statement rows = reader.connection().Prepare(
      "SELECT sequence, body FROM metric_blobs WHERE job = ? ORDER BY sequence");
  rows.Int(row.number);
  while (rows.Step()) {
    v1::Event event;
    ParseEvent(rows.GetBlob(1), &event);
    const int64_t last_step = line.LastStep(rows.GetInt(0));
    for (const v1::MetricPoint& point : event.metric_points().points()) {
      if (point.step() > last_step || point.step() < request.from_step()) continue;
      for (const v1::MetricValue& value : point.values()) {
        if (!names.empty() && names.count(value.name()) == 0) continue;
        series.try_emplace({value.name(), value.group()}, max_points)
            .first->second.Add(point.step(), value.value());
      }
    }
  }
  THAW_RETURN_IF_ERROR(rows.status());
  v1::QueryMetricsResponse response;
  for (auto& [key, thin] : series) {
    // Groups of a deep model make many series, and the answer must fit into one message.
    thin.ShrinkTo(kMaxAnswerPoints / series.size());
    v1::MetricSeries& out = *response.add_series();
    out.set_name(key.first);
    out.set_group(key.second);
    thin.CopyTo(&out);
  }
  return response;
}

absl::StatusOr<int> ThinMetrics(Transaction& transaction, int limit) {
  const StoreOptions& options = transaction.options();
  const int64_t now = transaction.WallMicros();
  THAW_ASSIGN_OR_RETURN(const int64_t bytes, MetricBytes(transaction));
  const int64_t oldest = bytes > options.metrics_full_bytes
                             ? now
                             : now - static_cast<int64_t>(options.metrics_full_seconds * 1e6);
  THAW_ASSIGN_OR_RETURN(std::vector<DueBlob> due, DueBlobs(transaction, oldest, limit));
  for (DueBlob& blob : due) {
    *blob.event.mutable_metric_points() = Thin(blob.event.metric_points());
    const std::string body = blob.event.SerializeAsString();
    THAW_RETURN_IF_ERROR(transaction.connection()
                             .Prepare("UPDATE metric_blobs SET thinned = 1, size = ?, body = ? "
                                      "WHERE job = ? AND sequence = ?")
                             .Int(static_cast<int64_t>(body.size()))
                             .Blob(body)
                             .Int(blob.job)
                             .Int(blob.sequence)
                             .Run());
  }
  return static_cast<int>(due.size());
}

}  // namespace thaw
