// A client that follows one job, as `thaw watch` does.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "grpcpp/client_context.h"
#include "tests/testing/cluster.h"

namespace thaw {

// Watches on a thread of its own; when the server goes, again from the last sequence seen.
// Thread-safe. `Cluster` must outlive it, and StartServer must be told by calling ServerIsBack.
class JobWatch {
 public:
  JobWatch(Cluster& cluster, const std::string& job);
  ~JobWatch();

  // The stream that broke may be opened again, at the server's new process.
  void ServerIsBack();
  // Waits until what was seen so far is so; false after a time that only a failing test needs.
  bool WaitFor(const std::function<bool(const std::vector<v1::Event>&)>& is_so);
  // Until the stream has ended OK, which it does after the terminal event.
  bool WaitForEnd();

  std::vector<v1::Event> events();
  v1::Job first_snapshot();
  // Streams that were opened.
  int streams();

 private:
  void Main();
  grpc::Status WatchOnce();

  Cluster& cluster_;
  const std::string job_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<v1::Event> events_;
  v1::Job first_snapshot_;
  int streams_ = 0;
  int servers_ = 1;
  bool ended_ = false, stop_ = false;
  grpc::ClientContext* context_ = nullptr;
  std::thread thread_;
};

// Whether a metric point of `step` or later is among the events.
bool HasStep(const std::vector<v1::Event>& events, int64_t step);
bool HasState(const std::vector<v1::Event>& events, v1::Job::State state);

}  // namespace thaw
