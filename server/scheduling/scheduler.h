// Who runs where next, as a pure function of a snapshot.
//
// Order: higher priority, then the owner who holds fewer devices now, then the owner who used less
// lately, then the older job. Each job in that order takes the first worker that fits it (device
// kind, count and memory, a free slot). The first job that would fit a worker but finds it busy
// keeps that worker free of later jobs, so that wide jobs are not starved by narrow ones. GPUs are
// held exclusively; a CPU device is shared by as many attempts as the worker has slots.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "thaw/v1/job_spec.pb.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

struct QueuedJob {
  std::string id;
  std::string owner;
  int32_t priority = 0;
  int64_t number = 0;  // order of submission: lower is older
  v1::Resources resources;
  double wait_seconds = 0;  // back-off that is left; above 0: not now
  std::string wait_reason;  // why it backs off
};

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

struct SchedulerInput {
  std::vector<QueuedJob> jobs;
  std::vector<SchedulableWorker> workers;    // connected, not draining
  std::map<std::string, double> recent_use;  // device-seconds by owner
  int draining_workers = 0;                  // connected, but taking no work: for the reasons
  std::string hold;                          // not empty: nothing starts, for this reason
};

struct JobAssignment {
  std::string job;
  std::string worker;
  v1::Resources::DeviceKind kind = v1::Resources::CPU;
};

struct QueueEntry {
  int position = 0;    // from 1, among the jobs that stay queued
  std::string reason;  // one sentence: what it waits for
};

struct SchedulerOutput {
  std::vector<JobAssignment> assignments;
  absl::flat_hash_map<std::string, QueueEntry> queue;  // by job id: every job without an assignment
};

SchedulerOutput Schedule(const SchedulerInput& input);

// Why no worker could ever run a job that wants this, naming what would be needed; "" if one could.
std::string WhyNever(const v1::Resources& wanted, const SchedulerInput& input);

}  // namespace thaw
