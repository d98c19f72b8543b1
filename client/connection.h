// How a client reaches its server: where it is, who the caller is, how often a call is tried.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace thaw {

struct ConnectionOptions {
  // "host:port". Empty: $THAW_SERVER, otherwise the address that `thaw up` left in its data
  // directory, otherwise 127.0.0.1:7433.
  std::string server;
  // File that holds the access token. Empty: $THAW_TOKEN_FILE, otherwise, for a server on this
  // machine, the one in the data directory of `thaw up`.
  std::string token_file;
  // PEM files. With any of them set the connection is TLS; certificate and key go together.
  std::string ca_file;
  std::string certificate_file;
  std::string key_file;
  // Deadline of one try of a short call.
  double call_seconds = 10;
  // How long a short call that may be repeated is tried again while the server cannot be reached.
  double retry_seconds = 5;
};

// $XDG_DATA_HOME/thaw, otherwise ~/.local/share/thaw: where `thaw up` keeps everything.
std::string DefaultDataDirectory();

// `options` with server and token file filled in by the rules above.
ConnectionOptions FindServer(ConnectionOptions options);

}  // namespace thaw
