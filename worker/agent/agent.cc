#include "worker/agent/agent.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"

namespace thaw {
namespace {

constexpr int64_t kLogChunk = 64 << 10;
// The server keeps no more of an attempt's output.
constexpr int64_t kLogKept = int64_t{8} << 20;
constexpr double kFirstBackoff = 0.1;
constexpr double kLongestBackoff = 2;

int64_t SizeOf(const std::string& file) {
  struct stat info {};
  return stat(file.c_str(), &info) == 0 ? static_cast<int64_t>(info.st_size) : 0;
}

std::string ReadChunk(const std::string& file, int64_t offset) {
  UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  std::string chunk(kLogChunk, '\0');
  const ssize_t count = fd.valid() ? pread(fd.get(), chunk.data(), chunk.size(), offset) : 0;
  chunk.resize(count > 0 ? static_cast<size_t>(count) : 0);
  return chunk;
}

}  // namespace

Agent::Agent(const AgentOptions& options, ServerLink& link, const Clock& clock)
    : options_(options),
      link_(link),
      clock_(clock),
      state_(options.name, RandomId(), clock),
      cache_(options.cache_dir, options.cache_bytes),
      trainers_(options.warm, clock) {}

void Agent::Drain() {
  draining_ = true;
  link_.CancelSync();
  state_.Wake();
}

absl::Status Agent::Run() {
  double backoff = kFirstBackoff;
  double interval = 0;
  bool told = false;  // the server knows that we leave
  while (true) {
    const bool idle = runs_.empty() && state_.AttemptIds().empty();
    if (told && idle) return absl::OkStatus();
    state_.WaitUntilDue(interval);
    const bool draining = draining_;
    Reap();
    // Nothing is kept for a server that gives no work.
    if (draining || state_.LeaseExpired()) trainers_.Drop();
    // Also without the server's word, which may be out of reach.
    for (const auto& [id, run] : runs_) {
      if (draining) run->Obey(v1::DesiredAttempt::HAND_BACK);
    }
    MeasureOutput();
    v1::SyncRequest request = state_.BuildRequest(options_.offer, draining);
    ReportOutput(&request);
    const absl::StatusOr<v1::SyncResponse> response = link_.Sync(request);
    if (response.ok()) {
      backoff = kFirstBackoff;
      told = draining;
      for (const v1::DesiredAttempt& order : state_.Apply(*response)) Carry(order);
      interval = static_cast<double>(response->next_sync().seconds()) +
                 response->next_sync().nanos() * 1e-9;
      if (response->drain() && !draining_) {
        THAW_LOG(kInfo, "drain_asked", {"worker", options_.name});
        draining_ = true;
      }
      continue;
    }
    const absl::Status& status = response.status();
    if (ReasonOf(status) == "WORKER_REPLACED" || absl::IsPermissionDenied(status) ||
        absl::IsUnauthenticated(status) || absl::IsInvalidArgument(status)) {
      return status;
    }
    // With nothing to save there is nothing to wait for.
    if (draining && idle && !absl::IsCancelled(status)) return absl::OkStatus();
    if (ReasonOf(status) == "SYNC_OUTDATED" || absl::IsCancelled(status)) {
      interval = 0;
      continue;
    }
    THAW_LOG(kWarning, "server_out_of_reach", {"status", status.ToString()},
             {"again_in_seconds", backoff});
    interval = backoff;
    backoff = std::min(backoff * 2, kLongestBackoff);
  }
}

void Agent::Reap() {
  std::erase_if(leaving_, [](const auto& run) { return run->done(); });
}

void Agent::Carry(const v1::DesiredAttempt& order) {
  const auto found = runs_.find(order.attempt_id());
  if (found == runs_.end()) {
    if (order.verdict() == v1::DesiredAttempt::FORGET) state_.Remove(order.attempt_id());
    if (order.verdict() != v1::DesiredAttempt::RUN || !order.has_assignment()) return;
    // It becomes the name of a directory that is emptied: the server's word alone must not lead
    // elsewhere.
    if (order.attempt_id() != order.assignment().attempt_id() ||
        !IsSafeRelativePath(order.attempt_id()) || absl::StrContains(order.attempt_id(), '/')) {
      THAW_LOG(kError, "attempt_refused", {"job", order.job()}, {"attempt_id", order.attempt_id()});
      return;
    }
    if (draining_) {
      // Offered as we left: back to the queue at once instead of after a lease.
      v1::AttemptEnd end;
      end.set_outcome(v1::AttemptEnd::HANDED_BACK);
      state_.Add(order.assignment());
      state_.End(order.attempt_id(), end);
      return;
    }
    THAW_LOG(kInfo, "attempt_taken", {"job", order.job()}, {"attempt_id", order.attempt_id()},
             {"attempt", order.assignment().attempt()});
    runs_[order.attempt_id()] = std::make_unique<AttemptRun>(
        order.assignment(), options_.attempt, state_, cache_, trainers_, link_, clock_);
    runs_[order.attempt_id()]->Steer(order.steerings());
    return;
  }
  if (order.verdict() == v1::DesiredAttempt::FORGET) {
    // Its thread may wait for the network for a while; others must not.
    found->second->Obey(v1::DesiredAttempt::FORGET);
    state_.Remove(order.attempt_id());
    leaving_.push_back(std::move(found->second));
    runs_.erase(found);
  } else {
    found->second->Obey(order.verdict());
    found->second->Steer(order.steerings());
  }
}

void Agent::MeasureOutput() {
  for (const auto& [id, run] : runs_) {
    const int64_t committed = state_.LogCommitted(id);
    const int64_t size = std::min(SizeOf(run->log_file()), kLogKept);
    state_.SetLogPending(id, std::max<int64_t>(size - committed, 0));
  }
}

void Agent::ReportOutput(v1::SyncRequest* request) {
  for (v1::AttemptReport& report : *request->mutable_attempts()) {
    const auto found = runs_.find(report.attempt_id());
    if (found == runs_.end()) continue;
    const int64_t committed = state_.LogCommitted(report.attempt_id());
    if (committed >= kLogKept) continue;
    std::string chunk = ReadChunk(found->second->log_file(), committed);
    if (chunk.empty()) continue;
    report.set_log_offset(committed);
    report.set_log_chunk(std::move(chunk));
  }
}

}  // namespace thaw
