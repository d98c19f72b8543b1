#include "server/artifacts/disk_budget.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"

namespace thaw {

DiskBudget::Reservation& DiskBudget::Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    Release(bytes_);
    budget_ = std::exchange(other.budget_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void DiskBudget::Reservation::Release(int64_t bytes) {
  if (budget_ == nullptr) return;
  bytes = std::min(bytes, bytes_);
  bytes_ -= bytes;
  MutexLock lock(budget_->mutex_);
  budget_->promised_ -= bytes;
}

absl::StatusOr<DiskBudget::Reservation> DiskBudget::Reserve(int64_t bytes, bool of_running_job) {
  THAW_ASSIGN_OR_RETURN(const int64_t free, FreeBytes(path_));
  MutexLock lock(mutex_);
  const int64_t kept = of_running_job ? min_free_bytes_ / 4 : min_free_bytes_;
  const int64_t left = std::max<int64_t>(0, free - kept - promised_);
  if (bytes > left) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat(
            "the server's disk has room for ", left, " bytes more, this needs ", bytes,
            ": delete artifacts that nobody needs, or ask the operator for a larger disk")),
        "DISK_FULL");
  }
  promised_ += bytes;
  return Reservation(this, bytes);
}

absl::Status DiskBudget::CheckNotShort() const {
  THAW_ASSIGN_OR_RETURN(const int64_t free, FreeBytes(path_));
  if (free >= min_free_bytes_) return absl::OkStatus();
  return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                        "the server's disk has ", free, " bytes left and keeps ", min_free_bytes_,
                        " for running jobs: delete artifacts that nobody needs")),
                    "DISK_FULL");
}

int64_t DiskBudget::FreeOnDisk() const { return FreeBytes(path_).value_or(0); }

}  // namespace thaw
