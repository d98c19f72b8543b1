// Schedule beside its contract carried out word by word, on random snapshots.
#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "server/scheduling/scheduler.h"

namespace thaw {
namespace {

using v1::Resources;

// A device of a worker in the reference.
struct BookDevice {
  Resources::DeviceKind kind;
  int64_t memory;
  bool taken = false;
};
struct BookWorker {
  std::string name;
  int slots;
  int attempts;
  bool takes;
  std::vector<BookDevice> devices;

  int Count(Resources::DeviceKind kind, int64_t memory, bool free) const {
    int count = 0;
    for (const BookDevice& device : devices) {
      count += device.kind == kind && device.memory >= memory && !(free && device.taken);
    }
    return count;
  }
  void Take(Resources::DeviceKind kind, int count, int64_t memory) {
    // The smallest that will do, and of CPUs none.
    for (; kind == Resources::CUDA && count > 0; --count) {
      BookDevice* best = nullptr;
      for (BookDevice& device : devices) {
        if (device.kind != kind || device.taken || device.memory < memory) continue;
        if (best == nullptr || device.memory < best->memory) best = &device;
      }
      if (best != nullptr) best->taken = true;
    }
  }
};

std::vector<BookWorker> BookWorkers(const SchedulerInput& input) {
  std::vector<BookWorker> workers;
  for (const SchedulableWorker& given : input.workers) {
    BookWorker worker{
        given.name, given.offer.slots(), static_cast<int>(given.holds.size()), given.available, {}};
    for (const v1::Device& device : given.offer.devices()) {
      worker.devices.push_back({device.kind(), device.memory_bytes()});
    }
    for (const Hold& hold : given.holds) {
      worker.Take(hold.kind, hold.device_count, hold.min_memory_bytes);
    }
    workers.push_back(worker);
  }
  std::sort(workers.begin(), workers.end(),
            [](const BookWorker& a, const BookWorker& b) { return a.name < b.name; });
  return workers;
}

std::string ByTheBook(const SchedulerInput& input, std::vector<QueuedJob> jobs) {
  std::vector<BookWorker> workers = BookWorkers(input);
  std::map<std::string, int> held;
  for (const SchedulableWorker& worker : input.workers) {
    for (const Hold& hold : worker.holds) held[hold.owner] += hold.device_count;
  }
  const auto could = [](const BookWorker& worker, Resources::DeviceKind kind, const Resources& r) {
    return worker.slots > 0 && worker.Count(kind, r.min_memory_bytes(), false) >= DeviceCount(r);
  };
  std::vector<std::string> parts;
  bool reserved = false;
  while (!jobs.empty()) {
    const auto rank = [&](const QueuedJob& job) {
      const auto use = input.recent_use.find(job.owner);
      return std::make_tuple(-job.priority, held[job.owner],
                             use == input.recent_use.end() ? 0 : use->second, job.number);
    };
    const auto next =
        std::min_element(jobs.begin(), jobs.end(),
                         [&](const QueuedJob& a, const QueuedJob& b) { return rank(a) < rank(b); });
    const QueuedJob job = *next;
    jobs.erase(next);
    held[job.owner] += DeviceCount(job.resources);
    Resources::DeviceKind kind = job.resources.device_kind();
    if (kind == Resources::DEVICE_KIND_UNSPECIFIED) {
      const bool cuda = std::any_of(workers.begin(), workers.end(), [&](const BookWorker& worker) {
        return could(worker, Resources::CUDA, job.resources);
      });
      kind = cuda ? Resources::CUDA : Resources::CPU;
    }
    if (job.not_before > input.now || !input.hold.empty()) continue;
    BookWorker* chosen = nullptr;
    BookWorker* roomiest = nullptr;
    const int64_t memory = job.resources.min_memory_bytes();
    const auto preference = [&](const BookWorker& worker) {
      return kind == Resources::CUDA ? worker.Count(kind, 0, true) : worker.attempts;
    };
    for (BookWorker& worker : workers) {
      if (!could(worker, kind, job.resources)) continue;
      if (roomiest == nullptr ||
          worker.Count(kind, memory, true) > roomiest->Count(kind, memory, true)) {
        roomiest = &worker;
      }
      const bool fits = worker.takes && worker.attempts < worker.slots &&
                        worker.Count(kind, memory, true) >= DeviceCount(job.resources);
      if (fits && (chosen == nullptr || preference(worker) < preference(*chosen))) {
        chosen = &worker;
      }
    }
    if (chosen != nullptr) {
      ++chosen->attempts;
      chosen->Take(kind, DeviceCount(job.resources), memory);
      parts.push_back(absl::StrCat(job.id, ">", chosen->name, kind == Resources::CUDA ? "*" : ""));
    } else if (roomiest != nullptr && !reserved) {
      roomiest->takes = false;
      reserved = true;
    }
  }
  return absl::StrJoin(parts, " ");
}

class RandomSnapshot {
 public:
  explicit RandomSnapshot(unsigned seed) : random_(seed) {
    input_.now = 10;
    if (Roll(20) == 0) input_.hold = "the disk is short";
    const int owners = 1 + Roll(3);
    for (int i = 0; i < owners; ++i) {
      if (Roll(2) == 0) input_.recent_use[Owner(i)] = Roll(3);
    }
    const int workers = Roll(6);
    for (int i = 0; i < workers; ++i) AddWorker(i, owners);
    const int jobs = Roll(25);
    for (int i = 0; i < jobs; ++i) AddJob(i, owners);
    input_.queue = &queue_;
  }
  const SchedulerInput& input() const { return input_; }
  const std::vector<QueuedJob>& jobs() const { return jobs_; }
  const JobQueue& queue() const { return queue_; }

 private:
  int Roll(int sides) { return static_cast<int>(random_() % static_cast<unsigned>(sides)); }
  static std::string Owner(int i) { return absl::StrCat("owner-", i); }
  int64_t Memory() { return int64_t{8} << (30 + Roll(3)); }

  void AddWorker(int number, int owners) {
    SchedulableWorker& worker = input_.workers.emplace_back();
    // In no order.
    worker.name = absl::StrCat("w", (number * 7 + 3) % 10);
    worker.offer.set_slots(Roll(5));
    worker.available = Roll(6) != 0;
    const bool gpus = Roll(2) == 0;
    for (int i = gpus ? 1 + Roll(4) : 1; i > 0; --i) {
      v1::Device& device = *worker.offer.add_devices();
      device.set_kind(gpus ? Resources::CUDA : Resources::CPU);
      device.set_memory_bytes(Memory());
    }
    for (int i = std::min(worker.offer.slots(), Roll(3)); i > 0; --i) {
      worker.holds.push_back({Owner(Roll(owners)), gpus ? Resources::CUDA : Resources::CPU,
                              1 + Roll(2), Roll(2) == 0 ? 0 : Memory()});
    }
  }
  void AddJob(int number, int owners) {
    QueuedJob job;
    job.id = absl::StrCat("j", number);
    job.number = number;
    job.owner = Owner(Roll(owners));
    job.priority = Roll(4) == 0 ? Roll(3) - 1 : 0;
    job.not_before = Roll(8) == 0 ? 20 : 0;
    job.resources.set_device_kind(static_cast<Resources::DeviceKind>(Roll(3)));
    job.resources.set_device_count(Roll(4));
    if (Roll(2) == 0) job.resources.set_min_memory_bytes(Memory());
    queue_.Put(job);
    jobs_.push_back(job);
  }

  std::mt19937 random_;
  SchedulerInput input_;
  JobQueue queue_;
  std::vector<QueuedJob> jobs_;
};

TEST(SchedulerReference, ThousandsOfSnapshotsAgree) {
  int assignments = 0;
  for (unsigned seed = 0; seed < 5'000; ++seed) {
    const RandomSnapshot snapshot(seed);
    std::vector<std::string> parts;
    for (const JobAssignment& assignment : Schedule(snapshot.input())) {
      parts.push_back(absl::StrCat(assignment.job, ">", assignment.worker,
                                   assignment.kind == Resources::CUDA ? "*" : ""));
      ++assignments;
    }
    ASSERT_EQ(absl::StrJoin(parts, " "), ByTheBook(snapshot.input(), snapshot.jobs()))
        << "seed " << seed;
  }
  EXPECT_GT(assignments, 5'000) << "the snapshots are of no use";
}

TEST(SchedulerReference, TheOrderIsThatOfTakingTurns) {
  for (unsigned seed = 0; seed < 500; ++seed) {
    const RandomSnapshot snapshot(seed);
    std::map<std::string, int> held;
    for (const SchedulableWorker& worker : snapshot.input().workers) {
      for (const Hold& hold : worker.holds) held[hold.owner] += hold.device_count;
    }
    std::vector<QueuedJob> left = snapshot.jobs();
    for (const QueuedJob* next : RunningOrder(snapshot.input())) {
      const auto rank = [&](const QueuedJob& job) {
        const auto use = snapshot.input().recent_use.find(job.owner);
        return std::make_tuple(-job.priority, held[job.owner],
                               use == snapshot.input().recent_use.end() ? 0 : use->second,
                               job.number);
      };
      const auto first = std::min_element(
          left.begin(), left.end(),
          [&](const QueuedJob& a, const QueuedJob& b) { return rank(a) < rank(b); });
      ASSERT_EQ(next->id, first->id) << "seed " << seed;
      held[first->owner] += DeviceCount(first->resources);
      left.erase(first);
    }
    EXPECT_TRUE(left.empty());
  }
}

TEST(JobQueue, KnowsItsJobsByIdAndByPlace) {
  JobQueue queue;
  const auto put = [&](const std::string& id, int64_t number, int priority) {
    QueuedJob job;
    job.id = id;
    job.owner = "ann";
    job.number = number;
    job.priority = priority;
    job.create_micros = 100 + number;
    queue.Put(job);
  };
  put("a", 1, 0);
  put("b", 2, 5);
  EXPECT_EQ(queue.OldestCreateMicros(), 101);
  ASSERT_NE(queue.Find("a"), nullptr);
  EXPECT_EQ(queue.levels().begin()->first, 5);
  // Another priority is another place, and not a second one.
  put("a", 1, 9);
  EXPECT_EQ(queue.size(), 2u);
  EXPECT_EQ(queue.levels().size(), 2u);
  EXPECT_EQ(queue.levels().begin()->first, 9);
  queue.SetNotBefore("a", 7);
  EXPECT_EQ(queue.Find("a")->not_before, 7);
  EXPECT_TRUE(queue.Remove("a"));
  EXPECT_FALSE(queue.Remove("a"));
  EXPECT_EQ(queue.Find("a"), nullptr);
  EXPECT_EQ(queue.OldestCreateMicros(), 102);
  EXPECT_TRUE(queue.Remove("b"));
  EXPECT_TRUE(queue.levels().empty());
}

}  // namespace
}  // namespace thaw
