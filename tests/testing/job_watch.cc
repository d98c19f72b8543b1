#include "tests/testing/job_watch.h"

#include <algorithm>
#include <chrono>

#include "gtest/gtest.h"

namespace thaw {
namespace {

constexpr auto kWatchPatience = std::chrono::seconds(40);

}  // namespace

JobWatch::JobWatch(Cluster& cluster, const std::string& job)
    : cluster_(cluster), job_(job), thread_([this] { Main(); }) {}

JobWatch::~JobWatch() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    if (context_ != nullptr) context_->TryCancel();
    changed_.notify_all();
  }
  thread_.join();
}

void JobWatch::ServerIsBack() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++servers_;
  changed_.notify_all();
}

void JobWatch::Main() {
  for (int server = 1;; ++server) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || servers_ >= server; });
      if (stop_) return;
    }
    const grpc::Status status = WatchOnce();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stop_) return;
    if (status.ok()) {
      ended_ = true;
      changed_.notify_all();
      return;
    }
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  }
}

grpc::Status JobWatch::WatchOnce() {
  grpc::ClientContext context;
  cluster_.Prepare(&context, 600);
  v1::WatchJobRequest request;
  request.set_id(job_);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stop_) return grpc::Status::CANCELLED;
    context_ = &context;
    ++streams_;
    request.set_after_sequence(events_.empty() ? 0 : events_.back().sequence());
  }
  const auto reader = cluster_.jobs().WatchJob(&context, request);
  v1::WatchJobResponse message;
  bool first = true;
  while (reader->Read(&message)) {
    const std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_EQ(message.has_snapshot(), first) << "the snapshot comes first, and once";
    if (first && streams_ == 1) first_snapshot_ = message.snapshot();
    first = false;
    if (message.has_event()) events_.push_back(message.event());
    changed_.notify_all();
  }
  const grpc::Status status = reader->Finish();
  const std::lock_guard<std::mutex> lock(mutex_);
  context_ = nullptr;
  return status;
}

bool JobWatch::WaitFor(const std::function<bool(const std::vector<v1::Event>&)>& is_so) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, kWatchPatience, [&] { return is_so(events_); });
}

bool JobWatch::WaitForEnd() {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, kWatchPatience, [&] { return ended_; });
}

std::vector<v1::Event> JobWatch::events() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return events_;
}

v1::Job JobWatch::first_snapshot() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return first_snapshot_;
}

int JobWatch::streams() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return streams_;
}

bool HasStep(const std::vector<v1::Event>& events, int64_t step) {
  return std::any_of(events.begin(), events.end(), [step](const v1::Event& event) {
    const auto& points = event.metric_points().points();
    return !points.empty() && points.rbegin()->step() >= step;
  });
}

bool HasState(const std::vector<v1::Event>& events, v1::Job::State state) {
  return std::any_of(events.begin(), events.end(), [state](const v1::Event& event) {
    return event.has_state_change() && event.state_change().to() == state;
  });
}

}  // namespace thaw
