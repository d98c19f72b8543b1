#include "worker/agent/attempt_run.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clean_text.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"
#include "common/frames/frame.h"
#include "worker/agent/attempt_inputs.h"
#include "worker/agent/exit_blame.h"

namespace thaw {
namespace {

using Verdict = v1::DesiredAttempt::Verdict;

// Frames that may wait before the trainer has to.
constexpr size_t kMostFramesWaiting = 256;
// How often deadlines (hang, lease, stop) are looked at when nothing happens.
constexpr double kLookSeconds = 0.25;
constexpr int64_t kTailBytes = 4 << 10;
// The server keeps 8 MiB of it; a disk should not be filled with the rest.
constexpr int64_t kMostOutputBytes = int64_t{64} << 20;

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
  end.mutable_failure()->set_message(CleanText(status.message(), 2000));
  end.mutable_failure()->set_incident(LogIncident(reason, status.ToString()));
  end.mutable_failure()->set_step(step);
  return end;
}

int64_t SizeOf(const std::string& file) {
  struct stat info {};
  return stat(file.c_str(), &info) == 0 ? static_cast<int64_t>(info.st_size) : 0;
}

std::string TailOf(const std::string& file) {
  const UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  std::string tail(kTailBytes, '\0');
  const ssize_t count = fd.valid() ? pread(fd.get(), tail.data(), tail.size(),
                                           std::max<int64_t>(SizeOf(file) - kTailBytes, 0))
                                   : 0;
  tail.resize(count > 0 ? static_cast<size_t>(count) : 0);
  return tail;
}

}  // namespace

AttemptRun::AttemptRun(const v1::Assignment& assignment, const AttemptOptions& options,
                       SyncState& state, ArtifactCache& cache, TrainerPool& trainers,
                       ServerLink& link, const Clock& clock)
    : assignment_(assignment),
      id_(assignment.attempt_id()),
      options_(options),
      directory_(absl::StrCat(options.attempts_dir, "/", assignment.attempt_id())),
      work_dir_(directory_ + "/work"),
      state_(state),
      cache_(cache),
      trainers_(trainers),
      link_(link),
      clock_(clock),
      warm_key_(trainers.wants_warm() ? WarmKeyOf(assignment, options.threads) : ""),
      filter_(clock) {
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

void AttemptRun::Steer(const google::protobuf::RepeatedPtrField<v1::SteeringRecord>& steerings) {
  MutexLock lock(mutex_);
  for (const v1::SteeringRecord& record : steerings) {
    if (!steerings_.empty() && record.number() <= steerings_.back().number()) continue;
    steerings_.push_back(record);
  }
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
  if (const Verdict ordered = Ordered(); Rank(ordered) > 0) {
    // Nothing has run, so there is nothing to save.
    end = EndAs(StopOrdered()                          ? v1::AttemptEnd::STOPPED
                : ordered == v1::DesiredAttempt::PAUSE ? v1::AttemptEnd::PAUSED
                                                       : v1::AttemptEnd::HANDED_BACK,
                0);
  } else if (!run.ok()) {
    end = InfrastructureFailure("INPUTS_NOT_FETCHED", run.status(), 0);
  } else {
    end = Supervise(*std::move(run));
  }
  uploads_.reset();
  // Before the end is told, which may bring the next one at once.
  if (end.outcome() == v1::AttemptEnd::SUCCEEDED && TrainerWaits()) {
    trainers_.KeepWarm(warm_key_, std::move(process_), memory_bytes_);
  }
  process_.reset();
  pins_.clear();
  if (end.failure().blame() == v1::Failure::INTERNAL && end.failure().incident().empty()) {
    end.mutable_failure()->set_incident(LogIncident(
        end.failure().reason(), absl::StrCat("attempt ", id_, ": ", end.failure().message(),
                                             "; its output ends with: ", TailOf(log_file()))));
  }
  THAW_LOG(kInfo, "attempt_ended", {"job", assignment_.job()}, {"attempt_id", id_},
           {"outcome", v1::AttemptEnd::Outcome_Name(end.outcome())}, {"step", end.step()},
           {"reason", end.failure().reason()});
  state_.End(id_, end);
  done_ = true;
}

absl::StatusOr<internal::Run> AttemptRun::Prepare() {
  THAW_RETURN_IF_ERROR(RemoveTree(directory_));
  THAW_RETURN_IF_ERROR(MakeDirectories(work_dir_, 0700));
  THAW_ASSIGN_OR_RETURN(AttemptInputs inputs, BringInputs(assignment_, cache_, link_,
                                                          [this] { return Rank(Ordered()) > 0; }));
  pins_ = std::move(inputs.pins);
  inputs.run.set_work_dir(work_dir_);
  inputs.run.set_threads(options_.threads);
  inputs.run.set_warm_key(warm_key_);
  return std::move(inputs.run);
}

v1::AttemptEnd AttemptRun::Supervise(internal::Run run) {
  const int64_t memory_kills = KernelMemoryKills();
  const auto start = [&]() -> absl::Status {
    auto started = trainers_.Start({.program = options_.trainer,
                                    .work_dir = run.work_dir(),
                                    .log_file = log_file(),
                                    .threads = options_.threads});
    if (started.ok()) process_ = *std::move(started);
    return started.status();
  };
  uploads_ = std::make_unique<CheckpointUploads>(link_, id_, [this](const absl::Status& status) {
    v1::Event event;
    event.mutable_time()->set_seconds(clock_.WallMicros() / 1'000'000);
    event.mutable_warning()->set_reason("CHECKPOINT_NOT_SAVED");
    event.mutable_warning()->set_message(
        absl::StrCat("a checkpoint could not be saved: ", status.message()));
    state_.AddEvent(id_, event);
  });
  process_ = trainers_.Take(warm_key_);
  int wait_status = 0;
  if (process_ != nullptr) {
    run.set_log_file(log_file());
    wait_status = RunOnTrainer(run);
    run.clear_log_file();
  }
  // One that has waited may be gone by now, which is nobody's fault: another one does the work.
  if (process_ == nullptr || (!heard_ && !StopOrdered() && !held_in_vain_)) {
    process_.reset();
    why_killed_.clear();
    if (const absl::Status status = start(); !status.ok()) {
      return InfrastructureFailure("TRAINER_NOT_STARTED", status, 0);
    }
    wait_status = RunOnTrainer(run);
  }
  return AfterExit(wait_status, memory_kills);
}

int AttemptRun::RunOnTrainer(const internal::Run& run) {
  sent_ = v1::DesiredAttempt::RUN;
  holding_ = false;
  {
    MutexLock lock(mutex_);
    frames_.clear();
    steerings_sent_ = 0;
    frames_ended_ = false;
    frames_status_ = absl::OkStatus();
  }
  watch_ = std::make_unique<TrainerWatch>(options_.patience, clock_.BootMicros());
  internal::ToTrainer first;
  *first.mutable_run() = run;
  Send(first);
  state_.SetRunning(id_);
  std::thread reader([this, socket = process_->socket()] { ReadFrames(socket); });
  WatchTrainer();
  int wait_status = 0;
  if (!TrainerWaits() && !process_->WaitFor(options_.patience.stop_seconds, &wait_status)) {
    Kill(ended_ ? "" : "it closed its socket but did not end");
    while (!process_->WaitFor(1, &wait_status)) process_->Signal(SIGKILL);
  }
  reader.join();
  return wait_status;
}

bool AttemptRun::TrainerWaits() const {
  return ended_ && ended_->waits() && why_killed_.empty() && !warm_key_.empty() &&
         ended_->end().outcome() == v1::AttemptEnd::SUCCEEDED;
}

std::optional<internal::FromTrainer> AttemptRun::NextFrame(bool* at_end) {
  MutexLock lock(mutex_);
  // An order that has not been passed on must not wait for a frame.
  if (frames_.empty() && !frames_ended_ && Rank(ordered_) <= Rank(sent_) &&
      steerings_sent_ == steerings_.size()) {
    changed_.WaitFor(mutex_, kLookSeconds);
  }
  *at_end = frames_.empty() && frames_ended_;
  if (frames_.empty()) return std::nullopt;
  std::optional<internal::FromTrainer> frame = std::move(frames_.front());
  frames_.pop_front();
  changed_.SignalAll();
  return frame;
}

void AttemptRun::WatchTrainer() {
  bool at_end = false;
  while (true) {
    std::optional<internal::FromTrainer> frame = NextFrame(&at_end);
    if (at_end) break;
    // Nothing follows its last word, and nothing that a liar says counts.
    if (frame && !ended_ && why_killed_.empty()) {
      if (const absl::Status status = Handle(*frame); !status.ok()) Kill(status.message());
    }
    SendOrders();
    SendSteerings();
    HoldWhileSilent();
    CheckOutput();
    if (const auto measure = watch_->Due(clock_.BootMicros())) {
      if (why_killed_.empty()) why_killed_ = measure->why;
      held_in_vain_ = held_in_vain_ || measure->hand_back;
      process_->Signal(measure->signal);
    }
  }
  MutexLock lock(mutex_);
  if (frames_status_.ok() || ended_ || held_in_vain_) return;
  Kill(absl::StrCat("it sent what no trainer sends: ", frames_status_.message()));
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
    // Nothing more comes from one that waits, and its socket stays open.
    if (frame.ended().waits() && !warm_key_.empty()) frames_ended_ = true;
    frames_.push_back(std::move(frame));
    changed_.SignalAll();
    if (frames_ended_) return;
    while (frames_.size() >= kMostFramesWaiting) changed_.Wait(mutex_);
  }
}

absl::Status AttemptRun::Handle(internal::FromTrainer& frame) {
  watch_->SignOfLife(clock_.BootMicros());
  heard_ = true;
  switch (frame.frame_case()) {
    case internal::FromTrainer::kBeat: {
      v1::Progress& progress = *frame.mutable_beat()->mutable_progress();
      if (const absl::Status status = filter_.Check(&progress); !status.ok()) {
        return Annotate(status, "it sent what no trainer sends");
      }
      watch_->SetMedianStep(frame.beat().median_step_seconds());
      memory_bytes_ = progress.memory_bytes();
      state_.SetProgress(id_, progress);
      return absl::OkStatus();
    }
    case internal::FromTrainer::kEvent: {
      if (const absl::Status status = filter_.Check(frame.mutable_event()); !status.ok()) {
        return Annotate(status, "it sent what no trainer sends");
      }
      if (frame.event().kind_case() == v1::Event::KIND_NOT_SET) return absl::OkStatus();
      if (!state_.AddEvent(id_, frame.event())) {
        return absl::ResourceExhaustedError("it sent more events than can be kept");
      }
      return absl::OkStatus();
    }
    case internal::FromTrainer::kCheckpointReady:
      return HandleCheckpoint(frame.checkpoint_ready());
    case internal::FromTrainer::kEnded:
      ended_ = frame.ended();
      watch_->Ended(clock_.BootMicros());
      return absl::OkStatus();
    case internal::FromTrainer::FRAME_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("it sent a frame without content");
}

absl::Status AttemptRun::HandleCheckpoint(const internal::CheckpointReady& ready) {
  if (!IsSafeRelativePath(ready.dir())) {
    return absl::InvalidArgumentError("it named a checkpoint outside its work directory");
  }
  const std::string directory = absl::StrCat(work_dir_, "/", ready.dir());
  const auto files = ListFiles(directory);
  if (!files.ok() || files->empty()) {
    return absl::InvalidArgumentError("it named a checkpoint that is not there");
  }
  // What was reported up to it must not be lost with this worker: the next attempt goes on after
  // it.
  uploads_->Add(ready, directory, [this, reported = state_.LastSequence(id_)] {
    return state_.WaitAcknowledged(id_, reported, kLookSeconds);
  });
  return absl::OkStatus();
}

void AttemptRun::Send(const internal::ToTrainer& frame) {
  const absl::Status status = WriteFrame(process_->socket(), frame);
  // One that is gone shows at the other end of the socket.
  if (!status.ok() && !absl::IsUnavailable(status)) Kill("it does not read what it is told");
}

void AttemptRun::SendOrders() {
  const Verdict ordered = Ordered();
  if (Rank(ordered) <= Rank(sent_)) return;
  sent_ = ordered;
  internal::ToTrainer frame;
  switch (ordered) {
    case v1::DesiredAttempt::FORGET:
      process_->Signal(SIGKILL);
      return;
    case v1::DesiredAttempt::STOP:
      frame.mutable_stop();
      watch_->StopAsked(clock_.BootMicros());
      break;
    default:
      frame.mutable_pause();
  }
  Send(frame);
}

void AttemptRun::SendSteerings() {
  std::vector<v1::SteeringRecord> unsent;
  {
    MutexLock lock(mutex_);
    unsent.assign(steerings_.begin() + static_cast<std::ptrdiff_t>(steerings_sent_),
                  steerings_.end());
    steerings_sent_ = steerings_.size();
  }
  // One that ends does nothing more: what is left is the next attempt's.
  if (ended_ || sent_ != v1::DesiredAttempt::RUN) return;
  for (const v1::SteeringRecord& record : unsent) {
    internal::ToTrainer frame;
    *frame.mutable_steer() = record;
    Send(frame);
  }
}

void AttemptRun::HoldWhileSilent() {
  // Asked to end, it does, and waits for nothing.
  if (ended_ || sent_ != v1::DesiredAttempt::RUN) return;
  const bool expired = state_.LeaseExpired();
  if (expired == holding_) return;
  holding_ = expired;
  watch_->SetHeld(expired, clock_.BootMicros());
  THAW_LOG(kWarning, expired ? "lease_expired" : "lease_regained", {"attempt_id", id_},
           {"silent_seconds", state_.SilentSeconds()});
  internal::ToTrainer frame;
  if (expired) {
    frame.mutable_write_checkpoint();
    Send(frame);
    frame.mutable_hold();
  } else {
    frame.mutable_resume();
  }
  Send(frame);
}

void AttemptRun::CheckOutput() {
  const int64_t now = clock_.BootMicros();
  if (now - output_checked_ < 1'000'000) return;
  output_checked_ = now;
  if (SizeOf(log_file()) > kMostOutputBytes) Kill("it wrote more than 64 MiB of output");
}

void AttemptRun::Kill(absl::string_view why) {
  if (why_killed_.empty()) why_killed_ = std::string(why);
  process_->Signal(SIGKILL);
}

v1::AttemptEnd AttemptRun::AfterExit(int wait_status, int64_t memory_kills_before) {
  if (StopOrdered()) return EndAs(v1::AttemptEnd::STOPPED, filter_.step());
  if (held_in_vain_) return EndAs(v1::AttemptEnd::HANDED_BACK, filter_.step());
  // Also after a crash: the next attempt should lose no more than it must.
  const absl::Status saved = uploads_->Drain([this] { return StopOrdered(); });
  if (!ended_ || !why_killed_.empty()) {
    const bool killed = WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL;
    return BlameForExit(
        {.wait_status = wait_status,
         .why_killed = why_killed_,
         .kernel_killed_for_memory = killed && KernelMemoryKills() > memory_kills_before,
         .last_step = filter_.step(),
         .output_tail = TailOf(log_file())});
  }
  v1::AttemptEnd end = EndAsSaid(*ended_, Rank(sent_) > 0, filter_.step());
  if (end.outcome() == v1::AttemptEnd::SUCCEEDED) return PublishResult();
  if (end.outcome() == v1::AttemptEnd::PAUSED) {
    if (!saved.ok()) return InfrastructureFailure("CHECKPOINT_NOT_SAVED", saved, end.step());
    if (sent_ != v1::DesiredAttempt::PAUSE) end.set_outcome(v1::AttemptEnd::HANDED_BACK);
  }
  return end;
}

v1::AttemptEnd AttemptRun::PublishResult() {
  const int64_t step = filter_.step();
  const std::string& name = ended_->result_dir();
  const std::string directory = absl::StrCat(work_dir_, "/", name);
  if (!IsSafeRelativePath(name)) {
    return BlameForLie("it named a result outside its work directory", step);
  }
  if (const auto files = ListFiles(directory); !files.ok() || files->empty()) {
    return BlameForLie("it named a result that is not there", step);
  }
  v1::FinishUploadRequest finish;
  for (const auto& [metric, value] : ended_->metrics()) {
    if (!std::isfinite(value)) {
      return BlameForLie("it gave its result a figure that is not finite", step);
    }
    (*finish.mutable_result()->mutable_metrics())[CleanText(metric, 64)] = value;
  }
  finish.mutable_result();
  // Nothing follows the terminal event, so everything that goes before it must be committed.
  while (!state_.WaitAcknowledged(id_, state_.LastSequence(id_), kLookSeconds)) {
    if (StopOrdered()) return EndAs(v1::AttemptEnd::STOPPED, step);
  }
  const absl::Status status =
      link_.Publish(id_, directory, finish, [this] { return StopOrdered(); });
  if (status.ok()) return EndAs(v1::AttemptEnd::SUCCEEDED, step);
  if (StopOrdered() || ReasonOf(status) == "JOB_CANCELLED") {
    return EndAs(v1::AttemptEnd::STOPPED, step);
  }
  if (absl::IsInvalidArgument(status)) {
    return BlameForLie(absl::StrCat("its result cannot be taken: ", status.message()), step);
  }
  return InfrastructureFailure("RESULT_NOT_SAVED", status, step);
}

}  // namespace thaw
