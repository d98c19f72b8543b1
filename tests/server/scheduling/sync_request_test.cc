#include "server/scheduling/sync_request.h"

#include <functional>
#include <string>

#include "common/base/status.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

v1::SyncRequest Good() {
  v1::SyncRequest request;
  request.set_worker("gpu-1.rack_2");
  request.set_incarnation(std::string(32, 'a'));
  request.set_number(1);
  request.mutable_offer()->set_slots(1);
  v1::Device& device = *request.mutable_offer()->add_devices();
  device.set_kind(v1::Resources::CPU);
  v1::AttemptReport& report = *request.add_attempts();
  report.set_attempt_id(std::string(32, '0'));
  report.set_state(v1::AttemptReport::RUNNING);
  report.add_events()->set_sequence(3);
  report.add_events()->set_sequence(5);
  return request;
}

TEST(SyncRequest, AGoodOnePasses) { EXPECT_TRUE(CheckSyncRequest(Good()).ok()); }

TEST(SyncRequest, EveryWrongFieldIsNamed) {
  struct Case {
    std::string field;
    std::function<void(v1::SyncRequest&)> spoil;
  };
  using Request = v1::SyncRequest;
  const Case cases[] = {
      {"worker", [](Request& r) { r.set_worker(""); }},
      {"worker", [](Request& r) { r.set_worker("-w"); }},
      {"worker", [](Request& r) { r.set_worker("a b"); }},
      {"worker", [](Request& r) { r.set_worker(std::string(129, 'a')); }},
      {"incarnation", [](Request& r) { r.set_incarnation(std::string(31, 'a')); }},
      {"incarnation", [](Request& r) { r.set_incarnation(std::string(32, 'A')); }},
      {"number", [](Request& r) { r.set_number(0); }},
      {"offer.slots", [](Request& r) { r.mutable_offer()->set_slots(-1); }},
      {"offer.devices", [](Request& r) { r.mutable_offer()->add_devices(); }},
      {"attempts[0].attempt_id", [](Request& r) { r.mutable_attempts(0)->set_attempt_id("x"); }},
      {"attempts[0].state", [](Request& r) { r.mutable_attempts(0)->clear_state(); }},
      {"attempts[0].end.outcome",
       [](Request& r) { r.mutable_attempts(0)->set_state(v1::AttemptReport::ENDED); }},
      {"attempts[0].events",
       [](Request& r) { r.mutable_attempts(0)->mutable_events(1)->set_sequence(3); }},
      {"attempts[0].events",
       [](Request& r) { r.mutable_attempts(0)->mutable_events(0)->set_sequence(0); }},
      {"attempts[0].events",
       [](Request& r) {
         r.mutable_attempts(0)->mutable_events(0)->mutable_event()->mutable_log_line()->set_text(
             std::string(2 << 20, 'x'));
       }},
      {"attempts[0].end",
       [](Request& r) {
         r.mutable_attempts(0)->mutable_end()->mutable_failure()->set_message(
             std::string(100 << 10, 'x'));
       }},
      {"attempts[0].progress",
       [](Request& r) {
         r.mutable_attempts(0)->mutable_progress()->set_phase_name(std::string(100 << 10, 'x'));
       }},
      {"attempts[1].attempt_id", [](Request& r) { *r.add_attempts() = r.attempts(0); }},
  };
  for (const Case& test : cases) {
    v1::SyncRequest request = Good();
    test.spoil(request);
    const absl::Status status = CheckSyncRequest(request);
    ASSERT_TRUE(absl::IsInvalidArgument(status)) << test.field;
    const auto violations = ViolationsOf(status);
    ASSERT_EQ(violations.size(), 1u) << status;
    EXPECT_EQ(violations[0].field, test.field);
  }
}

}  // namespace
}  // namespace thaw
