// The jobs that wait for a worker, kept in the order in which each owner's run, so that a look at
// the first of them costs the same whether ten wait or a hundred thousand.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/container/btree_map.h"
#include "absl/container/node_hash_map.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

struct QueuedJob {
  std::string id;
  std::string owner;
  int32_t priority = 0;
  int64_t number = 0;  // order of submission: lower is older
  v1::Resources resources;
  int64_t create_micros = 0;  // wall clock
  int64_t not_before = 0;     // BootMicros: no attempt before
  std::string wait_reason;    // why it backs off
};

// Devices that an attempt at it takes.
int DeviceCount(const v1::Resources& resources);

// Not thread-safe.
class JobQueue {
 public:
  // By number; devices stands here too, so that counting need not look at each job.
  struct Waiting {
    const QueuedJob* job = nullptr;
    int devices = 1;
  };
  using OwnerJobs = absl::btree_map<int64_t, Waiting>;
  // By priority, highest first, then by owner; nothing in it is empty.
  using Levels = std::map<int32_t, std::map<std::string, OwnerJobs>, std::greater<>>;

  JobQueue() = default;
  // What levels() holds points into this object.
  JobQueue(const JobQueue&) = delete;
  JobQueue& operator=(const JobQueue&) = delete;

  // In the place of one with the same id, if there is one.
  void Put(QueuedJob job);
  // Whether it was there.
  bool Remove(const std::string& id);
  // Of a job that is there.
  void SetNotBefore(const std::string& id, int64_t not_before);

  // Null if it is not there; valid until it goes.
  const QueuedJob* Find(const std::string& id) const;
  const Levels& levels() const { return levels_; }
  size_t size() const { return jobs_.size(); }
  bool empty() const { return jobs_.empty(); }
  // When the job with the lowest number was submitted; of a queue that is not empty.
  int64_t OldestCreateMicros() const;

 private:
  absl::node_hash_map<std::string, QueuedJob> jobs_;
  Levels levels_;
};

}  // namespace thaw
