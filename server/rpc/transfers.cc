#include "server/rpc/transfers.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace thaw {

Transfers::Slot::~Slot() {
  if (transfers_ == nullptr) return;
  MutexLock lock(transfers_->mutex_);
  transfers_->calls_.erase(number_);
}

void Transfers::Slot::Progressed() {
  MutexLock lock(transfers_->mutex_);
  transfers_->calls_[number_].progress_micros = transfers_->clock_.BootMicros();
}

Transfers::Transfers(int limit, double stall_seconds, const Clock& clock)
    : limit_(static_cast<size_t>(limit)), stall_seconds_(stall_seconds), clock_(clock) {
  thread_ = std::thread([this] { CancelStalled(); });
}

Transfers::~Transfers() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    stopped_.SignalAll();
  }
  thread_.join();
}

absl::StatusOr<Transfers::Slot> Transfers::Begin(grpc::ServerContext* context,
                                                 const std::string& owner) {
  MutexLock lock(mutex_);
  const auto of_owner =
      static_cast<size_t>(std::count_if(calls_.begin(), calls_.end(), [&](const auto& numbered) {
        return numbered.second.owner == owner;
      }));
  if (of_owner >= limit_ - limit_ / 4) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat(owner, " has ", of_owner,
                                                  " uploads and downloads under way, which is all "
                                                  "that one owner may: wait for one to end")),
        "TOO_MANY_TRANSFERS");
  }
  if (calls_.size() >= limit_) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat(calls_.size(),
                                                  " uploads and downloads are under way, which "
                                                  "is all that the server takes: try again")),
        "TOO_MANY_TRANSFERS");
  }
  const int64_t number = next_number_++;
  calls_[number] = {context, owner, clock_.BootMicros()};
  return Slot(this, number);
}

void Transfers::CancelStalled() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    stopped_.WaitFor(mutex_, stall_seconds_ / 4);
    const int64_t oldest = clock_.BootMicros() - static_cast<int64_t>(stall_seconds_ * 1'000'000);
    for (const auto& [number, call] : calls_) {
      if (call.progress_micros > oldest || call.context->IsCancelled()) continue;
      THAW_LOG(kWarning, "transfer_stalled", {"peer", call.context->peer()});
      call.context->TryCancel();
    }
  }
}

}  // namespace thaw
