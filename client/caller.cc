#include "client/caller.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"

namespace thaw {
namespace {

constexpr double kLongestWait = 1;

}  // namespace

absl::StatusOr<std::shared_ptr<Caller>> Caller::Create(const ConnectionOptions& options) {
  const TlsFiles tls = {options.ca_file, options.certificate_file, options.key_file};
  THAW_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, CreateChannel(options.server, tls));
  std::string access_token;
  if (!options.token_file.empty()) {
    THAW_ASSIGN_OR_RETURN(access_token, ReadAccessToken(options.token_file));
  } else if (options.certificate_file.empty() && IsLoopbackAddress(options.server)) {
    return absl::UnavailableError(
        "no server of yours has run on this machine; start one with thaw up, or name another with "
        "--server and --token_file");
  } else if (options.certificate_file.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "no access token for ", options.server,
        "; name its file with --token_file or THAW_TOKEN_FILE, or give a certificate"));
  }
  return std::shared_ptr<Caller>(new Caller(options, std::move(access_token), std::move(channel)));
}

std::unique_ptr<grpc::ClientContext> Caller::NewContext(double seconds) const {
  auto context = std::make_unique<grpc::ClientContext>();
  AddAccessToken(access_token_, context.get());
  if (seconds > 0) {
    context->set_deadline(std::chrono::system_clock::now() +
                          std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6)));
  }
  return context;
}

absl::Status Caller::Call(Repeat repeat,
                          const std::function<grpc::Status(grpc::ClientContext*)>& call) const {
  const int64_t begin = RealClock().BootMicros();
  Backoff backoff(kLongestWait);
  while (true) {
    const std::unique_ptr<grpc::ClientContext> context = NewContext(options_.call_seconds);
    const absl::Status status = FromGrpcStatus(call(context.get()));
    if (!absl::IsUnavailable(status) || repeat == Repeat::kNever) return Explain(status);
    const double wait = backoff.Next();
    const double passed = static_cast<double>(RealClock().BootMicros() - begin) * 1e-6;
    if (passed + wait > options_.retry_seconds) return Explain(status);
    WaitToCallAgain(channel_.get(), wait);
  }
}

absl::Status Caller::Explain(const absl::Status& status) const {
  // An answer with a reason comes from a server; without one the connection itself failed.
  if (absl::IsUnavailable(status) && ReasonOf(status).empty()) {
    // gRPC's text lists every attempt; what people need is its last clause, such as "Connection
    // refused".
    const absl::string_view text = status.message();
    const size_t clause = text.rfind(": ");
    const absl::string_view cause = clause == text.npos ? text : text.substr(clause + 2);
    return absl::UnavailableError(absl::StrCat("the server ", options_.server,
                                               " cannot be reached (", cause,
                                               "); start one with thaw up, or name another with "
                                               "--server or THAW_SERVER"));
  }
  if (absl::IsUnauthenticated(status)) {
    return Annotate(status, absl::StrCat("the access token in ", options_.token_file,
                                         " is not one of the server ", options_.server));
  }
  return status;
}

double Backoff::Next() {
  static thread_local std::minstd_rand random{std::random_device{}()};
  const double wait = next_seconds_ * std::uniform_real_distribution<double>(0.5, 1.0)(random);
  next_seconds_ = std::min(longest_seconds_, 2 * next_seconds_);
  return wait;
}

}  // namespace thaw
