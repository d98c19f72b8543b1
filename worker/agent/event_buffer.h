// Events of one attempt between its trainer and the server.
#pragma once

#include <cstdint>
#include <deque>

#include "google/protobuf/repeated_ptr_field.h"
#include "thaw/v1/event.pb.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

// Numbers events from 1 without gaps and keeps each until the server has committed it. Metric
// points are joined and, when the server has been away for long, thinned, so that memory is
// bounded: evaluations and the last point of each phase stay, and the loss_sum and loss_units of
// what went are in the next point. Other kinds are never touched. Not thread-safe.
class EventBuffer {
 public:
  // False if so many other events wait that no honest trainer can have sent them; nothing is added
  // then.
  bool Add(const v1::Event& event);

  // Puts the first events not acknowledged into `out`, up to `max_bytes` but at least one. What was
  // handed out once is never changed again: the server may have it already.
  void CopyPending(int64_t max_bytes, google::protobuf::RepeatedPtrField<v1::WorkerEvent>* out);

  // Events up to `sequence` are committed. A number that was never given out is ignored.
  void Acknowledge(int64_t sequence);

  bool empty() const { return events_.empty(); }
  int64_t last_sequence() const { return next_sequence_ - 1; }
  // Everything up to here is committed.
  int64_t acknowledged() const {
    return events_.empty() ? last_sequence() : events_.front().sequence() - 1;
  }

 private:
  bool JoinPoints(const v1::Event& event);

  std::deque<v1::WorkerEvent> events_;  // in order, none acknowledged
  int64_t bytes_ = 0;                   // of events_, about
  int64_t newest_bytes_ = 0;            // of events_.back(), about
  int64_t next_sequence_ = 1;
  int64_t handed_out_ = 0;  // highest sequence ever copied out
};

}  // namespace thaw
