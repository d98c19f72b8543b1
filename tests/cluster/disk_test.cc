// A server whose disk is short, by marks that no disk could meet.
#include <gtest/gtest.h>

#include "common/base/status.h"
#include "tests/testing/cluster.h"

namespace thaw {
namespace {

TEST(DiskTest, RunningJobsPauseAndGoOnByThemselves) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("slow", 40, 1000));
  cluster.WaitForStep(id, 5);
  cluster.KillServer();
  cluster.StartServer({"--min_free_gigabytes=1e8", "--pause_below_gigabytes=1e8"});
  const v1::Job paused = cluster.WaitForState(id, v1::Job::PAUSED);
  EXPECT_NE(paused.state_reason().find("disk is short"), std::string::npos)
      << paused.state_reason();
  EXPECT_EQ(cluster.Metric("thaw_disk_short"), 1);
  v1::CreateJobRequest request;
  *request.mutable_spec() = cluster.Spec("ok");
  v1::Job refused;
  grpc::ClientContext context;
  cluster.Prepare(&context);
  EXPECT_EQ(cluster.jobs().CreateJob(&context, request, &refused).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);

  cluster.KillServer();
  cluster.StartServer();
  const v1::Job job = cluster.WaitForEnd(id);
  EXPECT_EQ(job.state(), v1::Job::SUCCEEDED) << job.DebugString();
  EXPECT_EQ(job.attempt(), 2);
  EXPECT_EQ(cluster.Metric("thaw_disk_short"), 0);
  cluster.CheckHistory(id);
  cluster.CheckLosses(id, 40);
}

}  // namespace
}  // namespace thaw
