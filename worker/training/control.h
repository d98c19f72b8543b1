// What an attempt is asked to do while it runs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include "common/base/mutex.h"
#include "thaw/v1/steering.pb.h"

namespace thaw {

// Filled by the thread that reads frames, looked at by the training thread at its step boundaries.
class Control {
 public:
  // Any thread.
  void RequestCheckpoint();
  void RequestPause();
  void RequestStop();
  void Hold();
  void Resume();
  // Again with the same number: nothing.
  void Steer(const v1::SteeringRecord& record);

  // Training thread, inside work that lies between two boundaries and can be done again: true once
  // it should be given up for a pause or a stop.
  bool ShouldEnd();

  struct Requests {
    bool checkpoint = false;  // told once
    bool pause = false;       // from now on
    bool stop = false;        // from now on
  };
  // Training thread, at a boundary. While on hold without anything else to do it waits, calling
  // `beat` every second.
  Requests AtBoundary(const std::function<void()>& beat);

  // Training thread: moves what was asked for since the last call to `steerings`, by number.
  void TakeSteerings(std::map<int32_t, v1::SteeringRecord>* steerings);

 private:
  Mutex mutex_;
  CondVar changed_;
  Requests requests_ THAW_GUARDED_BY(mutex_);
  std::map<int32_t, v1::SteeringRecord> steerings_ THAW_GUARDED_BY(mutex_);
  bool held_ THAW_GUARDED_BY(mutex_) = false;
};

}  // namespace thaw
