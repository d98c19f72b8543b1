#include "server/scheduling/fleet.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/scheduling/job_queue.h"

namespace thaw {
namespace {

using v1::Resources;

const char* KindName(Resources::DeviceKind kind) {
  return kind == Resources::CUDA ? "CUDA" : "CPU";
}

std::string Gibibytes(int64_t bytes) {
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / (int64_t{1} << 30));
}

std::string Devices(int count, Resources::DeviceKind kind) {
  return absl::StrCat(count, " ", KindName(kind), count == 1 ? " device" : " devices");
}

}  // namespace

Fleet::Fleet(const std::vector<SchedulableWorker>& workers) {
  workers_.reserve(workers.size());
  for (const SchedulableWorker& given : workers) {
    Worker& worker = workers_.emplace_back();
    worker.name = given.name;
    worker.slots = given.offer.slots();
    worker.attempts = static_cast<int64_t>(given.holds.size());
    worker.takes = given.available;
    worker.devices.reserve(static_cast<size_t>(given.offer.devices_size()));
    for (const v1::Device& device : given.offer.devices()) {
      worker.devices.push_back({device.kind(), device.memory_bytes(), false});
    }
    std::sort(worker.devices.begin(), worker.devices.end(),
              [](const Device& a, const Device& b) { return a.memory_bytes < b.memory_bytes; });
    for (const Hold& hold : given.holds) {
      Take(worker, hold.kind, hold.device_count, hold.min_memory_bytes);
    }
    CountIn(worker);
  }
  std::sort(workers_.begin(), workers_.end(),
            [](const Worker& a, const Worker& b) { return a.name < b.name; });
  for (size_t i = 0; i < workers_.size(); ++i) ListFree(i);
}

void Fleet::CountIn(const Worker& worker) {
  if (worker.slots <= 0) return;
  std::map<Resources::DeviceKind, size_t> seen;
  for (auto device = worker.devices.rbegin(); device != worker.devices.rend(); ++device) {
    std::vector<int64_t>& widest = widest_[device->kind];
    const size_t before = seen[device->kind]++;
    if (before == widest.size()) widest.push_back(0);
    widest[before] = std::max(widest[before], device->memory_bytes);
  }
}

int Fleet::Matching(const Worker& worker, Resources::DeviceKind kind, int64_t memory,
                    bool free_only) {
  return static_cast<int>(
      std::count_if(worker.devices.begin(), worker.devices.end(), [&](const Device& device) {
        return device.kind == kind && device.memory_bytes >= memory && !(free_only && device.taken);
      }));
}

int64_t Fleet::LargestMemory(const Worker& worker, Resources::DeviceKind kind) {
  int64_t largest = 0;
  for (const Device& device : worker.devices) {
    if (device.kind == kind) largest = std::max(largest, device.memory_bytes);
  }
  return largest;
}

void Fleet::Take(Worker& worker, Resources::DeviceKind kind, int count, int64_t memory) {
  if (kind == Resources::CPU) return;  // shared
  for (Device& device : worker.devices) {
    if (count == 0) return;
    if (device.kind != kind || device.taken || device.memory_bytes < memory) continue;
    device.taken = true;
    --count;
  }
}

void Fleet::ListFree(size_t index) {
  const Worker& worker = workers_[index];
  if (!worker.takes || worker.attempts >= worker.slots) return;
  free_by_attempts_.emplace(worker.attempts, index);
  free_by_gpus_.emplace(Matching(worker, Resources::CUDA, 0, true), index);
}

void Fleet::UnlistFree(size_t index) {
  const Worker& worker = workers_[index];
  free_by_attempts_.erase({worker.attempts, index});
  free_by_gpus_.erase({Matching(worker, Resources::CUDA, 0, true), index});
}

bool Fleet::CouldFit(Resources::DeviceKind kind, const Resources& wanted) const {
  const auto widest = widest_.find(kind);
  if (widest == widest_.end()) return false;
  const auto last = static_cast<size_t>(DeviceCount(wanted) - 1);
  return last < widest->second.size() && widest->second[last] >= wanted.min_memory_bytes();
}

Resources::DeviceKind Fleet::Resolve(const Resources& wanted) const {
  if (wanted.device_kind() != Resources::DEVICE_KIND_UNSPECIFIED) return wanted.device_kind();
  return CouldFit(Resources::CUDA, wanted) ? Resources::CUDA : Resources::CPU;
}

std::string Fleet::WhyNever(const Resources& wanted, int draining) const {
  if (workers_.empty()) {
    return draining > 0
               ? absl::StrCat("no worker takes new work: ", draining, " connected, all draining")
               : "no worker is connected: start one with thaw-worker or thaw up";
  }
  const Resources::DeviceKind kind = Resolve(wanted);
  if (CouldFit(kind, wanted)) return "";
  const auto rank = [&](const Worker& worker) {
    return std::make_tuple(Matching(worker, kind, 0, false), LargestMemory(worker, kind));
  };
  const Worker& best =
      *std::max_element(workers_.begin(), workers_.end(),
                        [&](const Worker& a, const Worker& b) { return rank(a) < rank(b); });
  std::string reason = absl::StrCat("needs ", Devices(DeviceCount(wanted), kind));
  if (wanted.min_memory_bytes() > 0) {
    absl::StrAppend(&reason, " of at least ", Gibibytes(wanted.min_memory_bytes()));
  }
  const int most = Matching(best, kind, 0, false);
  if (most == 0) {
    absl::StrAppend(&reason, "; no connected worker has a ", KindName(kind), " device");
  } else {
    absl::StrAppend(&reason, "; the largest worker, ", best.name, ", has ", Devices(most, kind),
                    " of up to ", Gibibytes(LargestMemory(best, kind)));
  }
  return absl::StrCat(reason, ": connect a larger worker or ask for less");
}

const std::string* Fleet::Assign(Resources::DeviceKind kind, const Resources& wanted) {
  const int count = DeviceCount(wanted);
  const bool gpus = kind == Resources::CUDA;
  const Order& order = gpus ? free_by_gpus_ : free_by_attempts_;
  auto place = gpus ? order.lower_bound({count, 0}) : order.begin();
  for (; place != order.end(); ++place) {
    const size_t index = place->second;
    Worker& worker = workers_[index];
    if (Matching(worker, kind, wanted.min_memory_bytes(), true) < count) continue;
    UnlistFree(index);
    ++worker.attempts;
    Take(worker, kind, count, wanted.min_memory_bytes());
    ListFree(index);
    return &worker.name;
  }
  return nullptr;
}

void Fleet::Reserve(Resources::DeviceKind kind, const Resources& wanted) {
  size_t best = workers_.size();
  int most = -1;
  for (size_t i = 0; i < workers_.size(); ++i) {
    const Worker& worker = workers_[i];
    const int64_t memory = wanted.min_memory_bytes();
    if (worker.slots <= 0 || Matching(worker, kind, memory, false) < DeviceCount(wanted)) continue;
    const int free = Matching(worker, kind, memory, true);
    if (free > most) std::tie(best, most) = std::make_tuple(i, free);
  }
  if (best == workers_.size()) return;
  UnlistFree(best);
  workers_[best].takes = false;
}

}  // namespace thaw
