#include "common/rpc/status.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace thaw {
namespace {

// Trailing metadata over this is refused by peers with default settings.
constexpr size_t kMostMetadataBytes = 8192;

TEST(RpcStatusTest, CodeMessageAndDetailsMakeTheRoundTrip) {
  const absl::Status statuses[] = {
      absl::OkStatus(),
      absl::NotFoundError("job-1 does not exist; see thaw list"),
      absl::CancelledError(""),
      absl::UnauthenticatedError("no access token"),
      WithReason(absl::AbortedError("the attempt was replaced"), "ATTEMPT_STALE"),
      WithReason(absl::UnavailableError("stopping"), "STOPPING"),
      WithReason(InvalidFields({{"spec.base_model", "\"x\" does not exist"},
                                {"spec.training.phases[0].until", "is not set"}}),
                 "BAD_SPEC"),
  };
  for (const absl::Status& status : statuses) {
    const absl::Status back = FromGrpcStatus(ToGrpcStatus(status));
    EXPECT_EQ(back.code(), status.code());
    EXPECT_EQ(back.message(), status.message());
    EXPECT_EQ(ReasonOf(back), ReasonOf(status));
    const auto violations = ViolationsOf(status);
    const auto back_violations = ViolationsOf(back);
    ASSERT_EQ(back_violations.size(), violations.size()) << status;
    for (size_t i = 0; i < violations.size(); ++i) {
      EXPECT_EQ(back_violations[i].field, violations[i].field);
      EXPECT_EQ(back_violations[i].description, violations[i].description);
    }
  }
}

TEST(RpcStatusTest, DetailsAreThoseThatOtherClientsKnow) {
  const grpc::Status status =
      ToGrpcStatus(WithReason(WithRetryAfter(InvalidField("name", "is taken"), 2.5), "NAME_TAKEN"));
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), 3);
  EXPECT_EQ(details.message(), "name: is taken");
  google::rpc::BadRequest bad_request;
  google::rpc::ErrorInfo info;
  google::rpc::RetryInfo retry;
  for (const auto& any : details.details()) {
    any.UnpackTo(&bad_request) || any.UnpackTo(&info) || any.UnpackTo(&retry);
  }
  ASSERT_EQ(bad_request.field_violations_size(), 1);
  EXPECT_EQ(bad_request.field_violations(0).field(), "name");
  EXPECT_EQ(info.reason(), "NAME_TAKEN");
  EXPECT_EQ(info.domain(), "thaw");
  EXPECT_EQ(retry.retry_delay().seconds(), 2);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
  EXPECT_EQ(RetryAfterOf(FromGrpcStatus(status)), 2.5);
}

TEST(RpcStatusTest, AServerThatIsGoneMayBeAskedAgain) {
  EXPECT_EQ(RetryAfterOf(FromGrpcStatus(ToGrpcStatus(absl::UnavailableError("stopping")))), 1);
}

TEST(RpcStatusTest, WhatTheCallerCannotMendIsTakenToTheLog) {
  for (const absl::Status& status :
       {absl::InternalError("sqlite: /var/thaw/jobs.db is malformed"), absl::UnknownError("?!")}) {
    ::testing::internal::CaptureStderr();
    const grpc::Status told = ToGrpcStatus(status);
    const std::string log = ::testing::internal::GetCapturedStderr();
    EXPECT_EQ(static_cast<int>(told.error_code()), static_cast<int>(status.code()));
    EXPECT_EQ(told.error_message().find(std::string(status.message())), std::string::npos)
        << told.error_message();
    const size_t at = log.find("incident=");
    ASSERT_NE(at, std::string::npos) << log;
    const std::string incident = log.substr(at + 9, 12);
    EXPECT_NE(told.error_message().find(incident), std::string::npos) << told.error_message();
    EXPECT_NE(log.find(std::string(status.message())), std::string::npos) << log;
  }
}

TEST(RpcStatusTest, DetailsStayBelowWhatPeersTake) {
  std::vector<FieldViolation> violations;
  for (int i = 0; i < 1000; ++i) {
    violations.push_back({absl::StrCat("spec.field", i), std::string(2000, 'x') + "\xc3\xa4"});
  }
  const grpc::Status many = ToGrpcStatus(InvalidFields(violations));
  EXPECT_LT(many.error_details().size() + many.error_message().size(), kMostMetadataBytes);
  const auto back = ViolationsOf(FromGrpcStatus(many));
  ASSERT_FALSE(back.empty());
  EXPECT_EQ(back[0].field, "spec.field0");
  // A cut falls between characters: a byte of half a character would break the proto.
  std::string umlauts;
  for (int i = 0; i < 2000; ++i) umlauts += "\xc3\xa4";
  for (const char* lead : {"", "x"}) {
    const grpc::Status cut = ToGrpcStatus(InvalidField("f", lead + umlauts));
    google::rpc::Status details;
    ASSERT_TRUE(details.ParseFromString(cut.error_details()));
    EXPECT_EQ(ViolationsOf(FromGrpcStatus(cut)).size(), 1u);
  }
}

TEST(RpcStatusTest, BytesThatAreNoTextDoNotLoseTheDetails) {
  const struct {
    std::string bytes;
    std::string text;
  } cases[] = {{"a\xFF"
                "b",
                "a?b"},
               {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"},
               {"cut \xE2\x82", "cut ??"},
               {"\xED\xA0\x80", "???"},
               {"\xC0\x80\xF4\x90\x80\x80", "??????"}};
  for (const auto& one : cases) {
    const grpc::Status status = ToGrpcStatus(InvalidField("files", one.bytes));
    google::rpc::Status details;
    ASSERT_TRUE(details.ParseFromString(status.error_details()));
    EXPECT_EQ(details.message(), "files: " + one.text);
    ASSERT_EQ(ViolationsOf(FromGrpcStatus(status)).size(), 1u);
    EXPECT_EQ(ViolationsOf(FromGrpcStatus(status))[0].description, one.text);
  }
}

TEST(RpcStatusTest, DetailsThatCannotBeReadAreIgnored) {
  google::rpc::Status foreign;
  foreign.add_details()->set_type_url("type.googleapis.com/google.rpc.BadRequest");
  foreign.mutable_details(0)->set_value("\xff\xff");
  foreign.add_details()->set_type_url("nonsense");
  for (const std::string& details :
       {std::string("\xff\x01garbage"), std::string(1, '\0'), foreign.SerializeAsString()}) {
    const absl::Status status =
        FromGrpcStatus(grpc::Status(grpc::StatusCode::ABORTED, "lost", details));
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_EQ(status.message(), "lost");
    EXPECT_TRUE(ViolationsOf(status).empty());
  }
}

}  // namespace
}  // namespace thaw
