#include "server/scheduling/job_queue.h"

#include <algorithm>
#include <utility>

namespace thaw {

int DeviceCount(const v1::Resources& resources) { return std::max(1, resources.device_count()); }

void JobQueue::Put(QueuedJob job) {
  Remove(job.id);
  std::string id = job.id;
  const QueuedJob& kept = jobs_[std::move(id)] = std::move(job);
  levels_[kept.priority][kept.owner][kept.number] = {&kept, DeviceCount(kept.resources)};
}

bool JobQueue::Remove(const std::string& id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return false;
  const QueuedJob& job = found->second;
  const auto level = levels_.find(job.priority);
  const auto owner = level->second.find(job.owner);
  owner->second.erase(job.number);
  if (owner->second.empty()) level->second.erase(owner);
  if (level->second.empty()) levels_.erase(level);
  jobs_.erase(found);
  return true;
}

void JobQueue::SetNotBefore(const std::string& id, int64_t not_before) {
  jobs_.at(id).not_before = not_before;
}

const QueuedJob* JobQueue::Find(const std::string& id) const {
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? nullptr : &found->second;
}

int64_t JobQueue::OldestCreateMicros() const {
  const QueuedJob* oldest = nullptr;
  for (const auto& [priority, owners] : levels_) {
    for (const auto& [owner, jobs] : owners) {
      const QueuedJob* first = jobs.begin()->second.job;
      if (oldest == nullptr || first->number < oldest->number) oldest = first;
    }
  }
  return oldest->create_micros;
}

}  // namespace thaw
