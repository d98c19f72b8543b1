#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"
#include "prometheus/exposer.h"

namespace thaw {

// Serves /metrics over plain HTTP. The parser behind it is an old C one: keep it on loopback, with
// a proxy in front for Prometheus on another host. Stops when it goes.
class MetricsServer {
 public:
  // `address` is host:port; port 0 takes a free one. Fails with one line if the port is taken.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(
      const std::string& address,
      std::vector<std::shared_ptr<prometheus::Collectable>> collectables);

  int port() const { return port_; }

 private:
  MetricsServer() = default;
  std::vector<std::shared_ptr<prometheus::Collectable>> collectables_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

}  // namespace thaw
