// Makes short calls: access token, deadline, repetition, translated status. Inside client/.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "grpcpp/grpcpp.h"

namespace thaw {

// Whether a call may be made again when its answer did not arrive.
enum class Repeat { kNever, kAllowed };

// Thread-safe.
class Caller {
 public:
  // FAILED_PRECONDITION with the remedy when the access token or a certificate cannot be read. Does
  // not connect.
  static absl::StatusOr<std::shared_ptr<Caller>> Create(const ConnectionOptions& options);

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  const ConnectionOptions& options() const { return options_; }
  const std::string& access_token() const { return access_token_; }

  // With the access token; no deadline when `seconds` is 0.
  std::unique_ptr<grpc::ClientContext> NewContext(double seconds) const;

  // Runs `call` until it is answered, for at most retry_seconds where it may be repeated.
  absl::Status Call(Repeat repeat,
                    const std::function<grpc::Status(grpc::ClientContext*)>& call) const;

  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(Stub* stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request, Repeat repeat = Repeat::kAllowed) const {
    Response response;
    const absl::Status status = Call(repeat, [&](grpc::ClientContext* context) {
      return (stub->*method)(context, request, &response);
    });
    if (!status.ok()) return status;
    return response;
  }

  // `status` as a caller should read it: what cannot be reached is told with the remedy.
  absl::Status Explain(const absl::Status& status) const;

 private:
  Caller(ConnectionOptions options, std::string access_token,
         std::shared_ptr<grpc::Channel> channel)
      : options_(std::move(options)),
        access_token_(std::move(access_token)),
        channel_(std::move(channel)) {}

  const ConnectionOptions options_;
  const std::string access_token_;
  const std::shared_ptr<grpc::Channel> channel_;
};

// Waits between tries: 0.1 s, doubled each time up to `longest_seconds`, each shortened at random
// by up to half, so that many clients do not come back at once.
class Backoff {
 public:
  explicit Backoff(double longest_seconds) : longest_seconds_(longest_seconds) {}
  // Seconds to wait before the next try.
  double Next();
  void Reset() { next_seconds_ = 0.1; }

 private:
  const double longest_seconds_;
  double next_seconds_ = 0.1;
};

}  // namespace thaw
