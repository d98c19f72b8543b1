// A server whose disk is short, by marks above what the machine has free.
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "tests/testing/cluster.h"

namespace thaw {
namespace {

TEST(DiskTest, RunningJobsPauseAndGoOnByThemselves) {
  Cluster cluster;
  cluster.StartWorker("one");
  const std::string id = cluster.Submit(cluster.Spec("slow", 40, 1000));
  cluster.WaitForStep(id, 5);
  cluster.KillServer();
  // A quarter of the higher mark must be free for the checkpoint.
  const double free = static_cast<double>(*FreeBytes(cluster.directory())) / (1 << 30);
  cluster.StartServer({absl::StrCat("--min_free_gigabytes=", 2 * free),
                       absl::StrCat("--pause_below_gigabytes=", 1.5 * free)});
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
