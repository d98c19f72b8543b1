// A worker as a value: it makes Sync requests and follows the answers, without threads, sockets or
// trainers.
#pragma once

#include <map>
#include <string>

#include "common/base/id.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

class SimWorker {
 public:
  struct Attempt {
    std::string job;
    v1::AttemptReport::State state = v1::AttemptReport::PREPARING;
    v1::DesiredAttempt::Verdict verdict = v1::DesiredAttempt::RUN;
    v1::AttemptEnd end;
    int64_t last_event = 0;
    std::map<int64_t, v1::Event> unacknowledged;
    v1::Assignment assignment;
    std::map<int32_t, v1::SteeringRecord> steerings;  // that it was told of
    int32_t steering = 0;                             // the newest that it has applied
  };

  explicit SimWorker(std::string name, int slots = 1,
                     v1::Resources::DeviceKind kind = v1::Resources::CPU, int devices = 1,
                     int64_t memory_bytes = int64_t{8} << 30)
      : name_(std::move(name)), incarnation_(RandomId()) {
    offer_.set_slots(slots);
    for (int i = 0; i < devices; ++i) {
      v1::Device& device = *offer_.add_devices();
      device.set_kind(kind);
      device.set_memory_bytes(memory_bytes);
    }
  }

  // The next request: everything that it holds.
  v1::SyncRequest Request() {
    v1::SyncRequest request;
    request.set_worker(name_);
    request.set_incarnation(incarnation_);
    request.set_number(++number_);
    *request.mutable_offer() = offer_;
    request.set_draining(draining);
    for (const auto& [id, attempt] : attempts) {
      v1::AttemptReport& report = *request.add_attempts();
      report.set_job(attempt.job);
      report.set_attempt_id(id);
      report.set_state(attempt.state);
      report.mutable_progress()->set_step(attempt.last_event);
      for (const auto& [sequence, event] : attempt.unacknowledged) {
        v1::WorkerEvent& out = *report.add_events();
        out.set_sequence(sequence);
        *out.mutable_event() = event;
      }
      if (attempt.state == v1::AttemptReport::ENDED) *report.mutable_end() = attempt.end;
    }
    return request;
  }

  // Whether this answers the newest request. An older call has been given up, and its answer goes
  // nowhere.
  bool Awaits(const v1::SyncResponse& response) const {
    return response.incarnation() == incarnation_ && response.number() == number_;
  }

  // Does what the answer says, unless it answers an older request.
  void Apply(const v1::SyncResponse& response) {
    if (!Awaits(response)) return;
    for (const v1::DesiredAttempt& desired : response.attempts()) {
      const std::string& id = desired.attempt_id();
      if (desired.verdict() == v1::DesiredAttempt::FORGET) {
        attempts.erase(id);
        continue;
      }
      if (attempts.count(id) == 0) {
        if (!desired.has_assignment()) continue;
        attempts[id].job = desired.job();
        attempts[id].assignment = desired.assignment();
        for (const v1::SteeringRecord& record : desired.assignment().steerings()) {
          attempts[id].steerings[record.number()] = record;
        }
      }
      Attempt& attempt = attempts[id];
      for (const v1::SteeringRecord& record : desired.steerings()) {
        attempt.steerings.emplace(record.number(), record);
      }
      attempt.verdict = desired.verdict();
      attempt.unacknowledged.erase(
          attempt.unacknowledged.begin(),
          attempt.unacknowledged.upper_bound(desired.acknowledged_sequence()));
    }
    told_to_drain = response.drain();
  }

  // As after kill -9 and a new start: nothing is left.
  void Restart() {
    incarnation_ = RandomId();
    number_ = 0;
    attempts.clear();
  }

  static void AddLog(Attempt& attempt, const std::string& text) {
    attempt.unacknowledged[++attempt.last_event].mutable_log_line()->set_text(text);
  }
  static void AddPoint(Attempt& attempt, int64_t step, double loss) {
    v1::MetricPoint& point =
        *attempt.unacknowledged[++attempt.last_event].mutable_metric_points()->add_points();
    point.set_step(step);
    v1::MetricValue& value = *point.add_values();
    value.set_name("loss");
    value.set_value(loss);
  }
  // Does the next thing that was asked for, if there is one; tells of it unless an attempt before
  // has, and now and then all the same.
  static void Steer(Attempt& attempt, int64_t step, bool tell_again) {
    const auto next = attempt.steerings.find(attempt.steering + 1);
    if (next == attempt.steerings.end()) return;
    const v1::SteeringRecord& record = next->second;
    ++attempt.steering;
    if (record.applied() && !tell_again) return;
    v1::SteeringRecord& told =
        *attempt.unacknowledged[++attempt.last_event].mutable_steering_applied();
    told.set_number(record.number());
    told.set_step(record.applied() ? record.step() : step);
  }
  static void End(Attempt& attempt, v1::AttemptEnd::Outcome outcome, int64_t step = 0) {
    attempt.state = v1::AttemptReport::ENDED;
    attempt.end.set_outcome(outcome);
    attempt.end.set_step(step);
  }
  // The only attempt that it holds.
  Attempt& only() { return attempts.begin()->second; }
  const std::string& only_id() const { return attempts.begin()->first; }

  const std::string& name() const { return name_; }
  const std::string& incarnation() const { return incarnation_; }

  std::map<std::string, Attempt> attempts;  // by attempt id
  bool draining = false;
  bool told_to_drain = false;

 private:
  std::string name_;
  std::string incarnation_;
  int64_t number_ = 0;
  v1::WorkerOffer offer_;
};

}  // namespace thaw
