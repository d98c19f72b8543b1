#include "server/rpc/call_threads.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace thaw {

using grpc::experimental::InterceptionHookPoints;

class CallThreads::Interceptor final : public grpc::experimental::Interceptor {
 public:
  Interceptor(CallThreads& owner, grpc::experimental::ServerRpcInfo* call, int64_t number)
      : owner_(owner),
        context_(call->server_context()),
        number_(number),
        reflection_(absl::StartsWith(call->method(), "/grpc.reflection.")) {}
  ~Interceptor() override { owner_.End(context_, number_); }

  // A cancellation comes here too, from within CancelStalled: it must touch nothing.
  void Intercept(grpc::experimental::InterceptorBatchMethods* batch) override {
    if (batch->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA) &&
        !owner_.Begin(context_, number_, reflection_)) {
      context_->TryCancel();
    }
    if (batch->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      owner_.Answering(context_, number_);
    }
    // The context may go before this object does.
    if (batch->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_CLOSE)) {
      owner_.End(context_, number_);
    }
    batch->Proceed();
  }

 private:
  CallThreads& owner_;
  grpc::ServerContextBase* const context_;
  const int64_t number_;
  const bool reflection_;
};

class CallThreads::Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(CallThreads& owner) : owner_(owner) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* call) override {
    const absl::string_view method = call->method();
    if (absl::EndsWith(method, "/WatchJob") || absl::EndsWith(method, "/Sync") ||
        absl::StartsWith(method, "/grpc.health.")) {
      return nullptr;
    }
    MutexLock lock(owner_.mutex_);
    return new Interceptor(owner_, call, ++owner_.last_number_);
  }

 private:
  CallThreads& owner_;
};

CallThreads::CallThreads(CallThreadsOptions options, const Clock& clock)
    : options_(options), clock_(clock) {
  thread_ = std::thread([this] { CancelStalled(); });
}

CallThreads::~CallThreads() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    stopped_.SignalAll();
  }
  thread_.join();
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CallThreads::Observer() {
  return std::make_unique<Factory>(*this);
}

absl::Status CallThreads::Attribute(const grpc::ServerContextBase& context,
                                    const std::string& caller) {
  MutexLock lock(mutex_);
  const auto call = calls_.find(&context);
  if (call == calls_.end() || !call->second.caller.empty()) return absl::OkStatus();
  int& held = by_caller_[caller];
  if (held >= options_.max_per_caller) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                          caller, " has ", held,
                          " calls under way, which is all that one caller may: wait for "
                          "their answers")),
                      "TOO_MANY_CALLS");
  }
  ++held;
  call->second.caller = caller;
  return absl::OkStatus();
}

bool CallThreads::Begin(grpc::ServerContextBase* context, int64_t number, bool reflection) {
  MutexLock lock(mutex_);
  if (reflection && reflections_ >= options_.max_reflections) return false;
  reflections_ += reflection ? 1 : 0;
  calls_[context] = {number, reflection, "", reflection ? clock_.BootMicros() : 0};
  return true;
}

void CallThreads::Answering(grpc::ServerContextBase* context, int64_t number) {
  MutexLock lock(mutex_);
  const auto call = calls_.find(context);
  if (call == calls_.end() || call->second.number != number) return;
  if (call->second.bounded_since == 0) call->second.bounded_since = clock_.BootMicros();
}

void CallThreads::End(grpc::ServerContextBase* context, int64_t number) {
  MutexLock lock(mutex_);
  const auto call = calls_.find(context);
  if (call == calls_.end() || call->second.number != number) return;
  reflections_ -= call->second.reflection ? 1 : 0;
  const auto held = by_caller_.find(call->second.caller);
  if (held != by_caller_.end() && --held->second == 0) by_caller_.erase(held);
  calls_.erase(call);
}

void CallThreads::CancelStalled() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    stopped_.WaitFor(mutex_, options_.stall_seconds / 4);
    const int64_t oldest =
        clock_.BootMicros() - static_cast<int64_t>(options_.stall_seconds * 1'000'000);
    for (auto& [context, call] : calls_) {
      if (call.bounded_since == 0 || call.bounded_since > oldest) continue;
      THAW_LOG(kWarning, "call_stalled", {"caller", call.caller});
      const_cast<grpc::ServerContextBase*>(context)->TryCancel();
      call.bounded_since = clock_.BootMicros();
    }
  }
}

}  // namespace thaw
