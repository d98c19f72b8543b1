// Bounds what uploads and downloads may hold of the server: so many at once, and none that stands
// still.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "grpcpp/server_context.h"

namespace thaw {

// Thread-safe. Its thread cancels calls whose peer neither sends nor takes anything any more.
class Transfers {
 public:
  // One transfer; ends when it goes.
  class Slot {
   public:
    Slot(Slot&& other) noexcept : transfers_(other.transfers_), number_(other.number_) {
      other.transfers_ = nullptr;
    }
    ~Slot();
    // A message went through.
    void Progressed();

   private:
    friend class Transfers;
    Slot(Transfers* transfers, int64_t number) : transfers_(transfers), number_(number) {}
    Transfers* transfers_;
    int64_t number_;
  };

  Transfers(int limit, double stall_seconds, const Clock& clock);
  ~Transfers();

  // RESOURCE_EXHAUSTED when `limit` are under way, or three quarters of them for `owner` alone.
  // `context` lives as long as the slot.
  absl::StatusOr<Slot> Begin(grpc::ServerContext* context, const std::string& owner);

 private:
  struct Call {
    grpc::ServerContext* context;
    std::string owner;
    int64_t progress_micros;
  };
  void CancelStalled();

  const size_t limit_;
  const double stall_seconds_;
  const Clock& clock_;
  Mutex mutex_;
  CondVar stopped_;
  bool stopping_ THAW_GUARDED_BY(mutex_) = false;
  int64_t next_number_ THAW_GUARDED_BY(mutex_) = 1;
  std::map<int64_t, Call> calls_ THAW_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace thaw
