#include "common/rpc/channel.h"

#include <arpa/inet.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace thaw {

bool IsLoopback(const std::string& address) {
  if (absl::StartsWith(address, "unix:")) return true;
  const std::string host = address.substr(0, address.rfind(':'));
  in_addr ip{};
  // Only a literal address counts: a name such as 127.example.org may lead anywhere.
  if (inet_pton(AF_INET, host.c_str(), &ip) == 1) return ntohl(ip.s_addr) >> 24 == 127;
  return host == "[::1]" || host == "localhost";
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> CreateChannel(const ChannelOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5'000);
  if (options.certificate_file.empty() != options.key_file.empty()) {
    return InvalidField("certificate", "a client certificate and its key are needed together");
  }
  if (options.ca_file.empty()) {
    if (!options.certificate_file.empty()) {
      return InvalidField(
          "ca",
          "a client certificate needs the CA that the server's certificate is checked against");
    }
    if (!IsLoopback(options.address)) {
      return InvalidField("server",
                          absl::StrCat(options.address,
                                       " is beyond this machine and the access token would "
                                       "travel in the clear; give the server's CA"));
    }
    return grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(),
                                     arguments);
  }
  grpc::SslCredentialsOptions tls;
  THAW_ASSIGN_OR_RETURN(tls.pem_root_certs, ReadFile(options.ca_file));
  if (!options.certificate_file.empty()) {
    THAW_ASSIGN_OR_RETURN(tls.pem_cert_chain, ReadFile(options.certificate_file));
    THAW_ASSIGN_OR_RETURN(tls.pem_private_key, ReadFile(options.key_file));
  }
  return grpc::CreateCustomChannel(options.address, grpc::SslCredentials(tls), arguments);
}

void Identify(const CallIdentity& identity, grpc::ClientContext& context) {
  if (!identity.access_token.empty())
    context.AddMetadata("authorization", absl::StrCat("Bearer ", identity.access_token));
  if (!identity.attempt_id.empty()) context.AddMetadata("thaw-attempt", identity.attempt_id);
}

absl::StatusOr<std::string> ReadAccessToken(const std::string& file) {
  THAW_ASSIGN_OR_RETURN(const std::string text, ReadFile(file, 4096));
  const std::string token(absl::StripAsciiWhitespace(text));
  if (token.empty())
    return absl::InvalidArgumentError(absl::StrCat(file, " holds no access token"));
  return token;
}

}  // namespace thaw
