#include "common/rpc/channel.h"

#include <gtest/gtest.h>

#include <string>

#include "common/base/files.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

TEST(ChannelTest, LoopbackIsWhatCannotLeaveTheMachine) {
  for (const char* address : {"127.0.0.1:7433", "127.255.0.9:1", "localhost:7433", "[::1]:7433",
                              "unix:/run/thaw.sock", kDefaultServer}) {
    EXPECT_TRUE(IsLoopbackAddress(address)) << address;
  }
  for (const char* address :
       {"0.0.0.0:7433", "[::]:7433", "10.0.0.1:7433", "128.0.0.1:80", "example.org:7433",
        "localhost.example.org:7433", "127.example.org:7433", "127.0.0.1.example.org:80",
        "[::2]:80", "[::ffff:10.0.0.1]:80", "dns:///127.0.0.1:80", "1127.0.0.1:80", ":7433", ""}) {
    EXPECT_FALSE(IsLoopbackAddress(address)) << address;
  }
}

TEST(ChannelTest, BeyondThisMachineOnlyWithTls) {
  EXPECT_TRUE(CreateChannel("127.0.0.1:1", {}).ok());
  const absl::Status refused = CreateChannel("thaw.example.org:7433", {}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.message().find("thaw.example.org:7433"), absl::string_view::npos) << refused;
}

TEST(ChannelTest, TlsFilesMustBeThereAndComeInPairs) {
  const TempDir directory;
  TlsFiles tls;
  tls.ca_file = directory.path() + "/none.pem";
  const absl::Status missing = CreateChannel("127.0.0.1:1", tls).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(missing.message().find(tls.ca_file), absl::string_view::npos) << missing;
  tls = {};
  tls.certificate_file = directory.path() + "/cert.pem";
  EXPECT_EQ(CreateChannel("127.0.0.1:1", tls).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(ChannelTest, AnAccessTokenIsOneLine) {
  const TempDir directory;
  const std::string path = directory.path() + "/token";
  const struct {
    std::string content;
    bool good;
  } cases[] = {{"abc123\n", true},
               {"abc123", true},
               {" abc123 \r\n", true},
               {"", false},
               {"\n", false},
               {"two\nlines\n", false},
               {"with space", false},
               {std::string("a\0b", 3), false},
               {std::string(5000, 'a'), false}};
  for (const auto& one : cases) {
    ASSERT_TRUE(WriteFileAtomically(path, one.content, 0600).ok());
    const auto token = ReadAccessToken(path);
    EXPECT_EQ(token.ok(), one.good) << one.content.substr(0, 20) << ": " << token.status();
    if (token.ok()) {
      EXPECT_EQ(*token, "abc123");
    } else {
      EXPECT_EQ(token.status().code(), absl::StatusCode::kFailedPrecondition);
    }
  }
  EXPECT_EQ(ReadAccessToken(path + "x").status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace thaw
