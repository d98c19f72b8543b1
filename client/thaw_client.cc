#include "client/thaw_client.h"

#include "client/caller.h"
#include "common/base/status.h"

namespace thaw {

absl::StatusOr<std::unique_ptr<ThawClient>> ThawClient::Connect(const ConnectionOptions& options) {
  THAW_ASSIGN_OR_RETURN(std::shared_ptr<Caller> caller, Caller::Create(FindServer(options)));
  return std::unique_ptr<ThawClient>(new ThawClient(std::move(caller)));
}

ThawClient::ThawClient(std::shared_ptr<Caller> caller)
    : server_(caller->options().server), jobs_(caller), artifacts_(caller) {}

}  // namespace thaw
