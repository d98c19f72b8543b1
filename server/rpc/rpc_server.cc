#include "server/rpc/rpc_server.h"

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "grpc/support/log.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/rpc/access_tokens.h"
#include "server/rpc/artifact_service.h"
#include "server/rpc/authorizer.h"
#include "server/rpc/call_threads.h"
#include "server/rpc/fine_tune_service.h"
#include "server/rpc/server_parts.h"
#include "server/rpc/sync_calls.h"
#include "server/rpc/transfers.h"
#include "server/rpc/watch_streams.h"
#include "server/rpc/worker_service.h"

namespace thaw {
namespace {

constexpr int kMaxMessageBytes = 4 << 20;
constexpr int kThreadsForOtherCalls = 192;

// gRPC's own lines are for those who debug it; what a user must know comes back as a status.
void LogFromGrpc(gpr_log_func_args* line) {
  THAW_LOG(kDebug, "grpc", {"file", line->file}, {"line", line->line}, {"message", line->message});
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials(
    const RpcServerOptions& options) {
  const bool tls = !options.tls_certificate.empty();
  if (tls != !options.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls_cert and --tls_key belong together: give both");
  }
  if (!tls && !options.tls_client_ca.empty()) {
    return absl::InvalidArgumentError("--tls_client_ca needs --tls_cert and --tls_key");
  }
  if (!IsLoopbackAddress(options.listen) &&
      (!tls || (options.tls_client_ca.empty() && !options.behind_proxy))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--listen ", options.listen,
        " is beyond this machine: give --tls_cert, --tls_key and --tls_client_ca (mutual TLS), or "
        "the first two with --behind_proxy"));
  }
  if (!tls) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions ssl(
      options.tls_client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                    : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  grpc::SslServerCredentialsOptions::PemKeyCertPair pair;
  THAW_ASSIGN_OR_RETURN(pair.cert_chain, ReadFile(options.tls_certificate, 1 << 20));
  THAW_ASSIGN_OR_RETURN(pair.private_key, ReadFile(options.tls_key, 1 << 20));
  ssl.pem_key_cert_pairs.push_back(std::move(pair));
  if (!options.tls_client_ca.empty()) {
    THAW_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadFile(options.tls_client_ca, 1 << 20));
  }
  return grpc::SslServerCredentials(ssl);
}

void SetLimits(const RpcServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMaxMessageBytes);
  grpc::ResourceQuota quota("thawd");
  quota.SetMaxThreads(options.max_transfers + kThreadsForOtherCalls);
  builder->SetResourceQuota(quota);
  builder->SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder->SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
  builder->SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 4);
  for (const auto& [name, value] : std::initializer_list<std::pair<const char*, int>>{
           // Or a second server would share the port, and half of the calls.
           {GRPC_ARG_ALLOW_REUSEPORT, 0},
           {GRPC_ARG_MAX_METADATA_SIZE, 8 << 10},
           {GRPC_ARG_MAX_CONCURRENT_STREAMS, 1000},
           {GRPC_ARG_KEEPALIVE_TIME_MS, 30'000},
           {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000},
           {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
           {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000},
           {GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2},
           {GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 5'000}}) {
    builder->AddChannelArgument(name, value);
  }
}

// A thread that always waits for the server's connections. Where a server has callback methods,
// gRPC 1.51 keeps the threads of the blocking ones from waiting there, and its own two pause
// together for 100 ms of every 1.1 s, in which nobody would read.
class ConnectionPoller {
 public:
  explicit ConnectionPoller(std::unique_ptr<grpc::ServerCompletionQueue> queue)
      : queue_(std::move(queue)), thread_([this] {
          void* tag;
          bool ok;
          while (queue_->Next(&tag, &ok)) {
          }
        }) {}

  // After the server's shutdown.
  ~ConnectionPoller() {
    queue_->Shutdown();
    thread_.join();
  }

 private:
  const std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::thread thread_;
};

WatchOptions WatchOptionsOf(const RpcServerOptions& options) {
  WatchOptions watch;
  watch.heartbeat_seconds = options.heartbeat_seconds;
  return watch;
}

}  // namespace

class RpcServer::Impl {
 public:
  Impl(const RpcServerOptions& options, std::unique_ptr<AccessTokens> tokens, Store& store,
       Dispatcher& dispatcher, ArtifactStore& artifacts, AttemptLogs& logs, ServiceMetrics& metrics,
       const Clock& clock)
      : options_(options),
        tokens_(std::move(tokens)),
        threads_({.max_per_caller = (options.max_transfers + kThreadsForOtherCalls) / 2,
                  .stall_seconds = options.stall_seconds},
                 clock),
        authorizer_(*tokens_, store, threads_),
        transfers_(options.max_transfers, options.stall_seconds, clock),
        parts_{store,      dispatcher, artifacts,
               logs,       metrics,    authorizer_,
               transfers_, accepting_, options_.max_queued_jobs},
        streams_(store, dispatcher, metrics, clock, WatchOptionsOf(options)),
        syncs_(store, dispatcher, logs, metrics),
        fine_tune_(parts_, streams_),
        artifact_(parts_),
        worker_(parts_, syncs_) {}

  ~Impl() { Stop(); }

  absl::Status Listen() {
    THAW_ASSIGN_OR_RETURN(const auto credentials, Credentials(options_));
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    SetLimits(options_, &builder);
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> observers;
    observers.push_back(threads_.Observer());
    builder.experimental().SetInterceptorCreators(std::move(observers));
    builder.AddListeningPort(options_.listen, credentials, &port_);
    builder.RegisterService(&fine_tune_);
    builder.RegisterService(&artifact_);
    builder.RegisterService(&worker_);
    std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
    server_ = builder.BuildAndStart();
    poller_.emplace(std::move(queue));
    if (server_ == nullptr || port_ < 0 || (port_ == 0 && options_.listen.rfind("unix:", 0) != 0)) {
      return absl::UnavailableError(absl::StrCat(
          "cannot listen on ", options_.listen,
          ": the address is taken, not this machine's, or the certificate and key do not fit; see "
          "--listen and --tls_cert"));
    }
    SetHealth(false);
    return absl::OkStatus();
  }

  void SetHealth(bool serving) {
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    if (health == nullptr) return;
    health->SetServingStatus(serving);
    for (const char* name :
         {"thaw.v1.FineTuneService", "thaw.v1.ArtifactService", "thaw.v1.WorkerService"}) {
      health->SetServingStatus(name, serving);
    }
  }

  void Stop() {
    if (server_ == nullptr) return;
    SetHealth(false);
    accepting_ = false;
    streams_.Stop();
    parts_.dispatcher.Stop();
    server_->Shutdown(
        std::chrono::system_clock::now() +
        std::chrono::milliseconds(static_cast<int64_t>(options_.shutdown_seconds * 1000)));
    server_->Wait();
    poller_.reset();
    server_.reset();
  }

  int port() const { return port_; }
  AccessTokens& tokens() { return *tokens_; }

 private:
  const RpcServerOptions options_;
  const std::unique_ptr<AccessTokens> tokens_;
  CallThreads threads_;
  const Authorizer authorizer_;
  Transfers transfers_;
  std::atomic<bool> accepting_{true};
  const ServerParts parts_;
  WatchStreams streams_;
  SyncCalls syncs_;
  FineTuneServiceImpl fine_tune_;
  ArtifactServiceImpl artifact_;
  WorkerServiceImpl worker_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::optional<ConnectionPoller> poller_;
};

RpcServer::RpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RpcServer::~RpcServer() = default;

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const RpcServerOptions& options, Store& store, Dispatcher& dispatcher, ArtifactStore& artifacts,
    AttemptLogs& logs, ServiceMetrics& metrics, const Clock& clock) {
  gpr_set_log_function(LogFromGrpc);
  THAW_ASSIGN_OR_RETURN(auto tokens, AccessTokens::Load(options.data_dir, options.owners_file));
  auto impl = std::make_unique<Impl>(options, std::move(tokens), store, dispatcher, artifacts, logs,
                                     metrics, clock);
  THAW_RETURN_IF_ERROR(impl->Listen());
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(impl)));
}

int RpcServer::port() const { return impl_->port(); }
void RpcServer::SetServing() { impl_->SetHealth(true); }
absl::Status RpcServer::ReloadTokens() { return impl_->tokens().Reload(); }
void RpcServer::Stop() { impl_->Stop(); }
std::vector<std::string> RpcServer::RpcNames() { return Authorizer::Rpcs(); }

}  // namespace thaw
