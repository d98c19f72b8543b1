#include "worker/agent/sync_state.h"

#include "gtest/gtest.h"
#include "tests/testing/fake_clock.h"

namespace thaw {
namespace {

constexpr char kAttempt[] = "0123456789abcdef0123456789abcdef";

class SyncStateTest : public ::testing::Test {
 protected:
  void AddAttempt() {
    v1::Assignment assignment;
    assignment.set_job("job-1");
    assignment.set_attempt_id(kAttempt);
    state_.Add(assignment);
  }
  v1::SyncRequest Request() { return state_.BuildRequest(v1::WorkerOffer(), false); }
  static v1::SyncResponse Answer(const v1::SyncRequest& request,
                                 v1::DesiredAttempt::Verdict verdict, int64_t acknowledged = 0) {
    v1::SyncResponse response;
    response.set_incarnation(request.incarnation());
    response.set_number(request.number());
    response.mutable_lease()->set_seconds(90);
    v1::DesiredAttempt& attempt = *response.add_attempts();
    attempt.set_attempt_id(kAttempt);
    attempt.set_verdict(verdict);
    attempt.set_acknowledged_sequence(acknowledged);
    return response;
  }
  void Warn(const std::string& message) {
    v1::Event event;
    event.mutable_warning()->set_message(message);
    ASSERT_TRUE(state_.AddEvent(kAttempt, event));
  }

  FakeClock clock_;
  SyncState state_{"w", "incarnation", clock_};
};

TEST_F(SyncStateTest, NumbersRequestsAndReportsEveryAttempt) {
  EXPECT_EQ(Request().number(), 1);
  AddAttempt();
  const v1::SyncRequest request = Request();
  EXPECT_EQ(request.number(), 2);
  ASSERT_EQ(request.attempts_size(), 1);
  EXPECT_EQ(request.attempts(0).state(), v1::AttemptReport::PREPARING);
  state_.SetRunning(kAttempt);
  EXPECT_EQ(Request().attempts(0).state(), v1::AttemptReport::RUNNING);
}

TEST_F(SyncStateTest, ALostAnswerLosesNothing) {
  AddAttempt();
  Warn("a");
  Request();  // its answer never comes
  Warn("b");
  const v1::SyncRequest second = Request();
  ASSERT_EQ(second.attempts(0).events_size(), 2);
  EXPECT_EQ(second.attempts(0).events(0).sequence(), 1);
  state_.Apply(Answer(second, v1::DesiredAttempt::RUN, 2));
  EXPECT_EQ(Request().attempts(0).events_size(), 0);
}

TEST_F(SyncStateTest, ALateOrRepeatedAnswerDoesNothing) {
  AddAttempt();
  const v1::SyncRequest first = Request();
  const v1::SyncRequest second = Request();
  EXPECT_TRUE(state_.Apply(Answer(first, v1::DesiredAttempt::FORGET)).empty());
  ASSERT_EQ(state_.Apply(Answer(second, v1::DesiredAttempt::PAUSE)).size(), 1u);
  EXPECT_TRUE(state_.Apply(Answer(second, v1::DesiredAttempt::PAUSE)).empty());
  v1::SyncResponse foreign = Answer(Request(), v1::DesiredAttempt::STOP);
  foreign.set_incarnation("another");
  EXPECT_TRUE(state_.Apply(foreign).empty());
}

TEST_F(SyncStateTest, WhatActsOnATrainingComesWithAnUnchangedVerdictToo) {
  AddAttempt();
  state_.Apply(Answer(Request(), v1::DesiredAttempt::RUN));
  EXPECT_TRUE(state_.Apply(Answer(Request(), v1::DesiredAttempt::RUN)).empty());
  v1::SyncResponse answer = Answer(Request(), v1::DesiredAttempt::RUN);
  answer.mutable_attempts(0)->add_steerings()->set_number(1);
  const auto orders = state_.Apply(answer);
  ASSERT_EQ(orders.size(), 1u);
  EXPECT_EQ(orders[0].steerings_size(), 1);
}

TEST_F(SyncStateTest, AnOfferIsTakenOnceAndOnlyWithItsAssignment) {
  v1::SyncResponse offer = Answer(Request(), v1::DesiredAttempt::RUN);
  EXPECT_TRUE(state_.Apply(offer).empty());
  offer = Answer(Request(), v1::DesiredAttempt::RUN);
  offer.mutable_attempts(0)->mutable_assignment()->set_attempt_id(kAttempt);
  EXPECT_EQ(state_.Apply(offer).size(), 1u);
}

TEST_F(SyncStateTest, AnEndWaitsForEventsAndOutput) {
  AddAttempt();
  for (int i = 0; i < 300; ++i) Warn(std::string(4000, 'x'));
  v1::AttemptEnd end;
  end.set_outcome(v1::AttemptEnd::PAUSED);
  state_.End(kAttempt, end);
  v1::SyncRequest request = Request();
  int rounds = 0;
  while (request.attempts(0).state() != v1::AttemptReport::ENDED && ++rounds < 10) {
    EXPECT_LE(request.ByteSizeLong(), (512u << 10) + 8192);
    state_.Apply(Answer(request, v1::DesiredAttempt::RUN,
                        request.attempts(0).events().rbegin()->sequence()));
    request = Request();
  }
  EXPECT_EQ(rounds, 2);
  EXPECT_EQ(request.attempts(0).end().outcome(), v1::AttemptEnd::PAUSED);
  state_.SetLogPending(kAttempt, 1 << 20);
  EXPECT_NE(Request().attempts(0).state(), v1::AttemptReport::ENDED);
  state_.SetLogPending(kAttempt, 100);
  EXPECT_EQ(Request().attempts(0).state(), v1::AttemptReport::ENDED);
}

TEST_F(SyncStateTest, TheLeaseRunsFromSendingTheLastAnsweredRequest) {
  EXPECT_TRUE(state_.LeaseExpired());
  v1::SyncRequest request = Request();
  clock_.AdvanceSeconds(30);  // the answer was slow
  state_.Apply(Answer(request, v1::DesiredAttempt::RUN));
  clock_.AdvanceSeconds(59);
  EXPECT_FALSE(state_.LeaseExpired());
  Request();  // sent, never answered: renews nothing
  clock_.AdvanceSeconds(2);
  EXPECT_TRUE(state_.LeaseExpired());
  EXPECT_DOUBLE_EQ(state_.SilentSeconds(), 91);
  clock_.JumpWallSeconds(-86400);
  state_.Apply(Answer(Request(), v1::DesiredAttempt::RUN));
  EXPECT_FALSE(state_.LeaseExpired());
}

TEST_F(SyncStateTest, OutputGoesOnFromWhereTheServerIs) {
  AddAttempt();
  v1::SyncResponse answer = Answer(Request(), v1::DesiredAttempt::RUN);
  answer.mutable_attempts(0)->set_log_committed(500);
  state_.Apply(answer);
  EXPECT_EQ(state_.LogCommitted(kAttempt), 500);
  state_.Apply(Answer(Request(), v1::DesiredAttempt::RUN));  // 0: nothing said
  EXPECT_EQ(state_.LogCommitted(kAttempt), 500);
}

}  // namespace
}  // namespace thaw
