#include "common/rpc/channel.h"

#include <chrono>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace thaw {
namespace {

constexpr int kKeepaliveMillis = 30'000;
constexpr int kKeepaliveTimeoutMillis = 10'000;
// Between the starts of two connection attempts, and how long each may take, handshakes included:
// gRPC knows only one number for both.
constexpr int kFirstReconnectMillis = 1'000;
constexpr int kLongestReconnectMillis = 3'000;

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  if (path.empty()) return std::string();
  absl::StatusOr<std::string> pem = ReadFile(path);
  if (pem.ok()) return pem;
  return absl::FailedPreconditionError(
      absl::StrCat("cannot read the PEM file ", path, ": ", pem.status().message()));
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const std::string& address,
                                                                      const TlsFiles& tls) {
  if (!tls.any()) {
    if (IsLoopbackAddress(address)) return grpc::InsecureChannelCredentials();
    return absl::FailedPreconditionError(
        absl::StrCat("the server ", address,
                     " is not on this machine, so the connection must be TLS; "
                     "give the file of its certificate authority"));
  }
  if (tls.certificate_file.empty() != tls.key_file.empty()) {
    return absl::FailedPreconditionError(
        "a certificate and its key go together; give both files or neither");
  }
  grpc::SslCredentialsOptions options;
  THAW_ASSIGN_OR_RETURN(options.pem_root_certs, ReadPem(tls.ca_file));
  THAW_ASSIGN_OR_RETURN(options.pem_cert_chain, ReadPem(tls.certificate_file));
  THAW_ASSIGN_OR_RETURN(options.pem_private_key, ReadPem(tls.key_file));
  return grpc::SslCredentials(options);
}

}  // namespace

bool IsLoopbackAddress(absl::string_view address) {
  if (absl::StartsWith(address, "unix:")) return true;
  const absl::string_view host = address.substr(0, address.rfind(':'));
  if (host == "localhost" || host == "[::1]" || host == "::1") return true;
  if (!absl::StartsWith(host, "127.")) return false;
  // A name such as 127.example.org is no address.
  for (const char c : host) {
    if (!absl::ascii_isdigit(c) && c != '.') return false;
  }
  return true;
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> CreateChannel(const std::string& address,
                                                             const TlsFiles& tls) {
  THAW_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ChannelCredentials> credentials,
                        Credentials(address, tls));
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMillis);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMillis);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnectMillis);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kFirstReconnectMillis);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLongestReconnectMillis);
  // A channel of its own for every caller, so that transfers do not queue behind short calls.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

void WaitToCallAgain(grpc::Channel* channel, double seconds) {
  const std::chrono::microseconds wait(static_cast<int64_t>(seconds * 1e6));
  if (channel->GetState(/*try_to_connect=*/true) == GRPC_CHANNEL_READY) {
    std::this_thread::sleep_for(wait);
  } else {
    channel->WaitForConnected(std::chrono::system_clock::now() + wait);
  }
}

absl::StatusOr<std::string> ReadAccessToken(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path, 4096);
  if (!text.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot read the access token: ", text.status().message(),
                     "; the server writes it to access_token in its data directory"));
  }
  const std::string token(absl::StripAsciiWhitespace(*text));
  for (const char c : token) {
    if (!absl::ascii_isgraph(c)) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, " holds more than one access token; give a file with one line"));
    }
  }
  if (token.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is empty; give an access token's file"));
  }
  return token;
}

void AddAccessToken(const std::string& token, grpc::ClientContext* context) {
  if (!token.empty()) context->AddMetadata("authorization", absl::StrCat("Bearer ", token));
}

}  // namespace thaw
