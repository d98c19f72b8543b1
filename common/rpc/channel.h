// Channels to a Thaw server, for clients and workers alike.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace thaw {

// Where thawd listens unless told otherwise.
inline constexpr char kDefaultServer[] = "127.0.0.1:7433";

// PEM files; all empty: no TLS.
struct TlsFiles {
  std::string ca_file;           // whose certificates are believed; empty: the system's
  std::string certificate_file;  // the caller's own, with its key, where the server asks for one
  std::string key_file;
  bool any() const { return !ca_file.empty() || !certificate_file.empty() || !key_file.empty(); }
};

// Whether "host:port" or "unix:path" stays on this machine.
bool IsLoopbackAddress(absl::string_view address);

// A channel with keepalive pings, so that a silent break shows within 40 s, and quick reconnects.
// Does not connect yet. FAILED_PRECONDITION names a file that cannot be read or a certificate
// without key. Without TLS only loopback addresses are taken: access tokens would be readable on
// the way.
absl::StatusOr<std::shared_ptr<grpc::Channel>> CreateChannel(const std::string& address,
                                                             const TlsFiles& tls);

// Between two calls on `channel` of which the first could not be sent: waits `seconds`, or until it
// is connected. Sleeping would not do, as gRPC brings a connection up only while somebody waits in
// it.
void WaitToCallAgain(grpc::Channel* channel, double seconds);

// The access token in the first line of a file; FAILED_PRECONDITION with the remedy.
absl::StatusOr<std::string> ReadAccessToken(const std::string& path);

// "authorization: Bearer <token>"; nothing for an empty token.
void AddAccessToken(const std::string& token, grpc::ClientContext* context);

}  // namespace thaw
