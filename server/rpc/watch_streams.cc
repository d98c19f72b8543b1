#include "server/rpc/watch_streams.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "server/jobs/event_log.h"
#include "server/jobs/job_table.h"
#include "server/rpc/answer.h"

namespace thaw {
namespace {

constexpr int kBatchEvents = 32;  // an event is up to 512 KiB

absl::Status Stopping() {
  return WithRetryAfter(
      absl::UnavailableError("the server stops: watch again from the last sequence you have"), 1);
}

}  // namespace

// Reactions and the thread of WatchStreams meet here: every Start and Finish happens under mutex_
// and behind finished_. The stream keeps itself alive until OnDone.
class WatchStreams::Stream final : public grpc::ServerWriteReactor<v1::WatchJobResponse>,
                                   public std::enable_shared_from_this<Stream> {
 public:
  Stream(WatchStreams& owner, grpc::CallbackServerContext* context, std::string scope,
         const v1::WatchJobRequest& request)
      : owner_(owner),
        context_(context),
        timer_(owner.metrics_, "WatchJob"),
        scope_(std::move(scope)),
        job_(request.id()),
        last_write_(owner.clock_.BootMicros()),
        cursor_(request.after_sequence()) {
    owner_.metrics_.AddWatchers(1);
  }

  void Begin() { self_ = shared_from_this(); }

  // On the thread of WatchStreams: reads the next batch if the last has gone out.
  void Advance() {
    {
      MutexLock lock(mutex_);
      if (finished_ || writing_) return;
      behind_ = false;
    }
    // Before the first read, so that no commit falls between the two.
    if (!started_) subscription_ = owner_.store_.SubscribeEvents(job_, Waker());
    v1::Job job;
    std::vector<v1::Event> events;
    const absl::Status status = owner_.store_.Read([&](Reader& reader) -> absl::Status {
      THAW_ASSIGN_OR_RETURN(job, GetJob(reader, scope_, job_));
      THAW_ASSIGN_OR_RETURN(events, EventsAfter(reader, scope_, job_, cursor_, kBatchEvents));
      return absl::OkStatus();
    });
    owner_.dispatcher_.FillQueue(&job);
    MutexLock lock(mutex_);
    if (finished_) return;
    if (!status.ok()) return End(status);
    if (cursor_ > job.last_sequence()) {
      return End(absl::OutOfRangeError(absl::StrCat("after_sequence is ", cursor_,
                                                    " but the newest event of ", job_, " is ",
                                                    job.last_sequence(), ": watch from there")));
    }
    Collect(job, std::move(events));
    StartNext();
  }

  // On the thread of WatchStreams.
  void HeartbeatIfQuiet(int64_t before) {
    MutexLock lock(mutex_);
    if (!started_ || finished_ || writing_ || last_write_ > before) return;
    outbox_.emplace_back().mutable_heartbeat();
    *outbox_.back().mutable_progress() = progress_;
    StartNext();
  }

  // Ends the stream as soon as the message on its way has gone out.
  void Close(const absl::Status& status) {
    MutexLock lock(mutex_);
    End(status);
  }
  void Cancel() { context_->TryCancel(); }

  void OnWriteDone(bool ok) override {
    bool wake = false;
    {
      MutexLock lock(mutex_);
      writing_ = false;
      last_write_ = owner_.clock_.BootMicros();
      if (!ok) {
        End(absl::CancelledError("the caller has gone"));
      } else {
        StartNext();
      }
      wake = !writing_ && !finished_ && behind_;
    }
    if (wake) owner_.Enqueue(shared_from_this());
  }

  void OnCancel() override { Close(absl::CancelledError("the caller has gone")); }

  void OnDone() override {
    subscription_.Reset();
    owner_.metrics_.AddWatchers(-1);
    const StreamPtr last = std::move(self_);
    owner_.Remove(last);
  }

 private:
  friend class WatchStreams;

  std::function<void()> Waker() {
    return [weak = weak_from_this()] {
      const StreamPtr stream = weak.lock();
      if (stream == nullptr) return;
      {
        MutexLock lock(stream->mutex_);
        stream->behind_ = true;
        if (stream->writing_ || stream->finished_) return;
      }
      stream->owner_.Enqueue(stream);
    };
  }

  void Collect(const v1::Job& job, std::vector<v1::Event> events) THAW_REQUIRES(mutex_) {
    progress_ = job.progress();
    if (!started_) {
      started_ = true;
      v1::WatchJobResponse& first = outbox_.emplace_back();
      *first.mutable_snapshot() = job;
      first.set_as_of_sequence(job.last_sequence());
    }
    for (v1::Event& event : events) {
      cursor_ = event.sequence();
      *outbox_.emplace_back().mutable_event() = std::move(event);
    }
    if (!events.empty()) *outbox_.back().mutable_progress() = progress_;
    const bool all = cursor_ >= job.last_sequence();
    if (!all) behind_ = true;
    if (all && job.done()) complete_ = true;
  }

  void StartNext() THAW_REQUIRES(mutex_) {
    if (finished_ || writing_) return;
    if (ending_) return FinishWith(*ending_);
    if (!outbox_.empty()) {
      current_ = std::move(outbox_.front());
      outbox_.pop_front();
      writing_ = true;
      StartWrite(&current_);
    } else if (complete_) {
      FinishWith(absl::OkStatus());
    }
  }

  void End(const absl::Status& status) THAW_REQUIRES(mutex_) {
    if (!ending_) ending_ = status;
    StartNext();
  }

  void FinishWith(const absl::Status& status) THAW_REQUIRES(mutex_) {
    finished_ = true;
    outbox_.clear();
    Finish(timer_.Finish(status));
  }

  WatchStreams& owner_;
  grpc::CallbackServerContext* const context_;
  const CallTimer timer_;
  const std::string scope_;
  const std::string job_;
  StreamPtr self_;             // until OnDone
  Subscription subscription_;  // made by the thread of WatchStreams
  bool queued_ = false;        // in ready_; guarded by WatchStreams::mutex_

  Mutex mutex_;
  bool started_ = false;                           // the snapshot is in the outbox
  bool behind_ THAW_GUARDED_BY(mutex_) = false;    // the store has more than was read
  bool writing_ THAW_GUARDED_BY(mutex_) = false;   // current_ is on its way
  bool complete_ THAW_GUARDED_BY(mutex_) = false;  // the outbox ends with the last event
  bool finished_ THAW_GUARDED_BY(mutex_) = false;  // Finish was called
  std::optional<absl::Status> ending_ THAW_GUARDED_BY(mutex_);  // end with this, drop the outbox
  int64_t last_write_ THAW_GUARDED_BY(mutex_);
  int64_t cursor_;  // last sequence read; on the thread of WatchStreams
  v1::Progress progress_ THAW_GUARDED_BY(mutex_);
  v1::WatchJobResponse current_ THAW_GUARDED_BY(mutex_);
  std::deque<v1::WatchJobResponse> outbox_ THAW_GUARDED_BY(mutex_);
};

WatchStreams::WatchStreams(Store& store, const Dispatcher& dispatcher, ServiceMetrics& metrics,
                           const Clock& clock, WatchOptions options)
    : store_(store), dispatcher_(dispatcher), metrics_(metrics), clock_(clock), options_(options) {
  thread_ = std::thread([this] { Work(); });
}

WatchStreams::~WatchStreams() {
  Stop();
  thread_.join();
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchStreams::Watch(
    const absl::StatusOr<Caller>& caller, grpc::CallbackServerContext* context,
    const v1::WatchJobRequest& request) {
  const auto stream =
      std::make_shared<Stream>(*this, context, caller.ok() ? caller->scope : "", request);
  stream->Begin();
  absl::Status refusal = caller.status();
  if (request.after_sequence() < 0) refusal.Update(InvalidField("after_sequence", "is negative"));
  {
    MutexLock lock(mutex_);
    if (streams_.size() >= options_.max_streams) {
      refusal.Update(WithReason(
          absl::ResourceExhaustedError(absl::StrCat(
              streams_.size(), " streams are open, which is all that the server takes: try later")),
          "TOO_MANY_WATCHERS"));
    }
    const auto of_owner = static_cast<size_t>(
        std::count_if(streams_.begin(), streams_.end(),
                      [&](const StreamPtr& other) { return other->scope_ == stream->scope_; }));
    if (!stream->scope_.empty() && of_owner >= options_.max_streams_per_owner) {
      refusal.Update(WithReason(
          absl::ResourceExhaustedError(absl::StrCat(
              of_owner, " streams of ", stream->scope_,
              " are open, which is all that one owner may have: close those that nobody reads")),
          "TOO_MANY_WATCHERS"));
    }
    if (stopping_) refusal.Update(Stopping());
    streams_.insert(stream);
  }
  if (refusal.ok()) {
    Enqueue(stream);
  } else {
    stream->Close(refusal);
  }
  return stream.get();
}

void WatchStreams::Enqueue(const StreamPtr& stream) {
  MutexLock lock(mutex_);
  if (stream->queued_ || stopping_) return;
  stream->queued_ = true;
  ready_.push_back(stream);
  changed_.SignalAll();
}

void WatchStreams::Remove(const StreamPtr& stream) {
  MutexLock lock(mutex_);
  streams_.erase(stream);
  changed_.SignalAll();
}

void WatchStreams::Work() {
  const auto heartbeat = static_cast<int64_t>(options_.heartbeat_seconds * 1'000'000);
  int64_t next_round = clock_.BootMicros() + heartbeat / 4;
  while (true) {
    StreamPtr stream;
    std::vector<StreamPtr> all;
    {
      MutexLock lock(mutex_);
      if (stopping_) return;
      if (ready_.empty()) changed_.WaitFor(mutex_, options_.heartbeat_seconds / 4);
      if (!ready_.empty()) {
        stream = std::move(ready_.front());
        ready_.pop_front();
        stream->queued_ = false;
      }
      if (clock_.BootMicros() >= next_round) all.assign(streams_.begin(), streams_.end());
    }
    if (stream != nullptr) stream->Advance();
    if (all.empty()) continue;
    next_round = clock_.BootMicros() + heartbeat / 4;
    for (const StreamPtr& quiet : all) {
      quiet->HeartbeatIfQuiet(clock_.BootMicros() - heartbeat);
    }
  }
}

void WatchStreams::Stop() {
  std::vector<StreamPtr> open;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    ready_.clear();
    open.assign(streams_.begin(), streams_.end());
    changed_.SignalAll();
  }
  for (const StreamPtr& stream : open) stream->Close(Stopping());
  const int64_t deadline =
      clock_.BootMicros() + static_cast<int64_t>(options_.stop_seconds * 1'000'000);
  MutexLock lock(mutex_);
  while (!streams_.empty() && clock_.BootMicros() < deadline) {
    changed_.WaitFor(mutex_, options_.stop_seconds / 4);
  }
  // A peer that does not read keeps its message on the way for ever.
  for (const StreamPtr& stream : streams_) stream->Cancel();
  while (!streams_.empty()) changed_.WaitFor(mutex_, 1);
}

}  // namespace thaw
