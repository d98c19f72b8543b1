#include "worker/agent/sync_state.h"

#include <utility>

namespace thaw {
namespace {

constexpr int64_t kEventBytesPerSync = 512 << 10;
constexpr int64_t kLogBytesPerSync = 64 << 10;

// What people wait for goes out at once; a stream of points waits for the interval.
bool IsUrgent(const v1::Event& event) {
  return !event.has_metric_points() && !event.has_log_line() && !event.has_generated_text();
}

// Of the interval: text that people read as it comes. The interval grows with the server's load,
// and so does this.
constexpr double kFlowShare = 0.1;

}  // namespace

SyncState::SyncState(std::string worker, std::string incarnation, const Clock& clock)
    : worker_(std::move(worker)), incarnation_(std::move(incarnation)), clock_(clock) {}

void SyncState::HurryLocked() {
  urgent_ = true;
  changed_.SignalAll();
}

void SyncState::Add(const v1::Assignment& assignment) {
  MutexLock lock(mutex_);
  Attempt& attempt = attempts_[assignment.attempt_id()];
  attempt.report.set_job(assignment.job());
  attempt.report.set_attempt_id(assignment.attempt_id());
  attempt.report.set_state(v1::AttemptReport::PREPARING);
  HurryLocked();
}

void SyncState::SetRunning(const std::string& attempt_id) {
  MutexLock lock(mutex_);
  const auto found = attempts_.find(attempt_id);
  if (found == attempts_.end()) return;
  found->second.report.set_state(v1::AttemptReport::RUNNING);
  HurryLocked();
}

void SyncState::SetProgress(const std::string& attempt_id, const v1::Progress& progress) {
  MutexLock lock(mutex_);
  const auto found = attempts_.find(attempt_id);
  if (found != attempts_.end()) *found->second.report.mutable_progress() = progress;
}

bool SyncState::AddEvent(const std::string& attempt_id, const v1::Event& event) {
  MutexLock lock(mutex_);
  const auto found = attempts_.find(attempt_id);
  if (found == attempts_.end()) return true;
  Attempt& attempt = found->second;
  if (!attempt.events.Add(event)) return false;
  const bool first_loss = event.has_metric_points() && !attempt.spoke;
  attempt.spoke = attempt.spoke || event.has_metric_points();
  if (first_loss || IsUrgent(event)) HurryLocked();
  if (event.has_generated_text()) {
    flows_ = true;
    changed_.SignalAll();
  }
  return true;
}

void SyncState::End(const std::string& attempt_id, const v1::AttemptEnd& end) {
  MutexLock lock(mutex_);
  const auto found = attempts_.find(attempt_id);
  if (found == attempts_.end()) return;
  found->second.ended = true;
  found->second.end = end;
  HurryLocked();
}

void SyncState::Remove(const std::string& attempt_id) {
  MutexLock lock(mutex_);
  attempts_.erase(attempt_id);
  changed_.SignalAll();
}

int64_t SyncState::LastSequence(const std::string& attempt_id) const {
  MutexLock lock(mutex_);
  const auto found = attempts_.find(attempt_id);
  return found == attempts_.end() ? 0 : found->second.events.last_sequence();
}

bool SyncState::WaitAcknowledged(const std::string& attempt_id, int64_t sequence, double seconds) {
  MutexLock lock(mutex_);
  const auto done = [&]() {
    const auto found = attempts_.find(attempt_id);
    return found == attempts_.end() || found->second.events.acknowledged() >= sequence;
  };
  if (done()) return true;
  HurryLocked();
  changed_.WaitFor(mutex_, seconds);
  return done();
}

v1::SyncRequest SyncState::BuildRequest(const v1::WorkerOffer& offer, bool draining) {
  MutexLock lock(mutex_);
  v1::SyncRequest request;
  request.set_worker(worker_);
  request.set_incarnation(incarnation_);
  request.set_number(++number_);
  *request.mutable_offer() = offer;
  request.set_draining(draining);
  int64_t event_bytes = kEventBytesPerSync;
  for (auto& [id, attempt] : attempts_) {
    v1::AttemptReport& report = *request.add_attempts();
    report = attempt.report;
    if (event_bytes > 0) attempt.events.CopyPending(event_bytes, report.mutable_events());
    for (const v1::WorkerEvent& event : report.events())
      event_bytes -= static_cast<int64_t>(event.ByteSizeLong());
    const bool all_events = attempt.events.empty() ||
                            (!report.events().empty() && report.events().rbegin()->sequence() ==
                                                             attempt.events.last_sequence());
    if (attempt.ended && all_events && attempt.log_pending <= kLogBytesPerSync) {
      report.set_state(v1::AttemptReport::ENDED);
      *report.mutable_end() = attempt.end;
    }
  }
  urgent_ = false;
  flows_ = false;
  sent_at_ = clock_.BootMicros();
  return request;
}

std::vector<v1::DesiredAttempt> SyncState::Apply(const v1::SyncResponse& response) {
  MutexLock lock(mutex_);
  std::vector<v1::DesiredAttempt> orders;
  if (response.incarnation() != incarnation_ || response.number() != number_) return orders;
  answered_at_ = sent_at_;
  lease_seconds_ =
      static_cast<double>(response.lease().seconds()) + response.lease().nanos() * 1e-9;
  for (const v1::DesiredAttempt& desired : response.attempts()) {
    const auto found = attempts_.find(desired.attempt_id());
    if (found == attempts_.end()) {
      if (desired.verdict() == v1::DesiredAttempt::RUN && desired.has_assignment())
        orders.push_back(desired);
      continue;
    }
    Attempt& attempt = found->second;
    attempt.events.Acknowledge(desired.acknowledged_sequence());
    if (desired.log_committed() > attempt.log_committed)
      attempt.log_committed = desired.log_committed();
    // What is left of the events or the output follows at once, so that an end is not held back by
    // an interval.
    if (attempt.ended && (!attempt.events.empty() || attempt.log_pending > kLogBytesPerSync))
      urgent_ = true;
    if (desired.verdict() != attempt.ordered || !desired.steerings().empty()) {
      attempt.ordered = desired.verdict();
      orders.push_back(desired);
    }
  }
  changed_.SignalAll();
  return orders;
}

void SyncState::WaitUntilDue(double interval) {
  MutexLock lock(mutex_);
  const auto wait = [&]() THAW_REQUIRES(mutex_) {
    const double due = interval * (flows_ ? kFlowShare : 1);
    const double seconds = due - static_cast<double>(clock_.BootMicros() - sent_at_) * 1e-6;
    if (!urgent_ && seconds > 0) changed_.WaitFor(mutex_, seconds);
  };
  const bool flowed = flows_;
  wait();
  // The first text ended the long wait, and the short one may not be over.
  if (!flowed && flows_) wait();
}

void SyncState::Wake() {
  MutexLock lock(mutex_);
  HurryLocked();
}

int64_t SyncState::LogCommitted(const std::string& attempt_id) const {
  MutexLock lock(mutex_);
  const auto found = attempts_.find(attempt_id);
  return found == attempts_.end() ? 0 : found->second.log_committed;
}

void SyncState::SetLogPending(const std::string& attempt_id, int64_t bytes) {
  MutexLock lock(mutex_);
  const auto found = attempts_.find(attempt_id);
  if (found != attempts_.end()) found->second.log_pending = bytes;
}

bool SyncState::LeaseExpired() const {
  MutexLock lock(mutex_);
  if (answered_at_ == 0) return true;
  return static_cast<double>(clock_.BootMicros() - answered_at_) * 1e-6 > lease_seconds_;
}

double SyncState::SilentSeconds() const {
  MutexLock lock(mutex_);
  return answered_at_ == 0 ? 0 : static_cast<double>(clock_.BootMicros() - answered_at_) * 1e-6;
}

std::vector<std::string> SyncState::AttemptIds() const {
  MutexLock lock(mutex_);
  std::vector<std::string> ids;
  for (const auto& [id, attempt] : attempts_) ids.push_back(id);
  return ids;
}

}  // namespace thaw
