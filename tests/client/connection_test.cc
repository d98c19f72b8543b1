#include "client/connection.h"

#include <cstdlib>

#include "client/thaw_client.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "gmock/gmock.h"
#include "tests/client/fake_thaw_server.h"

namespace thaw {
namespace {

// A home directory without anything of a real user's.
class ConnectionTest : public testing::Test {
 protected:
  ConnectionTest() : home_(testing::TempDir() + "/home_" + RandomId()) {
    EXPECT_TRUE(MakeDirectories(home_ + "/thaw").ok());
    setenv("XDG_DATA_HOME", home_.c_str(), 1);
    unsetenv("THAW_SERVER");
    unsetenv("THAW_TOKEN_FILE");
  }
  ~ConnectionTest() override {
    for (const char* name : {"XDG_DATA_HOME", "THAW_SERVER", "THAW_TOKEN_FILE"}) unsetenv(name);
  }
  void LeaveFile(const std::string& name, const std::string& text) {
    EXPECT_TRUE(WriteFileAtomically(home_ + "/thaw/" + name, text).ok());
  }

  const std::string home_;
};

TEST_F(ConnectionTest, FindsTheServerThatIsNearest) {
  EXPECT_EQ(FindServer({}).server, "127.0.0.1:7433");
  LeaveFile("address", "127.0.0.1:9000\n");
  EXPECT_EQ(FindServer({}).server, "127.0.0.1:9000");
  setenv("THAW_SERVER", "127.0.0.1:9001", 1);
  EXPECT_EQ(FindServer({}).server, "127.0.0.1:9001");
  ConnectionOptions given;
  given.server = "127.0.0.1:9002";
  EXPECT_EQ(FindServer(given).server, "127.0.0.1:9002");
}

TEST_F(ConnectionTest, TheLocalTokenIsForTheLocalServerAlone) {
  EXPECT_EQ(FindServer({}).token_file, "");
  LeaveFile("access_token", "secret\n");
  EXPECT_EQ(FindServer({}).token_file, home_ + "/thaw/access_token");
  ConnectionOptions remote;
  remote.server = "thaw.example.org:7433";
  EXPECT_EQ(FindServer(remote).token_file, "");
  setenv("THAW_TOKEN_FILE", "/other/token", 1);
  EXPECT_EQ(FindServer(remote).token_file, "/other/token");
}

TEST_F(ConnectionTest, RefusesToSendATokenInTheClear) {
  LeaveFile("access_token", "secret\n");
  ConnectionOptions remote;
  remote.server = "thaw.example.org:7433";
  remote.token_file = home_ + "/thaw/access_token";
  const absl::Status status = ThawClient::Connect(remote).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("TLS"));
}

TEST_F(ConnectionTest, SaysWhatIsMissing) {
  EXPECT_THAT(std::string(ThawClient::Connect({}).status().message()),
              testing::HasSubstr("thaw up"));
  ConnectionOptions options;
  options.token_file = "/does/not/exist";
  EXPECT_THAT(std::string(ThawClient::Connect(options).status().message()),
              testing::HasSubstr("/does/not/exist"));
}

TEST_F(ConnectionTest, AWrongTokenIsToldWithItsFile) {
  FakeThawServer server;
  LeaveFile("access_token", "another\n");
  ConnectionOptions options;
  options.server = server.address();
  const auto client = ThawClient::Connect(options);
  ASSERT_TRUE(client.ok()) << client.status();
  const absl::Status status = (*client)->jobs().GetJob("job-1").status();
  EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("thaw/access_token"));
}

}  // namespace
}  // namespace thaw
