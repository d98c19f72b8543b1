#include "server/scheduling/scheduler.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <queue>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace thaw {
namespace {

using v1::Resources;

int DeviceCount(const Resources& resources) { return std::max(1, resources.device_count()); }

const char* KindName(Resources::DeviceKind kind) {
  return kind == Resources::CUDA ? "CUDA" : "CPU";
}

// One worker's capacity while assignments are made.
class Capacity {
 public:
  explicit Capacity(const SchedulableWorker& worker)
      : name_(worker.name),
        available_(worker.available),
        slots_(worker.offer.slots()),
        attempts_(static_cast<int64_t>(worker.holds.size())) {
    for (const v1::Device& device : worker.offer.devices()) {
      devices_.push_back({device.kind(), device.memory_bytes(), false});
    }
    // An attempt takes the smallest devices that fit.
    std::sort(devices_.begin(), devices_.end(),
              [](const Slot& a, const Slot& b) { return a.memory_bytes < b.memory_bytes; });
    for (const Hold& hold : worker.holds) Take(hold.kind, hold.device_count, hold.min_memory_bytes);
  }

  bool CouldFit(Resources::DeviceKind kind, const Resources& wanted) const {
    return slots_ > 0 && Matching(kind, wanted.min_memory_bytes(), false) >= DeviceCount(wanted);
  }
  bool FitsNow(Resources::DeviceKind kind, const Resources& wanted) const {
    return available_ && !reserved_ && attempts_ < slots_ &&
           Matching(kind, wanted.min_memory_bytes(), true) >= DeviceCount(wanted);
  }
  void Assign(Resources::DeviceKind kind, const Resources& wanted) {
    ++attempts_;
    Take(kind, DeviceCount(wanted), wanted.min_memory_bytes());
  }
  void Reserve() { reserved_ = true; }

  // Lower is better: GPUs are packed, so that wide jobs find whole hosts; CPU work is spread.
  int64_t Preference(Resources::DeviceKind kind) const {
    return kind == Resources::CUDA ? Matching(kind, 0, true) : attempts_;
  }
  int Free(Resources::DeviceKind kind, int64_t memory) const {
    return Matching(kind, memory, true);
  }
  int Matching(Resources::DeviceKind kind, int64_t memory, bool free_only) const {
    return static_cast<int>(
        std::count_if(devices_.begin(), devices_.end(), [&](const Slot& device) {
          return device.kind == kind && device.memory_bytes >= memory &&
                 !(free_only && device.taken);
        }));
  }
  int64_t LargestMemory(Resources::DeviceKind kind) const {
    int64_t largest = 0;
    for (const Slot& device : devices_) {
      if (device.kind == kind) largest = std::max(largest, device.memory_bytes);
    }
    return largest;
  }
  const std::string& name() const { return name_; }

 private:
  struct Slot {
    Resources::DeviceKind kind;
    int64_t memory_bytes;
    bool taken;
  };
  void Take(Resources::DeviceKind kind, int count, int64_t memory) {
    if (kind == Resources::CPU) return;  // shared
    for (Slot& device : devices_) {
      if (count == 0) return;
      if (device.kind != kind || device.taken || device.memory_bytes < memory) continue;
      device.taken = true;
      --count;
    }
  }

  std::string name_;
  bool available_;
  int64_t slots_;
  int64_t attempts_;
  bool reserved_ = false;
  std::vector<Slot> devices_;
};

std::vector<Capacity> Capacities(const std::vector<SchedulableWorker>& workers) {
  std::vector<Capacity> capacities;
  capacities.reserve(workers.size());
  for (const SchedulableWorker& worker : workers) capacities.emplace_back(worker);
  return capacities;
}

Resources::DeviceKind Resolve(const Resources& wanted, const std::vector<Capacity>& workers) {
  if (wanted.device_kind() != Resources::DEVICE_KIND_UNSPECIFIED) return wanted.device_kind();
  const bool cuda = std::any_of(workers.begin(), workers.end(), [&](const Capacity& worker) {
    return worker.CouldFit(Resources::CUDA, wanted);
  });
  return cuda ? Resources::CUDA : Resources::CPU;
}

std::string Gibibytes(int64_t bytes) {
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / (int64_t{1} << 30));
}

std::string Devices(int count, Resources::DeviceKind kind) {
  return absl::StrCat(count, " ", KindName(kind), count == 1 ? " device" : " devices");
}

// "" if a worker could ever run it.
std::string WhyNever(const Resources& wanted, const std::vector<Capacity>& workers, int draining) {
  if (workers.empty()) {
    return draining > 0
               ? absl::StrCat("no worker takes new work: ", draining, " connected, all draining")
               : "no worker is connected: start one with thaw-worker or thaw up";
  }
  const Resources::DeviceKind kind = Resolve(wanted, workers);
  const Capacity* best = nullptr;
  for (const Capacity& worker : workers) {
    if (worker.CouldFit(kind, wanted)) return "";
    const auto rank = [&](const Capacity& c) {
      return std::make_tuple(c.Matching(kind, 0, false), c.LargestMemory(kind));
    };
    if (best == nullptr || rank(worker) > rank(*best)) best = &worker;
  }
  std::string reason = absl::StrCat("needs ", Devices(DeviceCount(wanted), kind));
  if (wanted.min_memory_bytes() > 0) {
    absl::StrAppend(&reason, " of at least ", Gibibytes(wanted.min_memory_bytes()));
  }
  const int most = best->Matching(kind, 0, false);
  if (most == 0) {
    absl::StrAppend(&reason, "; no connected worker has a ", KindName(kind), " device");
  } else {
    absl::StrAppend(&reason, "; the largest worker, ", best->name(), ", has ", Devices(most, kind),
                    " of up to ", Gibibytes(best->LargestMemory(kind)));
  }
  return absl::StrCat(reason, ": connect a larger worker or ask for less");
}

// Gives the jobs out in order: priority, share of the owner, age.
class Ranking {
 public:
  Ranking(const SchedulerInput& input) : input_(input) {
    for (const SchedulableWorker& worker : input.workers) {
      for (const Hold& hold : worker.holds) held_[hold.owner] += hold.device_count;
    }
    std::vector<const QueuedJob*> jobs;
    jobs.reserve(input.jobs.size());
    for (const QueuedJob& job : input.jobs) jobs.push_back(&job);
    std::sort(jobs.begin(), jobs.end(), [](const QueuedJob* a, const QueuedJob* b) {
      return std::make_tuple(-a->priority, a->number) < std::make_tuple(-b->priority, b->number);
    });
    jobs_ = {jobs.begin(), jobs.end()};
  }

  // Null at the end. The devices of each job given out count for its owner's share, whether it
  // found a worker or not: so the order is the one in which they would run.
  const QueuedJob* Next() {
    if (owners_.empty() && !FillPriority()) return nullptr;
    const Owner owner = owners_.top();
    owners_.pop();
    std::deque<const QueuedJob*>& queue = queues_[owner.name];
    const QueuedJob* job = queue.front();
    queue.pop_front();
    held_[owner.name] += DeviceCount(job->resources);
    if (!queue.empty()) Push(owner.name);
    return job;
  }

 private:
  struct Owner {
    int held;
    double recent_use;
    int64_t oldest;
    std::string name;
    bool operator>(const Owner& other) const {
      return std::tie(held, recent_use, oldest) >
             std::tie(other.held, other.recent_use, other.oldest);
    }
  };
  void Push(const std::string& name) {
    const auto use = input_.recent_use.find(name);
    owners_.push({held_[name], use == input_.recent_use.end() ? 0 : use->second,
                  queues_[name].front()->number, name});
  }
  bool FillPriority() {
    if (jobs_.empty()) return false;
    queues_.clear();
    const int32_t priority = jobs_.front()->priority;
    while (!jobs_.empty() && jobs_.front()->priority == priority) {
      queues_[jobs_.front()->owner].push_back(jobs_.front());
      jobs_.pop_front();
    }
    for (const auto& [name, queue] : queues_) Push(name);
    return true;
  }

  const SchedulerInput& input_;
  std::deque<const QueuedJob*> jobs_;
  std::map<std::string, int> held_;
  std::map<std::string, std::deque<const QueuedJob*>> queues_;  // of the priority at hand
  std::priority_queue<Owner, std::vector<Owner>, std::greater<>> owners_;
};

Capacity* ChooseWorker(std::vector<Capacity>& workers, Resources::DeviceKind kind,
                       const Resources& wanted) {
  Capacity* best = nullptr;
  for (Capacity& worker : workers) {
    if (!worker.FitsNow(kind, wanted)) continue;
    if (best == nullptr || std::make_tuple(worker.Preference(kind), worker.name()) <
                               std::make_tuple(best->Preference(kind), best->name())) {
      best = &worker;
    }
  }
  return best;
}

Capacity* WorkerToReserve(std::vector<Capacity>& workers, Resources::DeviceKind kind,
                          const Resources& wanted) {
  Capacity* best = nullptr;
  for (Capacity& worker : workers) {
    if (!worker.CouldFit(kind, wanted)) continue;
    if (best == nullptr || worker.Free(kind, wanted.min_memory_bytes()) >
                               best->Free(kind, wanted.min_memory_bytes())) {
      best = &worker;
    }
  }
  return best;
}

std::string WaitReason(int position) {
  if (position == 1) return "waits for a worker to be free: it is next";
  return absl::StrCat("waits for a worker to be free: ", position - 1,
                      position == 2 ? " job is" : " jobs are", " before it");
}

}  // namespace

std::string WhyNever(const Resources& wanted, const SchedulerInput& input) {
  return WhyNever(wanted, Capacities(input.workers), input.draining_workers);
}

SchedulerOutput Schedule(const SchedulerInput& input) {
  SchedulerOutput output;
  std::vector<Capacity> workers = Capacities(input.workers);
  Ranking ranking(input);
  output.queue.reserve(input.jobs.size());
  bool reserved = false;
  int position = 0;
  while (const QueuedJob* job = ranking.Next()) {
    std::string reason = WhyNever(job->resources, workers, input.draining_workers);
    if (reason.empty() && !input.hold.empty()) {
      reason = input.hold;
    } else if (reason.empty() && job->wait_seconds > 0) {
      reason = absl::StrCat("waits ", static_cast<int64_t>(std::ceil(job->wait_seconds)),
                            " s before its next attempt: ", job->wait_reason);
    } else if (reason.empty()) {
      const Resources::DeviceKind kind = Resolve(job->resources, workers);
      if (Capacity* worker = ChooseWorker(workers, kind, job->resources)) {
        worker->Assign(kind, job->resources);
        output.assignments.push_back({job->id, worker->name(), kind});
        continue;
      }
      if (!reserved) WorkerToReserve(workers, kind, job->resources)->Reserve();
      reserved = true;
      reason = WaitReason(position + 1);
    }
    output.queue[job->id] = {++position, std::move(reason)};
  }
  return output;
}

}  // namespace thaw
