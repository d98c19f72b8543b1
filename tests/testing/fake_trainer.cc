// thaw-fake-trainer: speaks thaw-trainer's frames, but trains nothing and misbehaves on demand.
//
// The job's label "fake" holds words joined by '.'. Where: "crash", "exit", "hang" or "oom", then
// "-at-<step>"; with
// "-once" between, only in the first attempt; "oom-at" only until the micro-step has been halved,
// "oom-always-at" ever. "crash-each" crashes three steps after the attempt's beginning. Lies:
// "lie-frame" (bytes that are no frame), "lie-huge" (a frame's length beyond all bounds),
// "lie-nan", "lie-steps" (progress that jumps and goes back), "lie-path" (a checkpoint outside its
// directory), "lie-result" (a result that is not there), "lie-event" (an event that only the server
// may write). Others: "slow" (50 ms a step), "crawl" (20 ms a step), "flood" (events and output
// without measure), "deaf" (ignores Pause, Stop and Hold), "fail-user", "ok". After a prediction it
// waits for another one where it is asked to; with "die-warm" it ends while it waits, with
// "lie-warm" it says that it waits and ends at once.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/clock.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/frames/frame.h"
#include "thaw/internal/trainer.pb.h"

namespace thaw {
namespace {

constexpr int64_t kTokensPerStep = 512;

// The words of the label.
class Script {
 public:
  explicit Script(const v1::Assignment& assignment) : attempt_(assignment.attempt()) {
    const auto label = assignment.spec().labels().find("fake");
    if (label == assignment.spec().labels().end()) return;
    for (absl::string_view word : absl::StrSplit(label->second, '.')) words_.emplace(word);
  }

  bool Has(const std::string& word) const { return words_.count(word) > 0; }

  // Whether "<kind>-at-<step>" or, in the first attempt, "<kind>-once-at-<step>" is there.
  bool Strikes(const std::string& kind, int64_t step) const {
    return Has(absl::StrCat(kind, "-at-", step)) ||
           (attempt_ == 1 && Has(absl::StrCat(kind, "-once-at-", step)));
  }

 private:
  const int32_t attempt_;
  std::set<std::string> words_;
};

// What the worker has asked for, set by the reading thread.
class Requests {
 public:
  void Note(const internal::ToTrainer& frame) {
    const internal::ToTrainer::FrameCase kind = frame.frame_case();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (kind == internal::ToTrainer::kRun) {
      runs_.push_back(frame.run());
      pause_ = stop_ = hold_ = checkpoint_ = false;
      steerings_.clear();
      for (const v1::SteeringRecord& record : frame.run().assignment().steerings()) {
        steerings_.emplace(record.number(), record);
      }
    }
    if (kind == internal::ToTrainer::kSteer) {
      steerings_.emplace(frame.steer().number(), frame.steer());
    }
    if (kind == internal::ToTrainer::kPause) pause_ = true;
    if (kind == internal::ToTrainer::kStop) stop_ = true;
    if (kind == internal::ToTrainer::kWriteCheckpoint) checkpoint_ = true;
    if (kind == internal::ToTrainer::kHold) hold_ = true;
    if (kind == internal::ToTrainer::kResume) hold_ = false;
    changed_.notify_all();
  }

  // Waits for an attempt.
  internal::Run NextRun() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return !runs_.empty(); });
    internal::Run run = std::move(runs_.front());
    runs_.pop_front();
    return run;
  }

  // Waits out a Hold, telling `beat` every 100 ms, unless Pause or Stop came.
  template <typename Beat>
  void WaitWhileHeld(const Beat& beat) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (hold_ && !pause_ && !stop_) {
      changed_.wait_for(lock, std::chrono::milliseconds(100));
      beat();
    }
  }
  // What was asked for by this number.
  std::optional<v1::SteeringRecord> Steering(int32_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = steerings_.find(number);
    if (found == steerings_.end()) return std::nullopt;
    return found->second;
  }
  bool pause() { return Get(pause_); }
  bool stop() { return Get(stop_); }
  bool TakeCheckpoint() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(checkpoint_, false);
  }

 private:
  bool Get(const bool& flag) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return flag;
  }
  std::deque<internal::Run> runs_;
  std::map<int32_t, v1::SteeringRecord> steerings_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool pause_ = false, stop_ = false, hold_ = false, checkpoint_ = false;
};

void Require(const absl::Status& status) {
  if (status.ok()) return;
  THAW_LOG(kError, "fake_trainer_failed", {"error", status.ToString()});
  std::_Exit(3);
}

// A little-endian float per value behind a header: a whole safetensors file.
std::string SmallSafetensors(const std::vector<float>& values) {
  const nlohmann::json header = {{"classifier.bias",
                                  {{"dtype", "F32"},
                                   {"shape", {values.size()}},
                                   {"data_offsets", {0, values.size() * sizeof(float)}}}}};
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof(length));
  bytes += text;
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return bytes;
}

void AddValue(v1::MetricPoint* point, const char* name, double value) {
  point->add_values()->set_name(name);
  point->mutable_values()->rbegin()->set_value(value);
}

// The loss after so many steps; anyone can tell from it whether a series is whole.
double LossAt(int64_t step) { return 2.0 / (1.0 + 0.1 * static_cast<double>(step)); }

class FakeTraining {
 public:
  // `earlier`: attempts that this process has run.
  FakeTraining(int socket, const internal::Run& run, int earlier, Requests* requests)
      : socket_(socket),
        earlier_(earlier),
        run_(run),
        spec_(run.assignment().spec()),
        script_(run.assignment()),
        requests_(requests),
        start_micros_(RealClock().BootMicros()) {
    for (const v1::Phase& phase : spec_.training().phases()) {
      phase_steps_.push_back(StepsOf(phase));
      total_steps_ += phase_steps_.back();
    }
    if (spec_.has_prediction()) phase_steps_.push_back(total_steps_ = 20);
  }

  internal::Ended Run() {
    if (script_.Has("fail-user")) return Failed(v1::Failure::USER, "FAKE_REFUSED", 0);
    step_ = first_step_ = OfCheckpoint("step");
    steering_ = static_cast<int32_t>(OfCheckpoint("steering"));
    if (script_.Has("flood")) Flood();
    int64_t before = 0;
    for (size_t index = 0; index < phase_steps_.size(); ++index) {
      const int64_t end = before + phase_steps_[index];
      phase_ = static_cast<int>(index) + 1;
      if (step_ < end) {
        StartPhase(before, end);
        while (step_ < end) {
          if (auto ended = AtBoundary()) return *ended;
          if (auto ended = Step(end)) return *ended;
        }
        Evaluate();
        if (spec_.has_training()) Checkpoint();
      }
      before = end;
    }
    return Succeeded();
  }

 private:
  int64_t StepsOf(const v1::Phase& phase) const {
    if (phase.has_steps()) return phase.steps();
    const double rows = static_cast<double>(run_.assignment().dataset().dataset().rows());
    const double epochs = phase.has_plateau() ? phase.plateau().max_epochs() : phase.epochs();
    const int examples = std::max(1, spec_.training().batch().examples_per_step());
    return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(epochs * rows / examples)));
  }

  int64_t OfCheckpoint(const char* field) {
    if (run_.checkpoint_dir().empty()) return 0;
    const auto saved = ReadJsonFile(run_.checkpoint_dir() + "/checkpoint.json");
    Require(saved.status());
    return (*saved)[field].get<int64_t>();
  }

  void Send(const internal::FromTrainer& frame) { Require(WriteFrame(socket_, frame)); }

  void Emit(v1::Event event) {
    const int64_t micros = RealClock().WallMicros();
    event.mutable_time()->set_seconds(micros / 1'000'000);
    event.mutable_time()->set_nanos(static_cast<int32_t>(micros % 1'000'000 * 1000));
    internal::FromTrainer frame;
    *frame.mutable_event() = std::move(event);
    Send(frame);
  }

  double StepSeconds() const {
    return script_.Has("slow") ? 0.05 : script_.Has("crawl") ? 0.02 : 0;
  }

  void Beat() {
    const double steps = static_cast<double>(step_);
    internal::FromTrainer frame;
    v1::Progress* progress = frame.mutable_beat()->mutable_progress();
    progress->set_step(step_);
    progress->set_total_steps(total_steps_);
    progress->set_phase(phase_);
    progress->set_phase_count(static_cast<int32_t>(phase_steps_.size()));
    progress->set_phase_name(PhaseName());
    progress->set_epoch(steps / std::max(1.0, static_cast<double>(phase_steps_[0])));
    progress->set_loss(LossAt(step_));
    if (evaluations_ > 0) {
      progress->set_metric(1 - LossAt(step_) / 2);
      progress->set_best_metric(1 - LossAt(step_) / 2);
    }
    progress->set_metric_name("accuracy");
    progress->set_learning_rate(1e-4);
    const double seconds = std::max(1e-3, StepSeconds());
    progress->set_tokens_per_second(kTokensPerStep / seconds);
    progress->set_eta_seconds(static_cast<double>(total_steps_ - step_) * seconds);
    progress->set_memory_bytes(64 << 20);
    progress->set_trainable_share(0.25);
    if (spec_.has_prediction()) {
      progress->set_rows_done(step_);
      progress->set_rows_total(total_steps_);
    }
    if (script_.Has("lie-nan")) {
      progress->set_loss(std::numeric_limits<double>::quiet_NaN());
      progress->set_eta_seconds(-std::numeric_limits<double>::infinity());
    }
    if (script_.Has("lie-steps")) {
      progress->set_step(step_ % 2 == 0 ? -step_ : std::numeric_limits<int64_t>::max());
      progress->set_phase(-7);
    }
    frame.mutable_beat()->set_median_step_seconds(StepSeconds());
    Send(frame);
  }

  std::string PhaseName() const {
    return spec_.has_training() ? spec_.training().phases(phase_ - 1).name() : "predict";
  }

  void StartPhase(int64_t before, int64_t end) {
    v1::Event event;
    v1::PhaseStart* start = event.mutable_phase_start();
    start->set_phase(phase_);
    start->set_name(PhaseName());
    start->set_step(before);
    start->set_steps(end - before);
    start->add_trainable_names("classifier.bias");
    start->set_trainable_parameters(2);
    start->set_total_parameters(8);
    start->add_rates()->set_group("head");
    start->mutable_rates(0)->set_learning_rate(1e-4);
    Emit(std::move(event));
  }

  // What the worker asked for, done between two steps.
  std::optional<internal::Ended> AtBoundary() {
    if (script_.Has("deaf")) return std::nullopt;
    requests_->WaitWhileHeld([this] { Beat(); });
    if (requests_->stop()) return EndedAs(v1::AttemptEnd::STOPPED);
    if (requests_->pause() && !script_.Has("linger")) {
      if (spec_.has_training()) Checkpoint();
      return EndedAs(v1::AttemptEnd::PAUSED);
    }
    if (requests_->TakeCheckpoint() && spec_.has_training()) Checkpoint();
    return Steer();
  }

  // Of what is asked for it does checkpoints and stops, in order and after the step at which an
  // attempt before has done them, and tells of all.
  std::optional<internal::Ended> Steer() {
    while (const auto next = requests_->Steering(steering_ + 1)) {
      if (step_ == 0 || (next->applied() && step_ < next->step())) return std::nullopt;
      ++steering_;
      if (!next->applied()) {
        v1::Event event;
        *event.mutable_steering_applied() = *next;
        event.mutable_steering_applied()->set_step(step_);
        Emit(std::move(event));
      }
      if (next->action().has_checkpoint()) Checkpoint();
      if (next->action().has_stop()) return Succeeded();
    }
    return std::nullopt;
  }

  std::optional<internal::Ended> Step(int64_t phase_end) {
    std::this_thread::sleep_for(std::chrono::duration<double>(StepSeconds()));
    ++step_;
    Beat();
    if (script_.Strikes("crash", step_)) raise(SIGSEGV);
    if (script_.Has("crash-each") && step_ == first_step_ + 3) raise(SIGSEGV);
    if (script_.Strikes("exit", step_)) std::_Exit(7);
    if (script_.Strikes("hang", step_)) {
      while (true) pause();
    }
    if ((script_.Strikes("oom", step_) && run_.assignment().micro_step_divisor() <= 1) ||
        script_.Has(absl::StrCat("oom-always-at-", step_))) {
      return OutOfMemory();
    }
    Lie();
    v1::Event event;
    v1::MetricPoint* point = event.mutable_metric_points()->add_points();
    point->set_step(step_);
    point->set_phase(phase_);
    point->set_seconds(static_cast<double>(RealClock().BootMicros() - start_micros_) * 1e-6);
    AddValue(point, "loss", script_.Has("lie-nan") ? std::nan("") : LossAt(step_));
    AddValue(point, "learning_rate", 1e-4);
    AddValue(point, "tokens_per_second", kTokensPerStep / std::max(1e-3, StepSeconds()));
    AddValue(point, "tokens", static_cast<double>(step_ * kTokensPerStep));
    Emit(std::move(event));
    const int64_t every = spec_.training().checkpoint().every_steps();
    if (every > 0 && step_ % every == 0 && step_ != phase_end) Checkpoint();
    return std::nullopt;
  }

  void Lie() {
    if (step_ != 5) return;
    if (script_.Has("lie-frame")) {
      const std::string garbage("\x08\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff", 12);
      (void)send(socket_, garbage.data(), garbage.size(), MSG_NOSIGNAL);
    }
    if (script_.Has("lie-huge")) (void)send(socket_, "\xff\xff\xff\xff", 4, MSG_NOSIGNAL);
    if (script_.Has("lie-event")) {
      v1::Event event;
      event.mutable_state_change()->set_to(v1::Job::SUCCEEDED);
      Emit(event);
      event.mutable_checkpoint_committed()->set_checkpoint("checkpoint-0000000000000000");
      Emit(event);
    }
    if (script_.Has("lie-path")) {
      internal::FromTrainer frame;
      frame.mutable_checkpoint_ready()->set_dir("../../..");
      frame.mutable_checkpoint_ready()->set_step(step_);
      Send(frame);
    }
  }

  void Flood() {
    const std::string line(4000, 'x');
    for (int i = 0; i < 5'000; ++i) {
      v1::Event event;
      event.mutable_log_line()->set_text(absl::StrCat(i, " ", line));
      Emit(std::move(event));
      if (i % 10 == 0) fprintf(stderr, "%d %s\n", i, line.c_str());
    }
  }

  void Evaluate() {
    ++evaluations_;
    v1::Event event;
    v1::EvaluationEnd* end = event.mutable_evaluation_end();
    end->set_step(step_);
    end->set_phase(phase_);
    end->set_epoch(1);
    (*end->mutable_values())["loss"] = LossAt(step_);
    (*end->mutable_values())["accuracy"] = 1 - LossAt(step_) / 2;
    end->set_best(true);
    Emit(std::move(event));
    Beat();
  }

  void Checkpoint() {
    // By a number of its own: the worker removes one when it is uploaded, while the next one of the
    // same step may be in the making.
    const std::string dir = absl::StrCat("checkpoints/", ++checkpoints_);
    const std::string path = absl::StrCat(run_.work_dir(), "/", dir);
    Require(MakeDirectories(path));
    Require(WriteFileAtomically(
        path + "/checkpoint.json",
        nlohmann::json({{"step", step_}, {"phase", phase_}, {"steering", steering_}}).dump()));
    internal::FromTrainer frame;
    frame.mutable_checkpoint_ready()->set_dir(dir);
    frame.mutable_checkpoint_ready()->set_step(step_);
    frame.mutable_checkpoint_ready()->set_phase(phase_);
    frame.mutable_checkpoint_ready()->set_best(evaluations_ > 0);
    Send(frame);
  }

  internal::Ended EndedAs(v1::AttemptEnd::Outcome outcome) const {
    internal::Ended ended;
    ended.mutable_end()->set_outcome(outcome);
    ended.mutable_end()->set_step(step_);
    return ended;
  }

  internal::Ended Failed(v1::Failure::Blame blame, const char* reason, int64_t step) const {
    internal::Ended ended = EndedAs(v1::AttemptEnd::FAILED);
    v1::Failure* failure = ended.mutable_end()->mutable_failure();
    failure->set_blame(blame);
    failure->set_reason(reason);
    failure->set_message("the fake trainer was told to fail; tell it otherwise");
    failure->set_step(step);
    return ended;
  }

  internal::Ended OutOfMemory() const {
    internal::Ended ended = Failed(v1::Failure::RESOURCE, "OUT_OF_MEMORY", step_);
    ended.mutable_end()->set_outcome(v1::AttemptEnd::OUT_OF_MEMORY);
    return ended;
  }

  internal::Ended Succeeded() {
    internal::Ended ended = EndedAs(v1::AttemptEnd::SUCCEEDED);
    ended.set_result_dir("result");
    if (script_.Has("lie-result")) return ended;
    const std::string path = run_.work_dir() + "/result";
    Require(MakeDirectories(path));
    if (spec_.has_prediction()) {
      const nlohmann::json row = {{"row", 0},
                                  {"label", "good"},
                                  {"score", 0.75},
                                  {"scores", {{"bad", 0.25}, {"good", 0.75}}},
                                  {"logits", {0.0, 1.1}}};
      Require(WriteFileAtomically(path + "/predictions.jsonl", row.dump() + "\n"));
      (*ended.mutable_metrics())["pid"] = getpid();
      (*ended.mutable_metrics())["earlier_attempts"] = earlier_;
      ended.set_waits(!run_.warm_key().empty());
      return ended;
    }
    const nlohmann::json config = {
        {"model_type", "bert"},           {"architectures", {"BertForSequenceClassification"}},
        {"num_hidden_layers", 1},         {"hidden_size", 8},
        {"max_position_embeddings", 512}, {"id2label", {{"0", "bad"}, {"1", "good"}}}};
    Require(WriteFileAtomically(path + "/config.json", config.dump()));
    const float loss = static_cast<float>(LossAt(step_));
    Require(WriteFileAtomically(path + "/model.safetensors", SmallSafetensors({loss, -loss})));
    Require(WriteFileAtomically(path + "/tokenizer.json", "{}"));
    (*ended.mutable_metrics())["loss"] = LossAt(step_);
    (*ended.mutable_metrics())["accuracy"] = 1 - LossAt(step_) / 2;
    (*ended.mutable_metrics())["micro_step_divisor"] = run_.assignment().micro_step_divisor();
    (*ended.mutable_metrics())["first_step"] = static_cast<double>(first_step_);
    return ended;
  }

  const int socket_;
  const int earlier_;
  const internal::Run& run_;
  const v1::JobSpec& spec_;
  const Script script_;
  Requests* const requests_;
  const int64_t start_micros_;
  std::vector<int64_t> phase_steps_;
  int64_t total_steps_ = 0;
  int64_t first_step_ = 0;
  int64_t step_ = 0;
  int32_t steering_ = 0;  // the newest that is done
  int phase_ = 0;
  int evaluations_ = 0;
  int checkpoints_ = 0;
};

int RunFakeTrainer(int socket) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  Requests requests;
  std::thread([socket, &requests] {
    internal::ToTrainer frame;
    for (bool first = true;; first = false) {
      const auto read = ReadFrame(socket, &frame);
      if (!read.ok() || !*read) std::_Exit(first ? 1 : 0);
      requests.Note(frame);
    }
  }).detach();
  for (int earlier = 0;; ++earlier) {
    const internal::Run run = requests.NextRun();
    if (!run.log_file().empty() && freopen(run.log_file().c_str(), "a", stderr) != nullptr) {
      setvbuf(stderr, nullptr, _IONBF, 0);
    }
    fprintf(stderr, "fake trainer: attempt %d\n", run.assignment().attempt());
    internal::FromTrainer last;
    *last.mutable_ended() = FakeTraining(socket, run, earlier, &requests).Run();
    Require(WriteFrame(socket, last));
    const Script script(run.assignment());
    if (!last.ended().waits() || script.Has("lie-warm")) std::_Exit(0);
    if (script.Has("die-warm")) raise(SIGKILL);
  }
}

}  // namespace
}  // namespace thaw

int main(int argc, char** argv) {
  int socket = 3;
  if (argc == 3 && strcmp(argv[1], "--fd") == 0 && absl::SimpleAtoi(argv[2], &socket)) {
    return thaw::RunFakeTrainer(socket);
  }
  if (argc == 1) return thaw::RunFakeTrainer(socket);
  if (argc == 2 && strcmp(argv[1], "--devices") == 0) {
    printf("cpu\n");
    return 0;
  }
  fprintf(stderr, "usage: thaw-fake-trainer [--fd N | --devices]\n");
  return 2;
}
