// Sync over the wire, and what trainers wrote.
#include <thread>

#include "common/base/status.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/rpc_fixture.h"

namespace thaw {
namespace {

class WorkerServiceTest : public ::testing::Test, public RpcFixture {
 protected:
  v1::AttemptReport WithLog(const v1::Assignment& assignment, int64_t offset,
                            const std::string& chunk) {
    v1::AttemptReport report = Running(assignment);
    report.set_log_offset(offset);
    report.set_log_chunk(chunk);
    return report;
  }
  absl::StatusOr<v1::ReadJobLogResponse> ReadLog(const std::string& job, int attempt,
                                                 int64_t offset) {
    v1::ReadJobLogRequest request;
    request.set_id(job);
    request.set_attempt(attempt);
    request.set_offset(offset);
    return Call(jobs(), &v1::FineTuneService::Stub::ReadJobLog, "ann", request);
  }
};

TEST_F(WorkerServiceTest, AnIdleSyncHangsAndABusyOneBringsWork) {
  ScriptedWorker worker(*this, "worker-1");
  const auto idle = worker.Sync();
  ASSERT_TRUE(idle.ok()) << idle.status();
  EXPECT_EQ(idle->attempts_size(), 0);
  const auto job = Submit("ann", Spec("ann"));
  const v1::Assignment assignment = worker.Take();
  EXPECT_EQ(assignment.job(), job->id());
  EXPECT_EQ(assignment.attempt(), 1);
  EXPECT_GT(assignment.model().files_size(), 0);
  const auto listed =
      Call(workers(), &v1::WorkerService::Stub::ListWorkers, "admin", v1::ListWorkersRequest());
  ASSERT_TRUE(listed.ok()) << listed.status();
  ASSERT_EQ(listed->workers_size(), 1);
  EXPECT_TRUE(listed->workers(0).connected());
}

TEST_F(WorkerServiceTest, AWorkerThatGivesUpLeavesNoCallBehind) {
  v1::SyncRequest request;
  request.set_worker("worker-1");
  request.set_incarnation(RandomId());
  request.set_number(1);
  request.mutable_offer()->set_slots(1);
  for (int i = 0; i < 20; ++i) {
    const auto context = As("worker");
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(i));
    v1::SyncResponse response;
    request.set_number(i + 1);
    EXPECT_EQ(workers().Sync(context.get(), request, &response).error_code(),
              grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  server().Stop();
}

TEST_F(WorkerServiceTest, KeepsWhatTrainersWrote) {
  const std::string job = Submit("ann", Spec("ann"))->id();
  ScriptedWorker worker(*this, "worker-1");
  const v1::Assignment assignment = worker.Take();
  const auto answer = worker.Sync({WithLog(assignment, 0, "hello\n")});
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(answer->attempts_size(), 1);
  EXPECT_EQ(answer->attempts(0).log_committed(), 6);
  ASSERT_TRUE(worker.Sync({WithLog(assignment, 0, "hello\nworld\n")}).ok());
  for (const int attempt : {0, 1}) {
    const auto log = ReadLog(job, attempt, 0);
    ASSERT_TRUE(log.ok()) << log.status();
    EXPECT_EQ(log->content(), "hello\nworld\n");
    EXPECT_EQ(log->next_offset(), 12);
  }
  EXPECT_EQ(ReadLog(job, 1, 6)->content(), "world\n");
  EXPECT_EQ(ReadLog(job, 1, 12)->content(), "");
  EXPECT_EQ(ReadLog(job, 2, 0).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadLog(job, 1, -1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(WorkerServiceTest, AnotherWorkersLogIsNotTouched) {
  const std::string job = Submit("ann", Spec("ann"))->id();
  ScriptedWorker worker(*this, "worker-1");
  ScriptedWorker other(*this, "worker-2");
  const v1::Assignment assignment = worker.Take();
  ASSERT_TRUE(worker.Sync({WithLog(assignment, 0, "mine\n")}).ok());
  other.Sync({WithLog(assignment, 5, "not mine\n")}).IgnoreError();
  v1::Assignment unknown = assignment;
  unknown.set_attempt_id(RandomId());
  unknown.set_job("job-../../x");
  other.Sync({WithLog(unknown, 0, "nobody's\n")}).IgnoreError();
  EXPECT_EQ(ReadLog(job, 1, 0)->content(), "mine\n");
}

TEST_F(WorkerServiceTest, AnEndedJobIsSeenByAll) {
  const std::string job = Submit("ann", Spec("ann"))->id();
  ScriptedWorker worker(*this, "worker-1");
  const v1::Assignment assignment = worker.Take();
  ASSERT_TRUE(worker.Sync({Running(assignment, 1, 3)}).ok());
  ASSERT_TRUE(worker.Sync({Ended(assignment, v1::AttemptEnd::FAILED)}).ok());
  v1::GetJobRequest request;
  request.set_id(job);
  const auto ended = Call(jobs(), &v1::FineTuneService::Stub::GetJob, "ann", request);
  EXPECT_EQ(ended->state(), v1::Job::FAILED);
  EXPECT_EQ(ended->failure().reason(), "TEST");
}

}  // namespace
}  // namespace thaw
