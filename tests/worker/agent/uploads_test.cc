#include "worker/agent/uploads.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace thaw {
namespace {

// Publishes one at a time, each when it is let go.
class GatedLink final : public ServerLink {
 public:
  absl::StatusOr<v1::SyncResponse> Sync(const v1::SyncRequest&) override {
    return absl::UnimplementedError("no Sync here");
  }
  void CancelSync() override {}
  absl::Status Download(const std::string&, const v1::Artifact&, const std::string&,
                        const std::function<bool()>&) override {
    return absl::UnimplementedError("no downloads here");
  }
  absl::Status Publish(const std::string&, const std::string& directory,
                       const v1::FinishUploadRequest& finish,
                       const std::function<bool()>& cancelled) override {
    MutexLock lock(mutex_);
    EXPECT_TRUE(Exists(directory));
    ++begun_;
    changed_.SignalAll();
    while (!open_ && !cancelled()) changed_.WaitFor(mutex_, 0.05);
    if (cancelled()) return absl::CancelledError("stopped");
    if (next_.ok()) published_.push_back(finish.checkpoint().step());
    return next_;
  }

  void WaitUntilBegun() {
    MutexLock lock(mutex_);
    while (begun_ == 0) changed_.Wait(mutex_);
  }
  void Open(absl::Status answers = absl::OkStatus()) {
    MutexLock lock(mutex_);
    next_ = std::move(answers);
    open_ = true;
    changed_.SignalAll();
  }
  std::vector<int64_t> published() {
    MutexLock lock(mutex_);
    return published_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ = false;
  int begun_ = 0;
  absl::Status next_;
  std::vector<int64_t> published_;
};

class UploadsTest : public ::testing::Test {
 protected:
  void Add(int64_t step, bool best) {
    internal::CheckpointReady ready;
    ready.set_step(step);
    ready.set_best(best);
    ASSERT_TRUE(WriteFileAtomically(DirectoryOf(step) + "/x", "x").ok() ||
                MakeDirectories(DirectoryOf(step)).ok());
    uploads_.Add(ready, DirectoryOf(step));
  }
  std::string DirectoryOf(int64_t step) const { return absl::StrCat(dir_.path(), "/", step); }

  TempDir dir_;
  GatedLink link_;
  int failures_ = 0;
  CheckpointUploads uploads_{link_, "attempt", [this](const absl::Status&) { ++failures_; }};
};

TEST_F(UploadsTest, WhileTheNetworkIsSlowOnlyTheNewestAndTheNewestBestWait) {
  Add(1, false);
  link_.WaitUntilBegun();
  for (const auto& [step, best] : std::vector<std::pair<int64_t, bool>>{
           {2, true}, {3, false}, {4, true}, {5, false}, {6, false}}) {
    Add(step, best);
  }
  link_.Open();
  EXPECT_TRUE(uploads_.Drain([] { return false; }).ok());
  EXPECT_EQ(link_.published(), (std::vector<int64_t>{1, 4, 6}));
  for (int64_t step = 1; step <= 6; ++step) EXPECT_FALSE(Exists(DirectoryOf(step))) << step;
  EXPECT_EQ(failures_, 0);
}

TEST_F(UploadsTest, AFailureIsToldAndAStaleAttemptIsNot) {
  link_.Open(absl::ResourceExhaustedError("disk full"));
  Add(1, false);
  EXPECT_FALSE(uploads_.Drain([] { return false; }).ok());
  EXPECT_EQ(failures_, 1);
  EXPECT_FALSE(Exists(DirectoryOf(1)));
  link_.Open(WithReason(absl::FailedPreconditionError("stale"), "ATTEMPT_STALE"));
  Add(2, false);
  EXPECT_FALSE(uploads_.Drain([] { return false; }).ok());
  EXPECT_EQ(failures_, 1);
}

TEST_F(UploadsTest, NobodyWaitsWhenItIsStopped) {
  Add(1, false);
  link_.WaitUntilBegun();
  EXPECT_TRUE(absl::IsCancelled(uploads_.Drain([] { return true; })));
}

}  // namespace
}  // namespace thaw
