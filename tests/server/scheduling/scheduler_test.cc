#include "server/scheduling/scheduler.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using v1::Resources;

constexpr int64_t kGib = int64_t{1} << 30;

SchedulableWorker Worker(const std::string& name, Resources::DeviceKind kind, int devices,
                         int64_t memory_gib, int slots) {
  SchedulableWorker worker;
  worker.name = name;
  worker.offer.set_slots(slots);
  for (int i = 0; i < devices; ++i) {
    v1::Device& device = *worker.offer.add_devices();
    device.set_kind(kind);
    device.set_memory_bytes(memory_gib * kGib);
  }
  return worker;
}

QueuedJob Job(int64_t number, const std::string& owner, int priority = 0,
              Resources::DeviceKind kind = Resources::DEVICE_KIND_UNSPECIFIED, int devices = 1,
              int64_t memory_gib = 0) {
  QueuedJob job;
  job.id = absl::StrCat("j", number);
  job.number = number;
  job.owner = owner;
  job.priority = priority;
  job.resources.set_device_kind(kind);
  job.resources.set_device_count(devices);
  job.resources.set_min_memory_bytes(memory_gib * kGib);
  return job;
}

// The queue and the rest of a snapshot.
struct Snapshot : SchedulerInput {
  void Add(QueuedJob job) { waiting.Put(std::move(job)); }
  void Add(std::initializer_list<QueuedJob> jobs) {
    for (const QueuedJob& job : jobs) Add(job);
  }
  const SchedulerInput& input() {
    queue = &waiting;
    return *this;
  }

  JobQueue waiting;
};

// "j1>w" … then, when those have gone, the queue as "j2 j3" in its order.
std::string Plan(Snapshot& snapshot) {
  std::vector<std::string> parts;
  std::vector<QueuedJob> given;
  std::vector<SchedulableWorker> before = snapshot.workers;
  for (const JobAssignment& assignment : Schedule(snapshot.input())) {
    parts.push_back(absl::StrCat(assignment.job, ">", assignment.worker,
                                 assignment.kind == Resources::CUDA ? "*" : ""));
    const QueuedJob job = *snapshot.waiting.Find(assignment.job);
    for (SchedulableWorker& worker : snapshot.workers) {
      if (worker.name != assignment.worker) continue;
      worker.holds.push_back({job.owner, assignment.kind, DeviceCount(job.resources),
                              job.resources.min_memory_bytes()});
    }
    EXPECT_TRUE(snapshot.waiting.Remove(job.id));
    given.push_back(job);
  }
  parts.push_back("|");
  for (const QueuedJob* job : RunningOrder(snapshot.input())) parts.push_back(job->id);
  snapshot.workers = before;
  for (const QueuedJob& job : given) snapshot.waiting.Put(job);
  return absl::StrJoin(parts, " ");
}

std::string ReasonFor(Snapshot& snapshot, const std::string& job) {
  int position = 0;
  for (const QueuedJob* queued : RunningOrder(snapshot.input())) {
    ++position;
    if (queued->id != job) continue;
    return WhyQueued(*queued, position, Fleet(snapshot.workers), snapshot.draining_workers,
                     snapshot.hold, snapshot.now);
  }
  return "";
}

TEST(Scheduler, PriorityThenShareThenAge) {
  Snapshot input;
  input.workers = {Worker("w", Resources::CPU, 1, 8, 2)};
  input.Add({Job(1, "ann"), Job(2, "ann"), Job(3, "bob"), Job(4, "ann", 5)});
  EXPECT_EQ(Plan(input), "j4>w j3>w | j1 j2");
}

TEST(Scheduler, WhoHoldsFewerDevicesGoesFirst) {
  Snapshot input;
  input.workers = {Worker("w", Resources::CPU, 1, 8, 2)};
  input.workers[0].holds = {{"ann", Resources::CPU, 1, 0}};
  input.Add({Job(1, "ann"), Job(2, "bob")});
  EXPECT_EQ(Plan(input), "j2>w | j1");
}

TEST(Scheduler, WhoUsedLessLatelyGoesFirst) {
  Snapshot input;
  input.workers = {Worker("w", Resources::CPU, 1, 8, 1)};
  input.Add({Job(1, "ann"), Job(2, "bob")});
  EXPECT_EQ(Plan(input), "j1>w | j2");
  input.recent_use["ann"] = 10;
  EXPECT_EQ(Plan(input), "j2>w | j1");
}

TEST(Scheduler, OwnersTakeTurnsInTheQueue) {
  Snapshot input;
  input.workers = {Worker("w", Resources::CPU, 1, 8, 1)};
  input.workers[0].holds = {{"eve", Resources::CPU, 1, 0}};
  for (int i = 1; i <= 4; ++i) input.Add(Job(i, "ann"));
  for (int i = 5; i <= 6; ++i) input.Add(Job(i, "bob"));
  EXPECT_EQ(Plan(input), "| j1 j5 j2 j6 j3 j4");
}

TEST(Scheduler, FitsByKindCountAndMemory) {
  Snapshot input;
  input.workers = {Worker("cpu", Resources::CPU, 1, 64, 1),
                   Worker("big", Resources::CUDA, 4, 80, 4),
                   Worker("small", Resources::CUDA, 2, 16, 2)};
  input.Add({Job(1, "a", 9, Resources::CUDA, 1, 40), Job(2, "a", 8, Resources::CUDA, 1),
             Job(3, "a", 7, Resources::CPU), Job(4, "a", 6, Resources::CUDA, 4),
             Job(5, "a", 5, Resources::CUDA, 2)});
  // j4 needs four free GPUs of one worker; it keeps "big" for itself, so j5 waits.
  EXPECT_EQ(Plan(input), "j1>big* j2>small* j3>cpu | j4 j5");
}

TEST(Scheduler, UnspecifiedMeansCudaWhereThereIsSome) {
  Snapshot input;
  input.workers = {Worker("cpu", Resources::CPU, 1, 64, 1)};
  input.Add({Job(1, "a")});
  EXPECT_EQ(Plan(input), "j1>cpu |");
  input.workers.push_back(Worker("gpu", Resources::CUDA, 1, 16, 1));
  EXPECT_EQ(Plan(input), "j1>gpu* |");
  input.workers[1].holds = {{"b", Resources::CUDA, 1, 0}};
  EXPECT_EQ(Plan(input), "| j1");
}

TEST(Scheduler, WideJobsAreNotStarvedByNarrowOnes) {
  Snapshot input;
  input.workers = {Worker("g", Resources::CUDA, 4, 16, 8)};
  input.workers[0].holds = {{"x", Resources::CUDA, 2, 0}};
  input.Add({Job(1, "a", 0, Resources::CUDA, 4), Job(2, "b", 0, Resources::CUDA, 1)});
  EXPECT_EQ(Plan(input), "| j1 j2");
  input.workers.push_back(Worker("h", Resources::CUDA, 1, 16, 1));
  EXPECT_EQ(Plan(input), "j2>h* | j1");
}

TEST(Scheduler, SlotsBoundTheAttempts) {
  Snapshot input;
  input.workers = {Worker("w", Resources::CPU, 1, 8, 2)};
  input.Add({Job(1, "a"), Job(2, "a"), Job(3, "a")});
  EXPECT_EQ(Plan(input), "j1>w j2>w | j3");
  input.workers[0].offer.set_slots(0);
  EXPECT_EQ(Plan(input), "| j1 j2 j3");
}

TEST(Scheduler, CpuWorkIsSpread) {
  Snapshot input;
  input.workers = {Worker("v", Resources::CPU, 1, 8, 4), Worker("w", Resources::CPU, 1, 8, 4)};
  input.Add({Job(1, "a"), Job(2, "a"), Job(3, "a")});
  EXPECT_EQ(Plan(input), "j1>v j2>w j3>v |");
}

TEST(Scheduler, GpusArePacked) {
  Snapshot input;
  input.workers = {Worker("v", Resources::CUDA, 4, 8, 4), Worker("w", Resources::CUDA, 4, 8, 4)};
  input.workers[1].holds = {{"x", Resources::CUDA, 1, 0}};
  input.Add({Job(1, "a"), Job(2, "a"), Job(3, "b", 0, Resources::CUDA, 4)});
  EXPECT_EQ(Plan(input), "j1>w* j3>v* j2>w* |");
}

TEST(Scheduler, BackOffIsRespectedAndBlocksNobody) {
  Snapshot input;
  input.workers = {Worker("w", Resources::CPU, 1, 8, 1)};
  QueuedJob lost = Job(1, "a");
  lost.not_before = 3'200'001;
  lost.wait_reason = "its worker was lost";
  input.now = 1;
  input.Add({lost, Job(2, "a")});
  EXPECT_EQ(Plan(input), "j2>w | j1");
  EXPECT_EQ(ReasonFor(input, "j1"), "waits 4 s before its next attempt: its worker was lost");
}

TEST(Scheduler, SilentWorkersTakeNothingButCount) {
  Snapshot input;
  input.workers = {Worker("w", Resources::CPU, 1, 8, 1)};
  input.workers[0].available = false;
  input.Add({Job(1, "a")});
  EXPECT_EQ(Plan(input), "| j1");
  EXPECT_NE(ReasonFor(input, "j1").find("it is next"), std::string::npos);
}

TEST(Scheduler, ReasonsNameWhatIsMissing) {
  struct Case {
    QueuedJob job;
    std::vector<SchedulableWorker> workers;
    std::string expected;
  };
  const auto gpu = Worker("g", Resources::CUDA, 1, 12, 1);
  const auto cpu = Worker("c", Resources::CPU, 1, 8, 1);
  const Case cases[] = {
      {Job(1, "a"), {}, "no worker is connected: start one with thaw-worker or thaw up"},
      {Job(1, "a", 0, Resources::CUDA),
       {cpu},
       "needs 1 CUDA device; no connected worker has a CUDA device: connect a larger worker or ask "
       "for less"},
      {Job(1, "a", 0, Resources::CUDA, 2, 16),
       {cpu, gpu},
       "needs 2 CUDA devices of at least 16.0 GiB; the largest worker, g, has 1 CUDA device of up "
       "to 12.0 "
       "GiB: connect a larger worker or ask for less"},
  };
  for (const Case& test : cases) {
    Snapshot input;
    input.Add({test.job});
    input.workers = test.workers;
    EXPECT_EQ(ReasonFor(input, "j1"), test.expected);
    EXPECT_EQ(Fleet(test.workers).WhyNever(test.job.resources, 0), test.expected);
  }
  Snapshot draining;
  draining.Add({Job(1, "a")});
  draining.draining_workers = 2;
  EXPECT_EQ(ReasonFor(draining, "j1"), "no worker takes new work: 2 connected, all draining");
}

TEST(Schedule, NothingStartsWhileThereIsAHold) {
  Snapshot input;
  input.workers = {Worker("w", Resources::CPU, 1, 8, 2)};
  input.Add({Job(1, "a"), Job(2, "a", 0, Resources::CUDA)});
  input.hold = "the disk is short";
  EXPECT_EQ(Plan(input), "| j1 j2");
  EXPECT_EQ(ReasonFor(input, "j1"), "the disk is short");
  EXPECT_NE(ReasonFor(input, "j2"), "the disk is short") << "room would not help it";
}

}  // namespace
}  // namespace thaw
