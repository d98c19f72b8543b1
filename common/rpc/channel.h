// How clients and workers reach a server.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace thaw {

// Where thawd listens and thaw-worker and thaw dial unless told otherwise.
inline constexpr char kDefaultServer[] = "127.0.0.1:7433";

struct ChannelOptions {
  std::string address = kDefaultServer;
  // PEM files. With `ca_file` the connection is TLS; with certificate and key too, mutual TLS.
  std::string ca_file;
  std::string certificate_file;
  std::string key_file;
};

// With keepalive, so that a dead peer is noticed within 40 s. Does not dial yet. INVALID_ARGUMENT
// for a file that cannot be read, for half a key pair, and for an address beyond loopback without
// TLS.
absl::StatusOr<std::shared_ptr<grpc::Channel>> CreateChannel(const ChannelOptions& options);

// True for 127.0.0.0/8, [::1], localhost and unix sockets.
bool IsLoopback(const std::string& address);

// What every call carries.
struct CallIdentity {
  std::string access_token;
  // A worker's calls for one attempt name it; empty otherwise.
  std::string attempt_id;
};

// Adds "authorization: Bearer …" and "thaw-attempt: …". Each call has its own, so one channel may
// serve several identities.
void Identify(const CallIdentity& identity, grpc::ClientContext& context);

// The token in `file`: one line, not empty.
absl::StatusOr<std::string> ReadAccessToken(const std::string& file);

}  // namespace thaw
