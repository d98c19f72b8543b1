#include "server/metrics/metrics_server.h"

#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"

namespace thaw {

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& address,
    std::vector<std::shared_ptr<prometheus::Collectable>> collectables) {
  auto server = std::unique_ptr<MetricsServer>(new MetricsServer());
  server->collectables_ = std::move(collectables);
  // The library reports a taken port by throwing, and in no other way.
  try {
    server->exposer_ = std::make_unique<prometheus::Exposer>(address, 2);
  } catch (const std::exception&) {
    return absl::UnavailableError(absl::StrCat(
        "cannot serve metrics on ", address,
        ": the address is taken or not this machine's; choose another with --metrics_listen"));
  }
  for (const auto& collectable : server->collectables_) {
    server->exposer_->RegisterCollectable(collectable);
  }
  server->port_ = server->exposer_->GetListeningPorts().front();
  return server;
}

}  // namespace thaw
