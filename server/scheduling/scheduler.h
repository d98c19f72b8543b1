// Who runs where next, as pure functions of a snapshot.
//
// Order: higher priority, then the owner who holds fewer devices now, then the owner who used less
// lately, then the older job. Each job in that order takes the first worker that fits it (device
// kind, count and memory, a free slot). The first job that would fit a worker but finds it busy
// keeps that worker free of later jobs, so that wide jobs are not starved by narrow ones.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "server/scheduling/fleet.h"
#include "server/scheduling/job_queue.h"

namespace thaw {

struct SchedulerInput {
  const JobQueue* queue = nullptr;
  std::vector<SchedulableWorker> workers;    // connected, not draining
  std::map<std::string, double> recent_use;  // device-seconds by owner
  int draining_workers = 0;                  // connected, but taking no work: for the reasons
  std::string hold;                          // not empty: nothing starts, for this reason
  int64_t now = 0;                           // BootMicros
};

struct JobAssignment {
  std::string job;
  std::string worker;
  v1::Resources::DeviceKind kind = v1::Resources::CPU;
};

// Ends as soon as no worker has a free slot; until then it looks at each job once, passing by free
// workers that are too small for it.
std::vector<JobAssignment> Schedule(const SchedulerInput& input);

// All that wait, in the order in which they would run.
std::vector<const QueuedJob*> RunningOrder(const SchedulerInput& input);

// One sentence: what the job that is `position`-th from 1 in that order waits for.
std::string WhyQueued(const QueuedJob& job, int position, const Fleet& fleet, int draining_workers,
                      const std::string& hold, int64_t now);

}  // namespace thaw
