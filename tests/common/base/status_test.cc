#include "common/base/status.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace thaw {
namespace {

TEST(StatusTest, ViolationsComeBackAsTheyWereGiven) {
  const std::vector<FieldViolation> given = {
      {"spec.training.phases[1].until", "is not set; give steps, epochs or plateau"},
      {"spec.labels[a]", ""},
      {"", "no field at all"}};
  const absl::Status status = InvalidFields(given);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::vector<FieldViolation> got = ViolationsOf(status);
  ASSERT_EQ(got.size(), given.size());
  for (size_t i = 0; i < given.size(); ++i) {
    EXPECT_EQ(got[i].field, given[i].field);
    EXPECT_EQ(got[i].description, given[i].description);
  }
  EXPECT_EQ(status.message(),
            "spec.training.phases[1].until: is not set; give steps, epochs or plateau; "
            "spec.labels[a]: ; : no field at all");
}

TEST(StatusTest, AValueCannotForgeAnotherViolation) {
  const absl::Status status = InvalidField("name",
                                           "a\x1e"
                                           "forged\x1f"
                                           "text");
  const std::vector<FieldViolation> got = ViolationsOf(status);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].description, "a forged text");
}

TEST(StatusTest, PayloadsSurviveAnnotate) {
  absl::Status status = WithReason(InvalidField("a", "is bad"), "A_BAD");
  status = Annotate(WithRetryAfter(status, 2.5), "reading the spec");
  EXPECT_EQ(status.message(), "reading the spec: a: is bad");
  EXPECT_EQ(ReasonOf(status), "A_BAD");
  EXPECT_EQ(RetryAfterOf(status), 2.5);
  EXPECT_EQ(ViolationsOf(status).size(), 1u);
  EXPECT_TRUE(Annotate(absl::OkStatus(), "anything").ok());
}

TEST(StatusTest, ABareStatusCarriesNothing) {
  const absl::Status status = absl::NotFoundError("no such job");
  EXPECT_TRUE(ViolationsOf(status).empty());
  EXPECT_EQ(ReasonOf(status), "");
  EXPECT_EQ(RetryAfterOf(status), 0);
}

TEST(StatusTest, ErrnoSaysWhatAndMapsToACode) {
  const struct {
    int error;
    absl::StatusCode code;
  } cases[] = {{ENOENT, absl::StatusCode::kNotFound},
               {EEXIST, absl::StatusCode::kAlreadyExists},
               {EACCES, absl::StatusCode::kPermissionDenied},
               {EROFS, absl::StatusCode::kPermissionDenied},
               {ENOSPC, absl::StatusCode::kResourceExhausted},
               {EMFILE, absl::StatusCode::kResourceExhausted},
               {EPIPE, absl::StatusCode::kUnavailable},
               {ELOOP, absl::StatusCode::kInvalidArgument},
               {EIO, absl::StatusCode::kInternal}};
  for (const auto& one : cases) {
    const absl::Status status = ErrnoStatus(one.error, "opening /x");
    EXPECT_EQ(status.code(), one.code) << status;
    EXPECT_EQ(status.message().find("opening /x: "), 0u) << status;
  }
}

absl::StatusOr<int> HalfOf(int number) {
  if (number % 2 != 0) return absl::OutOfRangeError("odd");
  return number / 2;
}

absl::StatusOr<int> QuarterOf(int number) {
  THAW_ASSIGN_OR_RETURN(const int half, HalfOf(number));
  THAW_RETURN_IF_ERROR(HalfOf(half).status());
  return half / 2;
}

TEST(StatusTest, MacrosPassValuesAndErrorsOn) {
  EXPECT_EQ(*QuarterOf(8), 2);
  EXPECT_EQ(QuarterOf(6).status(), absl::OutOfRangeError("odd"));
  EXPECT_EQ(QuarterOf(7).status(), absl::OutOfRangeError("odd"));
}

}  // namespace
}  // namespace thaw
