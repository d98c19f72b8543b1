#include "worker/agent/event_buffer.h"

#include <algorithm>

#include "absl/strings/match.h"

namespace thaw {
namespace {

// Points in one event; from there on they are thinned. 512 points of ten values are about 100 KiB.
constexpr int kMostPointsInEvent = 512;
constexpr int64_t kMostBytesInEvent = 128 << 10;
constexpr size_t kMostEvents = 20'000;
constexpr int64_t kMostBytes = int64_t{64} << 20;

// Sums since the point before: when a point goes, the next one takes them over.
bool IsSum(const v1::MetricValue& value) {
  return value.group().empty() && (value.name() == "loss_sum" || value.name() == "loss_units");
}

bool HasSums(const v1::MetricPoint& point) {
  return std::any_of(point.values().begin(), point.values().end(), IsSum);
}

bool IsEvaluation(const v1::MetricPoint& point) {
  return std::any_of(
      point.values().begin(), point.values().end(),
      [](const v1::MetricValue& value) { return absl::StartsWith(value.name(), "eval_"); });
}

void AddSums(const v1::MetricPoint& from, v1::MetricPoint* to) {
  for (v1::MetricValue& value : *to->mutable_values()) {
    if (!IsSum(value)) continue;
    for (const v1::MetricValue& other : from.values()) {
      if (IsSum(other) && other.name() == value.name())
        value.set_value(value.value() + other.value());
    }
  }
}

// Drops every second point of those that a later one of the same phase can stand for: evaluations
// and the last of a phase stay.
void ThinPoints(v1::MetricPoints* points) {
  google::protobuf::RepeatedPtrField<v1::MetricPoint> kept;  // newest first
  v1::MetricPoint* heir = nullptr;                           // newest kept point with sums
  bool dropped_last = true;
  for (int i = points->points_size() - 1; i >= 0; --i) {
    v1::MetricPoint* point = points->mutable_points(i);
    const bool has_sums = HasSums(*point);
    const bool has_heir = heir != nullptr && heir->phase() == point->phase();
    const bool last_of_phase = kept.empty() || kept.rbegin()->phase() != point->phase();
    const bool may_go = !IsEvaluation(*point) && !last_of_phase && (has_heir || !has_sums);
    if (may_go && !dropped_last) {
      if (has_sums) AddSums(*point, heir);
      dropped_last = true;
      continue;
    }
    dropped_last = false;
    v1::MetricPoint* keep = kept.Add();
    keep->Swap(point);
    if (has_sums) heir = keep;
  }
  std::reverse(kept.pointer_begin(), kept.pointer_end());
  points->mutable_points()->Swap(&kept);
}

bool IsFull(const v1::MetricPoints& points, int64_t bytes) {
  return points.points_size() >= kMostPointsInEvent || bytes >= kMostBytesInEvent;
}

}  // namespace

bool EventBuffer::JoinPoints(const v1::Event& event) {
  if (!event.has_metric_points() || events_.empty()) return false;
  v1::WorkerEvent& last = events_.back();
  if (!last.event().has_metric_points() || last.sequence() <= handed_out_) return false;
  v1::MetricPoints* points = last.mutable_event()->mutable_metric_points();
  if (IsFull(*points, newest_bytes_)) {
    ThinPoints(points);
    bytes_ -= newest_bytes_;
    newest_bytes_ = static_cast<int64_t>(last.ByteSizeLong());
    bytes_ += newest_bytes_;
  }
  // Nothing but evaluations and phase ends: the next event takes what comes.
  if (IsFull(*points, newest_bytes_)) return false;
  points->MergeFrom(event.metric_points());
  *last.mutable_event()->mutable_time() = event.time();
  const auto added = static_cast<int64_t>(event.ByteSizeLong());
  newest_bytes_ += added;
  bytes_ += added;
  return true;
}

bool EventBuffer::Add(const v1::Event& event) {
  if (JoinPoints(event)) return true;
  const auto added = static_cast<int64_t>(event.ByteSizeLong());
  if (events_.size() >= kMostEvents || bytes_ + added > kMostBytes) return false;
  v1::WorkerEvent& newest = events_.emplace_back();
  newest.set_sequence(next_sequence_++);
  *newest.mutable_event() = event;
  newest_bytes_ = added;
  bytes_ += added;
  return true;
}

void EventBuffer::CopyPending(int64_t max_bytes,
                              google::protobuf::RepeatedPtrField<v1::WorkerEvent>* out) {
  int64_t bytes = 0;
  for (const v1::WorkerEvent& event : events_) {
    bytes += static_cast<int64_t>(event.ByteSizeLong());
    if (bytes > max_bytes && !out->empty()) break;
    *out->Add() = event;
    if (event.sequence() > handed_out_) handed_out_ = event.sequence();
  }
}

void EventBuffer::Acknowledge(int64_t sequence) {
  if (sequence > handed_out_) return;
  while (!events_.empty() && events_.front().sequence() <= sequence) {
    bytes_ -= static_cast<int64_t>(events_.front().event().ByteSizeLong());
    events_.pop_front();
  }
  if (events_.empty()) bytes_ = 0;
}

}  // namespace thaw
