// thaw-worker on a machine with a GPU, of which its trainer can make nothing.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "tests/testing/child_process.h"
#include "tests/testing/cluster.h"

namespace thaw {
namespace {

std::vector<std::string> Worker(const Cluster& cluster, const std::string& devices) {
  const std::string bin = std::getenv("THAW_BIN");
  std::vector<std::string> command = {"/usr/bin/env",
                                      "LD_LIBRARY_PATH=" THAW_FAKE_CUDA_FOLDER,
                                      bin + "/thaw-worker",
                                      "--server",
                                      cluster.address(),
                                      "--token_file",
                                      cluster.directory() + "/data/worker_token",
                                      "--name",
                                      "gpu-host",
                                      "--work_dir",
                                      absl::StrCat(cluster.directory(), "/gpu-host-", devices),
                                      "--trainer",
                                      bin + "/thaw-fake-trainer"};
  if (devices != "default") command.insert(command.end(), {"--devices", devices});
  return command;
}

TEST(WorkerStartTest, AGpuThatTheTrainerCannotUseIsNotOffered) {
  Cluster cluster;
  const std::string log = cluster.directory() + "/gpu-host.log";
  ChildProcess worker(Worker(cluster, "default"), log);
  ASSERT_TRUE(cluster.WaitForWorker("gpu-host", true));
  EXPECT_EQ(cluster.WaitForEnd(cluster.Submit(cluster.Spec("ok"))).state(), v1::Job::SUCCEEDED);
  const std::string said = ReadFile(log).value_or("");
  const size_t found = said.find("gpus_not_offered");
  ASSERT_NE(found, std::string::npos) << said;
  EXPECT_NE(said.find("computes on cpu only", found), std::string::npos) << said;
  EXPECT_EQ(said.find("gpus_not_offered", found + 1), std::string::npos) << "once is enough";
}

TEST(WorkerStartTest, AskedForGpusThatCannotBeServedItDoesNotStart) {
  Cluster cluster;
  const std::string log = cluster.directory() + "/gpu-host.log";
  ChildProcess worker(Worker(cluster, "cuda"), log);
  EXPECT_EQ(worker.Wait(30), 1);
  EXPECT_NE(ReadFile(log).value_or("").find("--devices cuda: "), std::string::npos);
}

}  // namespace
}  // namespace thaw
