#include "worker/agent/devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "tests/testing/temp_dir.h"
#include "worker/agent/trainer_devices.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using v1::Resources;

class DevicesTest : public ::testing::Test {
 protected:
  ~DevicesTest() override { unsetenv("FAKE_CUDA_GPUS"); }

  // A trainer program that does this.
  std::string Trainer(const std::string& script) {
    const std::string path = absl::StrCat(directory_.path(), "/trainer-", ++trainers_);
    EXPECT_TRUE(WriteFileAtomically(path, absl::StrCat("#!/bin/sh\n", script, "\n"), 0700).ok());
    return path;
  }
  // "CUDA CUDA", "CPU" or the error.
  std::string Find(const std::string& which, const std::string& driver,
                   const std::string& trainer) {
    const auto devices = FindDevices({.which = which, .trainer = trainer, .driver = driver});
    if (!devices.ok()) return devices.status().ToString();
    std::string kinds;
    for (const v1::Device& device : *devices) {
      absl::StrAppend(&kinds, kinds.empty() ? "" : " ", Resources::DeviceKind_Name(device.kind()));
    }
    return kinds;
  }

  const std::string no_driver_ = "libcuda-that-is-nowhere.so.1";
  const std::string driver_ = THAW_FAKE_CUDA;

 private:
  TempDir directory_;
  int trainers_ = 0;
};

TEST_F(DevicesTest, GpusAreOfferedToTrainersThatComputeOnThem) {
  const std::string both = Trainer("echo cpu; echo cuda");
  const std::string cpu = Trainer("echo cpu");
  const std::string broken = Trainer("exit 1");
  // Must not be asked.
  const std::string trap = Trainer("kill -9 $PPID");
  struct Case {
    std::string which, driver, trainer, expected;
  };
  for (const Case& test : {Case{"cpu", driver_, trap, "CPU"},
                           {"auto", no_driver_, trap, "CPU"},
                           {"auto", driver_, both, "CUDA CUDA"},
                           {"auto", driver_, cpu, "CPU"},
                           {"auto", driver_, broken, "CPU"},
                           {"cuda", driver_, both, "CUDA CUDA"}}) {
    EXPECT_EQ(Find(test.which, test.driver, test.trainer), test.expected)
        << test.which << " " << test.driver << " " << test.trainer;
  }
  EXPECT_THAT(Find("cuda", no_driver_, trap), HasSubstr("no CUDA driver"));
  EXPECT_THAT(Find("cuda", driver_, cpu),
              HasSubstr("computes on cpu only: give --devices cpu, or a --trainer"));
  EXPECT_THAT(Find("cuda", driver_, broken), HasSubstr("does not say what it can compute on"));
}

TEST_F(DevicesTest, AGpuIsDescribed) {
  const auto devices =
      FindDevices({.which = "cuda", .trainer = Trainer("echo cuda"), .driver = driver_});
  ASSERT_TRUE(devices.ok()) << devices.status();
  ASSERT_EQ(devices->size(), 2u);
  EXPECT_EQ((*devices)[1].name(), "Fake GPU 1");
  EXPECT_EQ((*devices)[1].memory_bytes(), int64_t{2} << 30);
}

TEST_F(DevicesTest, ADriverWithoutGpusIsNone) {
  setenv("FAKE_CUDA_GPUS", "0", 1);
  EXPECT_EQ(Find("auto", driver_, Trainer("echo cuda")), "CPU");
  EXPECT_THAT(Find("cuda", driver_, Trainer("echo cuda")), HasSubstr("shows no GPU"));
}

TEST_F(DevicesTest, ATrainerIsAskedWithPatience) {
  const auto kinds = AskTrainerDevices(Trainer("echo cpu; echo cuda"));
  ASSERT_TRUE(kinds.ok()) << kinds.status();
  EXPECT_THAT(*kinds, ElementsAre("cpu", "cuda"));
  for (const std::string& script :
       {std::string("true"), std::string("exit 3"), std::string("exec sleep 600"),
        std::string("yes cpu"), std::string("echo cpu; exec sleep 600 >&-")}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(AskTrainerDevices(Trainer(script), 0.2).status()))
        << script;
  }
  EXPECT_THAT(std::string(AskTrainerDevices("/no/such/trainer").status().message()),
              HasSubstr("cannot be run"));
}

TEST_F(DevicesTest, TheFakeTrainerAnswersAsTheRealOne) {
  const auto kinds = AskTrainerDevices(std::string(std::getenv("THAW_BIN")) + "/thaw-fake-trainer");
  ASSERT_TRUE(kinds.ok()) << kinds.status();
  EXPECT_THAT(*kinds, ElementsAre("cpu"));
}

}  // namespace
}  // namespace thaw
