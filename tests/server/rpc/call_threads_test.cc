// Calls that never end must not keep the server's threads from others.
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/rpc_fixture.h"

namespace thaw {
namespace {

RpcServerOptions FewThreads() {
  RpcServerOptions options;
  options.max_transfers = 1;  // 193 threads in all, 96 for one caller
  return options;
}

// Calls whose answers nobody reads.
class CallThreadsTest : public ::testing::Test, public RpcFixture {
 protected:
  struct OpenCall {
    grpc::ClientContext context;
    std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call;
    grpc::Status status;
  };

  CallThreadsTest() : RpcFixture(FewThreads()) {
    grpc::ChannelArguments arguments;
    // No window beyond what is asked for, and nothing is.
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 5);
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = std::make_unique<grpc::GenericStub>(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server().port()),
                                  grpc::InsecureChannelCredentials(), arguments));
  }
  ~CallThreadsTest() override {
    for (const auto& open : calls_) open->context.TryCancel();
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  void Open(const std::string& method, const std::string& who, bool end_requests) {
    auto& open = *calls_.emplace_back(std::make_unique<OpenCall>());
    open.context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    if (!who.empty()) AddAccessToken(token(who), &open.context);
    open.call = stub_->PrepareCall(&open.context, method, &queue_);
    open.call->StartCall(nullptr);
    AwaitNull();
    if (end_requests) {
      open.call->Write(grpc::ByteBuffer(&empty_, 1), grpc::WriteOptions().set_last_message(),
                       nullptr);
      AwaitNull();
    }
    open.call->Finish(&open.status, &open);
  }
  // The status of the next call that ends.
  absl::Status NextEnd() {
    void* tag = nullptr;
    bool ok = false;
    if (ended_.empty()) {
      EXPECT_TRUE(queue_.Next(&tag, &ok));
      ended_.push_back(static_cast<OpenCall*>(tag));
    }
    OpenCall* const open = ended_.back();
    ended_.pop_back();
    return FromGrpcStatus(open->status);
  }
  absl::Status List(const std::string& who) {
    return Call(jobs(), &v1::FineTuneService::Stub::ListJobs, who, v1::ListJobsRequest()).status();
  }

 private:
  void AwaitNull() {
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok) && tag != nullptr) ended_.push_back(static_cast<OpenCall*>(tag));
  }

  const grpc::Slice empty_{""};
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericStub> stub_;
  std::vector<std::unique_ptr<OpenCall>> calls_;
  std::vector<OpenCall*> ended_;
};

TEST_F(CallThreadsTest, ReflectionStreamsOfNobodyGetFew) {
  constexpr int kStreams = 220;
  for (int i = 0; i < kStreams; ++i) {
    Open("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "", false);
  }
  for (int i = 0; i < kStreams - 4; ++i) EXPECT_EQ(NextEnd().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(List("ann").ok());
}

TEST_F(CallThreadsTest, AnswersThatOneCallerDoesNotTakeHoldUpNobodyElse) {
  ASSERT_TRUE(Submit("ann", Spec("ann")).ok());
  for (int i = 0; i < 200; ++i) Open("/thaw.v1.FineTuneService/ListJobs", "ann", true);
  EXPECT_EQ(ReasonOf(NextEnd()), "TOO_MANY_CALLS");
  EXPECT_TRUE(List("bob").ok());
}

}  // namespace
}  // namespace thaw
