#include "worker/agent/exit_blame.h"

#include <csignal>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;

int ExitCode(int code) { return code << 8; }  // as waitpid(2) gives it

TEST(ExitBlameTest, EveryWayToEnd) {
  struct Case {
    TrainerExit exit;
    v1::AttemptEnd::Outcome outcome;
    v1::Failure::Blame blame;
    std::string reason;
    std::string says;
  };
  const Case cases[] = {
      {{.wait_status = SIGSEGV},
       v1::AttemptEnd::CRASHED,
       v1::Failure::INTERNAL,
       "TRAINER_CRASHED",
       "signal 11"},
      {{.wait_status = SIGKILL},
       v1::AttemptEnd::CRASHED,
       v1::Failure::INTERNAL,
       "TRAINER_CRASHED",
       "signal 9"},
      {{.wait_status = SIGKILL, .kernel_killed_for_memory = true},
       v1::AttemptEnd::OUT_OF_MEMORY,
       v1::Failure::RESOURCE,
       "OUT_OF_MEMORY",
       "tokens_per_micro_step"},
      {{.wait_status = SIGKILL, .why_killed = "no sign of life"},
       v1::AttemptEnd::CRASHED,
       v1::Failure::INTERNAL,
       "TRAINER_STOPPED",
       "no sign of life"},
      {{.wait_status = ExitCode(3), .output_tail = "one\nterminate called\n\n"},
       v1::AttemptEnd::CRASHED,
       v1::Failure::INTERNAL,
       "TRAINER_CRASHED",
       "terminate called"},
      {{.wait_status = ExitCode(0)},
       v1::AttemptEnd::CRASHED,
       v1::Failure::INTERNAL,
       "TRAINER_CRASHED",
       "code 0"},
      {{.wait_status = ExitCode(127)},
       v1::AttemptEnd::FAILED,
       v1::Failure::INFRASTRUCTURE,
       "TRAINER_NOT_STARTED",
       "could not start"},
  };
  for (const Case& one : cases) {
    TrainerExit exit = one.exit;
    exit.last_step = 12;
    const v1::AttemptEnd end = BlameForExit(exit);
    EXPECT_EQ(end.outcome(), one.outcome) << one.says;
    EXPECT_EQ(end.failure().blame(), one.blame) << one.says;
    EXPECT_EQ(end.failure().reason(), one.reason) << one.says;
    EXPECT_THAT(end.failure().message(), HasSubstr(one.says));
    EXPECT_EQ(end.step(), 12);
  }
}

TEST(ExitBlameTest, OutputOfAnyBytesMakesAMessageThatCanBeSent) {
  const v1::AttemptEnd end = BlameForExit(
      {.wait_status = SIGABRT, .output_tail = "ok\n\xff\xc3\x1b[31m boom \x00\xe2\x82"});
  v1::AttemptEnd parsed;
  EXPECT_TRUE(parsed.ParseFromString(end.SerializeAsString())) << "not UTF-8";
  EXPECT_THAT(end.failure().message(), HasSubstr("?? [31m boom"));
}

TEST(ExitBlameTest, WhatATrainerSaysIsJudged) {
  struct Case {
    v1::AttemptEnd::Outcome said;
    bool pause_asked;
    v1::AttemptEnd::Outcome outcome;
  };
  const Case cases[] = {
      {v1::AttemptEnd::SUCCEEDED, false, v1::AttemptEnd::SUCCEEDED},
      {v1::AttemptEnd::SUCCEEDED, true, v1::AttemptEnd::SUCCEEDED},
      {v1::AttemptEnd::PAUSED, true, v1::AttemptEnd::PAUSED},
      {v1::AttemptEnd::PAUSED, false, v1::AttemptEnd::CRASHED},
      {v1::AttemptEnd::FAILED, false, v1::AttemptEnd::FAILED},
      {v1::AttemptEnd::OUT_OF_MEMORY, false, v1::AttemptEnd::OUT_OF_MEMORY},
      {v1::AttemptEnd::STOPPED, false, v1::AttemptEnd::CRASHED},
      {v1::AttemptEnd::HANDED_BACK, false, v1::AttemptEnd::CRASHED},
      {v1::AttemptEnd::CRASHED, false, v1::AttemptEnd::CRASHED},
      {v1::AttemptEnd::OUTCOME_UNSPECIFIED, false, v1::AttemptEnd::CRASHED},
      {static_cast<v1::AttemptEnd::Outcome>(99), false, v1::AttemptEnd::CRASHED},
  };
  for (const Case& one : cases) {
    internal::Ended ended;
    ended.mutable_end()->set_outcome(one.said);
    ended.mutable_end()->set_step(-3);
    const v1::AttemptEnd end = EndAsSaid(ended, one.pause_asked, 12);
    EXPECT_EQ(end.outcome(), one.outcome) << one.said;
    EXPECT_EQ(end.step(), 12);
    const bool blamed =
        end.outcome() != v1::AttemptEnd::SUCCEEDED && end.outcome() != v1::AttemptEnd::PAUSED;
    EXPECT_EQ(end.has_failure(), blamed) << one.said;
    EXPECT_EQ(end.failure().blame() != v1::Failure::BLAME_UNSPECIFIED, blamed) << one.said;
  }
}

TEST(ExitBlameTest, AFailureIsKeptButCleaned) {
  internal::Ended ended;
  ended.mutable_end()->set_outcome(v1::AttemptEnd::FAILED);
  v1::Failure* failure = ended.mutable_end()->mutable_failure();
  failure->set_blame(v1::Failure::DATA);
  failure->set_reason("NON_FINITE_LOSS");
  failure->set_message("line 3\nis bad");
  failure->set_incident("0123456789ab");
  v1::AttemptEnd end = EndAsSaid(ended, false, 0);
  EXPECT_EQ(end.failure().blame(), v1::Failure::DATA);
  EXPECT_EQ(end.failure().reason(), "NON_FINITE_LOSS");
  EXPECT_EQ(end.failure().message(), "line 3 is bad");
  EXPECT_EQ(end.failure().incident(), "0123456789ab") << "the id that the attempt's log names";
  failure->set_blame(static_cast<v1::Failure::Blame>(77));
  failure->set_reason("not a reason");
  failure->set_message(std::string(100'000, 'x'));
  end = EndAsSaid(ended, false, 0);
  EXPECT_EQ(end.failure().blame(), v1::Failure::INTERNAL);
  EXPECT_EQ(end.failure().reason(), "TRAINER_FAILED");
  EXPECT_EQ(end.failure().message().size(), 2000u);
}

}  // namespace
}  // namespace thaw
