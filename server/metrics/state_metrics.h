// The server's state at the moment of a scrape: queue, jobs, workers, disks.
#pragma once

#include <string>
#include <vector>

#include "prometheus/collectable.h"
#include "server/artifacts/artifact_store.h"
#include "server/jobs/store.h"
#include "server/scheduling/disk_guard.h"
#include "server/scheduling/dispatcher.h"

namespace thaw {

// Thread-safe. What it is given outlives it.
class StateMetrics : public prometheus::Collectable {
 public:
  StateMetrics(const Store& store, const Dispatcher& dispatcher, ArtifactStore& artifacts,
               const DiskGuard& guard, std::string data_dir, std::string version);
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Store& store_;
  const Dispatcher& dispatcher_;
  ArtifactStore& artifacts_;
  const DiskGuard& guard_;
  const std::string data_dir_;
  const std::string version_;
};

}  // namespace thaw
