// The server as a whole: credentials, health, order of stopping.
#include "server/rpc/rpc_server.h"

#include <cstdlib>

#include "common/base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/rpc_fixture.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

std::string Pem(const std::string& name) {
  return absl::StrCat(std::getenv("THAW_TEST_DATA"), "/tls/", name);
}

RpcServerOptions Tls(bool mutual) {
  RpcServerOptions options;
  options.tls_certificate = Pem("server.pem");
  options.tls_key = Pem("server.key");
  if (mutual) options.tls_client_ca = Pem("ca.pem");
  return options;
}

class RpcServerTest : public ::testing::Test, public RpcFixture {
 protected:
  absl::Status Listen(RpcServerOptions options) {
    options.data_dir = directory();
    return StartAnother(options).status();
  }
};

TEST_F(RpcServerTest, RefusesToListenWithoutProtection) {
  RpcServerOptions beyond;
  beyond.listen = "0.0.0.0:0";
  RpcServerOptions server_only = Tls(false);
  server_only.listen = "0.0.0.0:0";
  RpcServerOptions half = Tls(true);
  half.tls_key.clear();
  RpcServerOptions client_ca_alone;
  client_ca_alone.tls_client_ca = Pem("ca.pem");
  RpcServerOptions missing = Tls(true);
  missing.tls_key = Pem("nothing.key");
  for (const auto& [options, expected] :
       std::vector<std::pair<RpcServerOptions, std::string>>{{beyond, "beyond this machine"},
                                                             {server_only, "--behind_proxy"},
                                                             {half, "belong together"},
                                                             {client_ca_alone, "needs --tls_cert"},
                                                             {missing, "nothing.key"}}) {
    const absl::Status status = Listen(options);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(expected));
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
  }
  RpcServerOptions proxied = Tls(false);
  proxied.listen = "0.0.0.0:0";
  proxied.behind_proxy = true;
  EXPECT_TRUE(Listen(proxied).ok());
  RpcServerOptions mutual = Tls(true);
  mutual.listen = "0.0.0.0:0";
  EXPECT_TRUE(Listen(mutual).ok());
}

TEST_F(RpcServerTest, RefusesAnAddressThatIsTaken) {
  RpcServerOptions taken;
  taken.listen = absl::StrCat("127.0.0.1:", server().port());
  EXPECT_THAT(std::string(Listen(taken).message()), HasSubstr("taken"));
}

TEST_F(RpcServerTest, AnswersForHealth) {
  // HealthCheckRequest.service is field 1; SERVING is field 1 with the value 1.
  v1::GetJobRequest request;
  request.set_id("thaw.v1.FineTuneService");
  std::optional<std::string> answer;
  const absl::Status status =
      CallRaw("/grpc.health.v1.Health/Check", request.SerializeAsString(), "", &answer);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(answer, "\x08\x01");
}

TEST_F(RpcServerTest, TellsItsServicesToStrangers) {
  // ServerReflectionRequest.list_services is field 7.
  std::optional<std::string> answer;
  CallRaw("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "\x3a\x01*", "",
          &answer)
      .IgnoreError();
  ASSERT_TRUE(answer.has_value());
  for (const char* service : {"FineTuneService", "ArtifactService", "WorkerService"}) {
    EXPECT_THAT(*answer, HasSubstr(absl::StrCat("thaw.v1.", service)));
  }
}

TEST_F(RpcServerTest, AMessageThatIsTooLargeIsRefused) {
  v1::CreateJobRequest request;
  request.mutable_spec()->set_display_name(std::string(5 << 20, 'x'));
  EXPECT_EQ(Call(jobs(), &v1::FineTuneService::Stub::CreateJob, "ann", request).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(RpcServerTest, AStoppedServerTakesNothing) {
  const v1::JobSpec spec = Spec("ann");
  server().Stop();
  EXPECT_EQ(Submit("ann", spec).status().code(), absl::StatusCode::kUnavailable);
}

class MutualTlsTest : public ::testing::Test, public RpcFixture {
 protected:
  MutualTlsTest() : RpcFixture(Tls(true)) {}

  absl::StatusCode CallAs(const std::string& certificate, const std::string& who) {
    const auto channel =
        CreateChannel(absl::StrCat("localhost:", server().port()),
                      {Pem("ca.pem"), certificate.empty() ? "" : Pem(certificate + ".pem"),
                       certificate.empty() ? "" : Pem(certificate + ".key")});
    EXPECT_TRUE(channel.ok()) << channel.status();
    const auto stub = v1::FineTuneService::NewStub(*channel);
    return Call(*stub, &v1::FineTuneService::Stub::ListJobs, who, v1::ListJobsRequest())
        .status()
        .code();
  }
};

TEST_F(MutualTlsTest, TheCertificateNamesTheCaller) {
  EXPECT_EQ(CallAs("ann", ""), absl::StatusCode::kOk);
  EXPECT_EQ(CallAs("admin", ""), absl::StatusCode::kOk);
  EXPECT_EQ(CallAs("worker", ""), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(CallAs("nameless", ""), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(CallAs("two_roles", ""), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(CallAs("stranger", ""), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CallAs("", "admin"), absl::StatusCode::kUnavailable);
}

TEST_F(MutualTlsTest, ATokenGoesBeforeTheCertificate) {
  EXPECT_EQ(CallAs("nameless", "bob"), absl::StatusCode::kOk);
  EXPECT_EQ(CallAs("admin", "worker"), absl::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace thaw
