#include "server/rpc/sync_calls.h"

#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "common/base/status.h"
#include "server/jobs/attempt_table.h"
#include "server/rpc/answer.h"

namespace thaw {
namespace {

constexpr size_t kMaxLogPlaces = 10'000;

bool HasLogs(const v1::SyncRequest& request) {
  return std::any_of(request.attempts().begin(), request.attempts().end(),
                     [](const v1::AttemptReport& report) { return !report.log_chunk().empty(); });
}

}  // namespace

// Keeps itself alive until OnDone. Finish is called once: by the dispatcher's answer, or in its
// place when the call never reached the dispatcher.
class SyncCalls::Call final : public grpc::ServerUnaryReactor,
                              public std::enable_shared_from_this<Call> {
 public:
  Call(SyncCalls& owner, const v1::SyncRequest* request, v1::SyncResponse* response)
      : owner_(owner), request_(*request), response_(response), timer_(owner.metrics_, "Sync") {}

  const v1::SyncRequest& request() const { return request_; }
  std::map<std::string, int64_t>& log_committed() { return log_committed_; }

  void Begin() { self_ = shared_from_this(); }

  void Dispatch() {
    {
      MutexLock lock(mutex_);
      if (cancelled_) return FinishOnce(absl::CancelledError("the worker has gone"));
    }
    const uint64_t ticket = owner_.dispatcher_.Sync(
        request_, [call = shared_from_this()](absl::StatusOr<v1::SyncResponse> answer) {
          call->Answered(std::move(answer));
        });
    bool cancel = false;
    {
      MutexLock lock(mutex_);
      ticket_ = ticket;
      cancel = cancelled_ && !finished_;
    }
    if (cancel) owner_.dispatcher_.CancelSync(ticket);
  }

  void Refuse(const absl::Status& status) {
    MutexLock lock(mutex_);
    FinishOnce(status);
  }

  void OnCancel() override {
    uint64_t ticket = 0;
    {
      MutexLock lock(mutex_);
      cancelled_ = true;
      if (finished_) return;
      ticket = ticket_;
    }
    if (ticket != 0) owner_.dispatcher_.CancelSync(ticket);
  }

  void OnDone() override { const CallPtr last = std::move(self_); }

 private:
  void Answered(absl::StatusOr<v1::SyncResponse> answer) {
    MutexLock lock(mutex_);
    if (finished_) return;
    if (answer.ok()) {
      *response_ = *std::move(answer);
      for (v1::DesiredAttempt& attempt : *response_->mutable_attempts()) {
        const auto committed = log_committed_.find(attempt.attempt_id());
        if (committed != log_committed_.end()) attempt.set_log_committed(committed->second);
      }
    }
    FinishOnce(answer.status());
  }

  void FinishOnce(const absl::Status& status) THAW_REQUIRES(mutex_) {
    if (std::exchange(finished_, true)) return;
    Finish(timer_.Finish(status));
  }

  SyncCalls& owner_;
  const v1::SyncRequest& request_;  // gRPC's, until Finish
  v1::SyncResponse* const response_;
  const CallTimer timer_;
  std::map<std::string, int64_t> log_committed_;  // by attempt; filled before Dispatch
  CallPtr self_;                                  // until OnDone
  Mutex mutex_;
  uint64_t ticket_ THAW_GUARDED_BY(mutex_) = 0;  // 0: not with the dispatcher
  bool cancelled_ THAW_GUARDED_BY(mutex_) = false;
  bool finished_ THAW_GUARDED_BY(mutex_) = false;
};

SyncCalls::SyncCalls(Store& store, Dispatcher& dispatcher, AttemptLogs& logs,
                     ServiceMetrics& metrics)
    : store_(store), dispatcher_(dispatcher), logs_(logs), metrics_(metrics) {
  thread_ = std::thread([this] { Work(); });
}

SyncCalls::~SyncCalls() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

grpc::ServerUnaryReactor* SyncCalls::Sync(const absl::Status& authorized,
                                          const v1::SyncRequest* request,
                                          v1::SyncResponse* response) {
  const auto call = std::make_shared<Call>(*this, request, response);
  call->Begin();
  if (!authorized.ok()) {
    call->Refuse(authorized);
  } else if (HasLogs(*request)) {
    MutexLock lock(mutex_);
    with_logs_.push_back(call);
    changed_.SignalAll();
  } else {
    call->Dispatch();
  }
  return call.get();
}

void SyncCalls::Work() {
  while (true) {
    CallPtr call;
    {
      MutexLock lock(mutex_);
      while (with_logs_.empty() && !stopping_) changed_.Wait(mutex_);
      if (with_logs_.empty()) return;
      call = std::move(with_logs_.front());
      with_logs_.pop_front();
    }
    for (const v1::AttemptReport& report : call->request().attempts()) {
      if (report.log_chunk().empty()) continue;
      const auto committed = AppendLog(call->request().worker(), report);
      if (committed.ok()) {
        call->log_committed()[report.attempt_id()] = *committed;
      } else {
        THAW_LOG(kWarning, "log_not_kept", {"attempt", report.attempt_id()},
                 {"error", committed.status().ToString()});
      }
    }
    call->Dispatch();
  }
}

absl::StatusOr<int64_t> SyncCalls::AppendLog(const std::string& worker,
                                             const v1::AttemptReport& report) {
  auto place = places_.find(report.attempt_id());
  if (place == places_.end()) {
    THAW_ASSIGN_OR_RETURN(const AttemptRecord attempt, store_.Read([&](Reader& reader) {
      return GetAttempt(reader, report.attempt_id());
    }));
    if (places_.size() >= kMaxLogPlaces) places_.clear();
    place = places_
                .emplace(report.attempt_id(),
                         LogPlace{attempt.job, attempt.worker, static_cast<int>(attempt.number)})
                .first;
  }
  if (place->second.worker != worker)
    return absl::PermissionDeniedError("another worker's attempt");
  return logs_.Append(place->second.job, place->second.attempt, report.log_offset(),
                      report.log_chunk());
}

}  // namespace thaw
