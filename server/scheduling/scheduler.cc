#include "server/scheduling/scheduler.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace thaw {
namespace {

using v1::Resources;

// Gives the jobs out in order: priority, share of the owner, age.
class Ranking {
 public:
  explicit Ranking(const SchedulerInput& input)
      : input_(input), level_(input.queue->levels().begin()) {
    for (const SchedulableWorker& worker : input.workers) {
      for (const Hold& hold : worker.holds) held_[hold.owner] += hold.device_count;
    }
  }

  // Null at the end. The devices of each job given out count for its owner's share, whether it
  // found a worker or not: so the order is the one in which they would run.
  const QueuedJob* Next() {
    if (next_.empty() && !BeginLevel()) return nullptr;
    Owner owner = next_.top();
    next_.pop();
    const JobQueue::Waiting waiting = owner.place->second;
    owner.held = *owner.held_in_all += waiting.devices;
    if (++owner.place != owner.end) {
      owner.oldest = owner.place->first;
      next_.push(owner);
    }
    return waiting.job;
  }

 private:
  struct Owner {
    int held;
    double recent_use;
    int64_t oldest;
    int* held_in_all;
    JobQueue::OwnerJobs::const_iterator place, end;
    bool operator>(const Owner& other) const {
      return std::tie(held, recent_use, oldest) >
             std::tie(other.held, other.recent_use, other.oldest);
    }
  };
  bool BeginLevel() {
    if (level_ == input_.queue->levels().end()) return false;
    for (const auto& [name, jobs] : level_->second) {
      const auto use = input_.recent_use.find(name);
      int& held = held_[name];
      next_.push({held, use == input_.recent_use.end() ? 0 : use->second, jobs.begin()->first,
                  &held, jobs.begin(), jobs.end()});
    }
    ++level_;
    return true;
  }

  const SchedulerInput& input_;
  JobQueue::Levels::const_iterator level_;  // the next one
  std::map<std::string, int> held_;
  std::priority_queue<Owner, std::vector<Owner>, std::greater<>> next_;  // of the priority at hand
};

// What found no room in this pass. Room only shrinks, so what asks for no less finds none either.
class Unplaced {
 public:
  bool Covers(Resources::DeviceKind kind, const Resources& wanted) const {
    const auto least = least_memory_.find(kind);
    if (least == least_memory_.end()) return false;
    const auto end = least->second.upper_bound(DeviceCount(wanted));
    return std::any_of(least->second.begin(), end, [&](const auto& failed) {
      return failed.second <= wanted.min_memory_bytes();
    });
  }
  // Of something that is not covered.
  void Add(Resources::DeviceKind kind, const Resources& wanted) {
    least_memory_[kind][DeviceCount(wanted)] = wanted.min_memory_bytes();
  }

 private:
  std::map<Resources::DeviceKind, std::map<int, int64_t>> least_memory_;  // by number of devices
};

}  // namespace

std::vector<JobAssignment> Schedule(const SchedulerInput& input) {
  std::vector<JobAssignment> assignments;
  if (!input.hold.empty()) return assignments;
  Fleet fleet(input.workers);
  Ranking ranking(input);
  Unplaced unplaced;
  bool reserved = false;
  while (fleet.any_free()) {
    const QueuedJob* job = ranking.Next();
    if (job == nullptr) break;
    if (job->not_before > input.now) continue;
    const Resources::DeviceKind kind = fleet.Resolve(job->resources);
    // Either such a job has reserved its worker, or no worker could ever take it.
    if (unplaced.Covers(kind, job->resources)) continue;
    if (const std::string* worker = fleet.Assign(kind, job->resources)) {
      assignments.push_back({job->id, *worker, kind});
      continue;
    }
    unplaced.Add(kind, job->resources);
    if (reserved || !fleet.CouldFit(kind, job->resources)) continue;
    fleet.Reserve(kind, job->resources);
    reserved = true;
  }
  return assignments;
}

std::vector<const QueuedJob*> RunningOrder(const SchedulerInput& input) {
  std::vector<const QueuedJob*> order;
  order.reserve(input.queue->size());
  Ranking ranking(input);
  while (const QueuedJob* job = ranking.Next()) order.push_back(job);
  return order;
}

std::string WhyQueued(const QueuedJob& job, int position, const Fleet& fleet, int draining_workers,
                      const std::string& hold, int64_t now) {
  if (std::string never = fleet.WhyNever(job.resources, draining_workers); !never.empty()) {
    return never;
  }
  if (!hold.empty()) return hold;
  if (job.not_before > now) {
    const double seconds = static_cast<double>(job.not_before - now) / 1e6;
    return absl::StrCat("waits ", static_cast<int64_t>(std::ceil(seconds)),
                        " s before its next attempt: ", job.wait_reason);
  }
  if (position == 1) return "waits for a worker to be free: it is next";
  return absl::StrCat("waits for a worker to be free: ", position - 1,
                      position == 2 ? " job is" : " jobs are", " before it");
}

}  // namespace thaw
