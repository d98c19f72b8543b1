#include "worker/agent/attempt_run.h"

#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/frames/frame.h"
#include "worker/agent/exit_blame.h"

namespace thaw {
namespace {

using Verdict = v1::DesiredAttempt::Verdict;

// Frames that may wait before the trainer has to.
constexpr size_t kMostFramesWaiting = 256;
// How often deadlines (hang, lease, stop) are looked at when nothing happens.
constexpr double kLookSeconds = 0.25;
constexpr int64_t kTailBytes = 16 << 10;

// Later orders must not soften earlier ones.
int Rank(Verdict verdict) {
  switch (verdict) {
    case v1::DesiredAttempt::FORGET:
      return 3;
    case v1::DesiredAttempt::STOP:
      return 2;
    case v1::DesiredAttempt::PAUSE:
    case v1::DesiredAttempt::HAND_BACK:
      return 1;
    default:
      return 0;
  }
}

v1::AttemptEnd EndAs(v1::AttemptEnd::Outcome outcome, int64_t step) {
  v1::AttemptEnd end;
  end.set_outcome(outcome);
  end.set_step(step);
  return end;
}

v1::AttemptEnd InfrastructureFailure(absl::string_view reason, const absl::Status& status,
                                     int64_t step) {
  v1::AttemptEnd end = EndAs(v1::AttemptEnd::FAILED, step);
  end.mutable_failure()->set_blame(v1::Failure::INFRASTRUCTURE);
  end.mutable_failure()->set_reason(std::string(reason));
  end.mutable_failure()->set_message(std::string(status.message()));
  end.mutable_failure()->set_incident(LogIncident(reason, status.ToString()));
  end.mutable_failure()->set_step(step);
  return end;
}

std::string TailOf(const std::string& file) {
  const auto text = ReadFile(file, int64_t{1} << 30);
  if (!text.ok()) return "";
  return text->size() > kTailBytes ? text->substr(text->size() - kTailBytes) : *text;
}

}  // namespace

AttemptRun::AttemptRun(const v1::Assignment& assignment, const AttemptOptions& options,
                       SyncState& state, ArtifactCache& cache, ServerLink& link, const Clock& clock)
    : assignment_(assignment),
      id_(assignment.attempt_id()),
      options_(options),
      directory_(absl::StrCat(options.attempts_dir, "/", assignment.attempt_id())),
      state_(state),
      cache_(cache),
      link_(link),
      clock_(clock) {
  state_.Add(assignment_);
  thread_ = std::thread([this] { Main(); });
}

AttemptRun::~AttemptRun() {
  Obey(v1::DesiredAttempt::FORGET);
  thread_.join();
  state_.Remove(id_);
  if (const absl::Status status = RemoveTree(directory_); !status.ok()) {
    THAW_LOG(kWarning, "attempt_not_removed", {"attempt_id", id_}, {"status", status.ToString()});
  }
}

void AttemptRun::Obey(Verdict verdict) {
  MutexLock lock(mutex_);
  if (Rank(verdict) > Rank(ordered_)) ordered_ = verdict;
  changed_.SignalAll();
}

Verdict AttemptRun::Ordered() const {
  MutexLock lock(mutex_);
  return ordered_;
}

bool AttemptRun::StopOrdered() const { return Rank(Ordered()) >= Rank(v1::DesiredAttempt::STOP); }

void AttemptRun::Main() {
  absl::StatusOr<internal::Run> run = Prepare();
  v1::AttemptEnd end;
  if (StopOrdered()) {
    end = EndAs(v1::AttemptEnd::STOPPED, 0);
  } else if (Rank(Ordered()) > 0) {
    // Nothing has run, so there is nothing to save.
    const bool pause = Ordered() == v1::DesiredAttempt::PAUSE;
    end = EndAs(pause ? v1::AttemptEnd::PAUSED : v1::AttemptEnd::HANDED_BACK, 0);
  } else if (!run.ok()) {
    end = InfrastructureFailure("INPUTS_NOT_FETCHED", run.status(), 0);
  } else {
    end = Supervise(*run);
  }
  uploads_.reset();
  process_.reset();
  pins_.clear();
  THAW_LOG(kInfo, "attempt_ended", {"job", assignment_.job()}, {"attempt_id", id_},
           {"outcome", v1::AttemptEnd::Outcome_Name(end.outcome())}, {"step", end.step()},
           {"reason", end.failure().reason()});
  state_.End(id_, end);
}

absl::StatusOr<internal::Run> AttemptRun::Prepare() {
  internal::Run run;
  const std::string work_dir = absl::StrCat(directory_, "/work");
  THAW_RETURN_IF_ERROR(RemoveTree(directory_));
  THAW_RETURN_IF_ERROR(MakeDirectories(work_dir, 0700));
  *run.mutable_assignment() = assignment_;
  run.set_work_dir(work_dir);
  run.set_threads(options_.threads);
  const auto fetch = [this](const v1::Artifact& artifact, const std::string& directory) {
    return link_.Download(id_, artifact, directory, [this] { return StopOrdered(); });
  };
  const auto bring = [&](bool wanted, const v1::Artifact& artifact,
                         std::string* directory) -> absl::Status {
    if (!wanted) return absl::OkStatus();
    THAW_ASSIGN_OR_RETURN(ArtifactCache::Pin pin, cache_.Get(artifact, fetch));
    *directory = pin.directory();
    pins_.push_back(std::move(pin));
    return absl::OkStatus();
  };
  THAW_RETURN_IF_ERROR(
      bring(assignment_.has_model(), assignment_.model(), run.mutable_model_dir()));
  THAW_RETURN_IF_ERROR(
      bring(assignment_.has_dataset(), assignment_.dataset(), run.mutable_dataset_dir()));
  THAW_RETURN_IF_ERROR(bring(assignment_.has_validation_dataset(), assignment_.validation_dataset(),
                             run.mutable_validation_dataset_dir()));
  THAW_RETURN_IF_ERROR(
      bring(assignment_.has_checkpoint(), assignment_.checkpoint(), run.mutable_checkpoint_dir()));
  return run;
}

v1::AttemptEnd AttemptRun::Supervise(const internal::Run& run) {
  const int64_t memory_kills = KernelMemoryKills();
  auto started = TrainerProcess::Start({.program = options_.trainer,
                                        .work_dir = run.work_dir(),
                                        .log_file = log_file(),
                                        .threads = options_.threads});
  if (!started.ok()) return InfrastructureFailure("TRAINER_NOT_STARTED", started.status(), 0);
  process_ = *std::move(started);
  uploads_ = std::make_unique<CheckpointUploads>(link_, id_, [this](const absl::Status& status) {
    v1::Event event;
    event.mutable_time()->set_seconds(clock_.WallMicros() / 1'000'000);
    event.mutable_warning()->set_reason("CHECKPOINT_NOT_SAVED");
    event.mutable_warning()->set_message(
        absl::StrCat("a checkpoint could not be saved: ", status.message()));
    state_.AddEvent(id_, event);
  });
  last_beat_ = clock_.BootMicros();
  internal::ToTrainer first;
  *first.mutable_run() = run;
  Send(first);
  state_.SetRunning(id_);
  std::thread reader([this, socket = process_->socket()] { ReadFrames(socket); });

  while (true) {
    internal::FromTrainer frame;
    bool got = false;
    bool at_end = false;
    {
      MutexLock lock(mutex_);
      // An order that has not been passed on must not wait for a frame.
      if (frames_.empty() && !frames_ended_ && Rank(ordered_) <= Rank(sent_))
        changed_.WaitFor(mutex_, kLookSeconds);
      if (!frames_.empty()) {
        frame = std::move(frames_.front());
        frames_.pop_front();
        got = true;
        changed_.SignalAll();
      } else {
        at_end = frames_ended_;
      }
    }
    if (at_end) break;
    if (got && why_killed_.empty() && !Handle(frame)) Kill(why_killed_);
    SendOrders();
    HoldWhileSilent();
    const double silent = static_cast<double>(clock_.BootMicros() - last_beat_) * 1e-6;
    const double allowed = std::max(options_.hang_seconds, 20 * median_step_seconds_);
    if (why_killed_.empty() && !ended_ && !holding_ && silent > allowed) {
      // A core dump, where the host keeps them, shows where it hangs.
      process_->Signal(SIGABRT);
      int unused = 0;
      if (!process_->WaitFor(options_.stop_seconds, &unused)) process_->Signal(SIGKILL);
      Kill(absl::StrCat("no sign of life for ", static_cast<int64_t>(silent), " s"));
    }
  }
  int wait_status = 0;
  if (!process_->WaitFor(options_.stop_seconds, &wait_status)) {
    Kill("it closed its socket but did not end");
    process_->WaitFor(options_.stop_seconds, &wait_status);
  }
  reader.join();
  return AfterExit(wait_status, memory_kills);
}

void AttemptRun::ReadFrames(int socket) {
  while (true) {
    internal::FromTrainer frame;
    const absl::StatusOr<bool> more = ReadFrame(socket, &frame);
    MutexLock lock(mutex_);
    if (!more.ok() || !*more) {
      frames_ended_ = true;
      frames_status_ = more.status();
      changed_.SignalAll();
      return;
    }
    frames_.push_back(std::move(frame));
    changed_.SignalAll();
    while (frames_.size() >= kMostFramesWaiting) changed_.Wait(mutex_);
  }
}

bool AttemptRun::Handle(internal::FromTrainer& frame) {
  last_beat_ = clock_.BootMicros();
  switch (frame.frame_case()) {
    case internal::FromTrainer::kBeat: {
      v1::Progress& progress = *frame.mutable_beat()->mutable_progress();
      EventFilter::Clean(&progress);
      median_step_seconds_ = std::clamp(frame.beat().median_step_seconds(), 0.0, 3600.0);
      last_step_ = std::max(last_step_, progress.step());
      state_.SetProgress(id_, progress);
      return true;
    }
    case internal::FromTrainer::kEvent: {
      const absl::Status status = filter_.Check(frame.mutable_event());
      if (!status.ok()) {
        why_killed_ = absl::StrCat("it sent what no trainer sends: ", status.message());
        return false;
      }
      if (!state_.AddEvent(id_, frame.event())) {
        why_killed_ = "it sent more events than can be kept";
        return false;
      }
      return true;
    }
    case internal::FromTrainer::kCheckpointReady: {
      const internal::CheckpointReady& ready = frame.checkpoint_ready();
      if (!IsSafeRelativePath(ready.dir())) {
        why_killed_ = "it named a checkpoint outside its work directory";
        return false;
      }
      uploads_->Add(ready, absl::StrCat(directory_, "/work/", ready.dir()));
      return true;
    }
    case internal::FromTrainer::kEnded:
      if (!frame.ended().result_dir().empty() && !IsSafeRelativePath(frame.ended().result_dir())) {
        why_killed_ = "it named a result outside its work directory";
        return false;
      }
      ended_ = frame.ended();
      return true;
    case internal::FromTrainer::FRAME_NOT_SET:
      break;
  }
  why_killed_ = "it sent a frame without content";
  return false;
}

void AttemptRun::Send(const internal::ToTrainer& frame) {
  // A trainer that is gone shows at the other end of the socket.
  WriteFrame(process_->socket(), frame).IgnoreError();
}

void AttemptRun::SendOrders() {
  const Verdict ordered = Ordered();
  if (Rank(ordered) > Rank(sent_)) {
    sent_ = ordered;
    stop_sent_ = clock_.BootMicros();
    internal::ToTrainer frame;
    if (Rank(ordered) >= Rank(v1::DesiredAttempt::STOP)) {
      frame.mutable_stop();
    } else {
      frame.mutable_pause();
    }
    Send(frame);
  }
  const bool stopping = Rank(sent_) >= Rank(v1::DesiredAttempt::STOP);
  const double since = static_cast<double>(clock_.BootMicros() - stop_sent_) * 1e-6;
  if (stopping && !ended_ && why_killed_.empty() && since > options_.stop_seconds)
    Kill("it did not stop when asked to");
}

void AttemptRun::HoldWhileSilent() {
  if (ended_ || sent_ != v1::DesiredAttempt::RUN) return;
  const bool expired = state_.LeaseExpired();
  if (expired == holding_) {
    if (holding_ && state_.SilentSeconds() > options_.hold_seconds && why_killed_.empty()) {
      Kill("the server has been out of reach for too long");
    }
    return;
  }
  holding_ = expired;
  last_beat_ = clock_.BootMicros();
  internal::ToTrainer frame;
  if (expired) {
    THAW_LOG(kWarning, "lease_expired", {"attempt_id", id_},
             {"silent_seconds", state_.SilentSeconds()});
    frame.mutable_hold();
  } else {
    frame.mutable_resume();
  }
  Send(frame);
}

void AttemptRun::Kill(const std::string& why) {
  if (why_killed_.empty()) why_killed_ = why;
  process_->Signal(SIGKILL);
}

v1::AttemptEnd AttemptRun::AfterExit(int wait_status, int64_t memory_kills_before) {
  if (Rank(sent_) >= Rank(v1::DesiredAttempt::STOP))
    return EndAs(v1::AttemptEnd::STOPPED, last_step_);
  {
    MutexLock lock(mutex_);
    if (!frames_status_.ok() && why_killed_.empty() && !ended_ &&
        absl::IsDataLoss(frames_status_)) {
      why_killed_ = absl::StrCat("it sent what no trainer sends: ", frames_status_.message());
    }
  }
  if (!ended_ || !why_killed_.empty()) {
    return BlameForExit({.wait_status = wait_status,
                         .killed_by_worker = !why_killed_.empty(),
                         .why_killed = why_killed_,
                         .kernel_killed_for_memory =
                             WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL &&
                             why_killed_.empty() && KernelMemoryKills() > memory_kills_before,
                         .last_step = last_step_,
                         .output_tail = TailOf(log_file())});
  }
  const absl::Status saved = uploads_->Drain([this] { return StopOrdered(); });
  switch (ended_->end().outcome()) {
    case v1::AttemptEnd::SUCCEEDED:
      return FinishResult();
    case v1::AttemptEnd::PAUSED:
      if (!saved.ok()) return InfrastructureFailure("CHECKPOINT_NOT_SAVED", saved, last_step_);
      return EndAs(
          sent_ == v1::DesiredAttempt::PAUSE ? v1::AttemptEnd::PAUSED : v1::AttemptEnd::HANDED_BACK,
          ended_->end().step());
    default:
      return ended_->end();
  }
}

v1::AttemptEnd AttemptRun::FinishResult() {
  const int64_t step = ended_->end().step();
  // Nothing follows the terminal event, so everything that goes before it must be committed.
  while (!state_.WaitAcknowledged(id_, kLookSeconds)) {
    if (StopOrdered()) return EndAs(v1::AttemptEnd::STOPPED, step);
  }
  v1::FinishUploadRequest finish;
  *finish.mutable_result()->mutable_metrics() = ended_->metrics();
  const std::string result = absl::StrCat(directory_, "/work/", ended_->result_dir());
  while (true) {
    const absl::Status status =
        link_.Publish(id_, result, finish, [this] { return StopOrdered(); });
    if (status.ok()) return EndAs(v1::AttemptEnd::SUCCEEDED, step);
    if (StopOrdered() || ReasonOf(status) == "JOB_CANCELLED")
      return EndAs(v1::AttemptEnd::STOPPED, step);
    if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status) &&
        !absl::IsAborted(status)) {
      return InfrastructureFailure("RESULT_NOT_SAVED", status, step);
    }
    // A finished result is worth waiting for, as long as the attempt is ours.
    MutexLock lock(mutex_);
    changed_.WaitFor(mutex_, 1);
  }
}

}  // namespace thaw
