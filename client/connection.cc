#include "client/connection.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/files.h"
#include "common/rpc/channel.h"

namespace thaw {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::string DefaultDataDirectory() {
  const std::string base = Environment("XDG_DATA_HOME");
  return base.empty() ? absl::StrCat(Environment("HOME"), "/.local/share/thaw")
                      : absl::StrCat(base, "/thaw");
}

ConnectionOptions FindServer(ConnectionOptions options) {
  if (options.server.empty()) options.server = Environment("THAW_SERVER");
  if (options.server.empty()) {
    const auto address = ReadFile(absl::StrCat(DefaultDataDirectory(), "/address"), 4096);
    if (address.ok()) options.server = std::string(absl::StripSuffix(*address, "\n"));
  }
  if (options.server.empty()) options.server = kDefaultServer;
  if (options.token_file.empty()) options.token_file = Environment("THAW_TOKEN_FILE");
  // The token of the server on this machine is nobody else's business.
  const std::string own_token = absl::StrCat(DefaultDataDirectory(), "/access_token");
  if (options.token_file.empty() && IsLoopbackAddress(options.server) && Exists(own_token)) {
    options.token_file = own_token;
  }
  return options;
}

}  // namespace thaw
