// What the workers can take, now and ever. For one pass of the scheduler over a snapshot.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "thaw/v1/job_spec.pb.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

// What an attempt takes of its worker; `kind` is never unspecified.
struct Hold {
  std::string owner;
  v1::Resources::DeviceKind kind = v1::Resources::CPU;
  int32_t device_count = 1;
  int64_t min_memory_bytes = 0;
};

struct SchedulableWorker {
  std::string name;
  v1::WorkerOffer offer;
  std::vector<Hold> holds;  // its live attempts
  bool available =
      true;  // false: counts for what could run, but takes nothing now (silent for a moment)
};

// Questions take the same time however many workers there are, but for WhyNever where the answer
// is not empty, Reserve, and Assign, which passes by free workers that are too small. GPUs are held
// exclusively; a CPU device is shared by as many attempts as the worker has slots.
class Fleet {
 public:
  explicit Fleet(const std::vector<SchedulableWorker>& workers);

  // Whether a worker with nothing to do could run a job that wants this.
  bool CouldFit(v1::Resources::DeviceKind kind, const v1::Resources& wanted) const;
  // The kind that is asked for; where none is, CUDA if it could fit, otherwise CPU.
  v1::Resources::DeviceKind Resolve(const v1::Resources& wanted) const;
  // What no worker has, in words for the user; "" if it could fit. `draining` workers are connected
  // besides these.
  std::string WhyNever(const v1::Resources& wanted, int draining) const;

  // A worker with a free slot is left.
  bool any_free() const { return !free_by_attempts_.empty(); }
  // Gives it to a worker, whose name comes back; null if none has room now. GPUs are packed, so
  // that wide jobs find whole hosts; CPU work is spread.
  const std::string* Assign(v1::Resources::DeviceKind kind, const v1::Resources& wanted);
  // Of the workers that it could fit, the one with most of it free takes nothing more.
  void Reserve(v1::Resources::DeviceKind kind, const v1::Resources& wanted);

 private:
  struct Device {
    v1::Resources::DeviceKind kind;
    int64_t memory_bytes;
    bool taken;
  };
  struct Worker {
    std::string name;
    int64_t slots = 0;
    int64_t attempts = 0;
    bool takes = true;            // available and not reserved
    std::vector<Device> devices;  // by memory: an attempt takes the smallest that fit
  };
  // Lowest first; names decide between equals.
  using Order = std::set<std::pair<int64_t, size_t>>;

  static int Matching(const Worker& worker, v1::Resources::DeviceKind kind, int64_t memory,
                      bool free_only);
  static int64_t LargestMemory(const Worker& worker, v1::Resources::DeviceKind kind);
  static void Take(Worker& worker, v1::Resources::DeviceKind kind, int count, int64_t memory);
  void CountIn(const Worker& worker);
  void ListFree(size_t index);
  void UnlistFree(size_t index);

  std::vector<Worker> workers_;  // by name
  // Of each kind: [n] is the most memory that each of some worker's n + 1 largest devices has.
  std::map<v1::Resources::DeviceKind, std::vector<int64_t>> widest_;
  // Workers with a free slot, by attempts and by free GPUs.
  Order free_by_attempts_;
  Order free_by_gpus_;
};

}  // namespace thaw
