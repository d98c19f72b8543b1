#include "server/artifacts/disk_budget.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {

DiskBudget::Reservation& DiskBudget::Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    GiveBack();
    budget_ = std::exchange(other.budget_, nullptr);
    owner_ = std::move(other.owner_);
    bytes_ = std::exchange(other.bytes_, 0);
    of_owner_ = std::exchange(other.of_owner_, 0);
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

void DiskBudget::Reservation::GiveBack() {
  Release(bytes_);
  if (budget_ == nullptr) return;
  MutexLock lock(budget_->mutex_);
  const auto owner = budget_->held_by_.find(owner_);
  if (owner == budget_->held_by_.end()) return;
  owner->second -= std::exchange(of_owner_, 0);
  if (owner->second <= 0) budget_->held_by_.erase(owner);
}

absl::StatusOr<DiskBudget::Reservation> DiskBudget::Reserve(int64_t bytes, const Claim& claim) {
  THAW_ASSIGN_OR_RETURN(const int64_t free, options_.free_bytes());
  MutexLock lock(mutex_);
  const int64_t kept = claim.of_running_job ? options_.min_free_bytes / 4
                                            : options_.min_free_bytes + kept_for_checkpoints_;
  const int64_t left = std::max<int64_t>(0, free - kept - promised_);
  if (bytes > left) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat(
            "the server's disk has room for ", left, " bytes more, this needs ", bytes,
            ": delete artifacts that nobody needs, or ask the operator for a larger disk")),
        "DISK_FULL");
  }
  const int64_t of_owner = claim.owner.empty() ? 0 : bytes + claim.on_disk;
  if (of_owner > 0) {
    const auto found = held_by_.find(claim.owner);
    const int64_t own = found == held_by_.end() ? 0 : found->second;
    const auto most = static_cast<int64_t>(options_.owner_share * static_cast<double>(left + own));
    if (bytes > most - own && !claim.admitted) {
      return WithReason(
          absl::ResourceExhaustedError(absl::StrCat(
              "your unfinished uploads hold ", own, " bytes, this needs ", bytes,
              " more, and one owner may hold ", most,
              " of the room that is left: finish the others first or wait until they expire, or "
              "ask the operator to raise --owner_upload_share")),
          "UPLOAD_QUOTA");
    }
    held_by_[claim.owner] = own + of_owner;
  }
  promised_ += bytes;
  return Reservation(this, claim.owner, bytes, of_owner);
}

absl::Status DiskBudget::CheckNotShort() const {
  THAW_ASSIGN_OR_RETURN(const int64_t free, options_.free_bytes());
  MutexLock lock(mutex_);
  const int64_t kept = options_.min_free_bytes + kept_for_checkpoints_;
  if (free >= kept) return absl::OkStatus();
  return WithReason(absl::ResourceExhaustedError(
                        absl::StrCat("the server's disk has ", free, " bytes left and keeps ", kept,
                                     " for running jobs: delete artifacts that nobody needs")),
                    "DISK_FULL");
}

void DiskBudget::KeepForCheckpoints(int64_t bytes) {
  MutexLock lock(mutex_);
  kept_for_checkpoints_ = bytes;
}

int64_t DiskBudget::FreeOnDisk() const { return options_.free_bytes().value_or(0); }

}  // namespace thaw
