// `thaw reproduce` against a server in memory: what it submits and what its exit code says.
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "gmock/gmock.h"
#include "tests/client/fake_thaw_server.h"
#include "tests/client/run_thaw.h"

namespace thaw {
namespace {

using testing::HasSubstr;

constexpr char kReceipt[] =
    R"({"format_version": 1, "history_sha256": "aa", "steered": [
      {"step": "7", "action": {"next_phase": true}}, {"step": "9", "action": {"stop": true}}]})";

class ReproduceTest : public testing::Test {
 protected:
  // The job "job-9" with a result of these files; its repetition has result-0 with those.
  void Results(const std::map<std::string, std::string>& first,
               const std::map<std::string, std::string>& second) {
    for (const auto& [id, files] : {std::pair("result-9", first), std::pair("result-0", second)}) {
      v1::Artifact result;
      result.set_id(id);
      result.set_kind(v1::Artifact::RESULT);
      server_.AddArtifact(result, files);
    }
    v1::Job job;
    job.set_id("job-9");
    job.set_state(v1::Job::SUCCEEDED);
    job.set_done(true);
    job.set_result("result-9");
    job.mutable_resolved_spec()->mutable_max_runtime()->set_seconds(60);
    job.mutable_resolved_spec()->mutable_training()->set_seed(3);
    server_.AddJob(job);
    v1::Event end;
    end.set_sequence(1);
    end.mutable_state_change()->set_to(v1::Job::SUCCEEDED);
    server_.events = {end};
    server_.created_state = v1::Job::SUCCEEDED;
  }
  ProgramRun Reproduce() {
    return RunProgram(
        ProgramDirectory() + "/thaw", {"reproduce", "job-9"},
        {"THAW_SERVER=" + server_.address(), "THAW_TOKEN_FILE=" + server_.token_file(),
         "XDG_DATA_HOME=" + testing::TempDir()});
  }

  FakeThawServer server_;
};

TEST_F(ReproduceTest, TheSameBitsAreASuccessAndWhatWasDoneIsReplayed) {
  Results({{"receipt.json", kReceipt}, {"model.safetensors", "x"}},
          {{"receipt.json", kReceipt}, {"model.safetensors", "x"}});
  const ProgramRun run = Reproduce();
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
  EXPECT_THAT(run.out, HasSubstr("the same   steering and ends by the clock"));
  ASSERT_EQ(server_.created().size(), 1u);
  const v1::JobSpec spec = server_.created()[0].spec();
  EXPECT_EQ(spec.training().seed(), 3u);
  EXPECT_FALSE(spec.has_max_runtime()) << "the clock decides nothing";
  EXPECT_EQ(spec.labels().at("reproduces"), "job-9");
  ASSERT_EQ(spec.training().replay_size(), 2);
  EXPECT_EQ(spec.training().replay(0).step(), 7);
  EXPECT_TRUE(spec.training().replay(0).action().next_phase());
  EXPECT_TRUE(spec.training().replay(1).action().stop());
}

TEST_F(ReproduceTest, AnyDifferenceIsAFailure) {
  const std::string plain = R"({"format_version": 1, "history_sha256": "aa"})";
  struct Case {
    std::map<std::string, std::string> second;
    std::string says;
  };
  const std::vector<Case> cases = {
      {{{"receipt.json", plain}, {"model.safetensors", "y"}}, "DIFFERENT  file model.safetensors"},
      {{{"receipt.json", plain}}, "DIFFERENT  file model.safetensors"},
      {{{"receipt.json", plain}, {"model.safetensors", "x"}, {"more", "z"}},
       "DIFFERENT  file more"},
      {{{"receipt.json", R"({"format_version": 1, "history_sha256": "bb"})"},
        {"model.safetensors", "x"}},
       "DIFFERENT  loss of every step"},
      {{{"receipt.json", kReceipt}, {"model.safetensors", "x"}},
       "DIFFERENT  steering and ends by the clock"}};
  for (const Case& test : cases) {
    Results({{"receipt.json", plain}, {"model.safetensors", "x"}}, test.second);
    const ProgramRun run = Reproduce();
    EXPECT_EQ(run.exit_code, 1) << run.out << run.err;
    EXPECT_THAT(run.out, HasSubstr(test.says));
  }
}

TEST_F(ReproduceTest, WhatCannotBeComparedIsNotSubmitted) {
  struct Case {
    std::map<std::string, std::string> files;
    std::string says;
  };
  const std::vector<Case> cases = {
      {{{"model.safetensors", "x"}}, "has no receipt"},
      {{{"receipt.json", "{"}}, "is no receipt"},
      {{{"receipt.json", R"({"format_version": 2})"}}, "use a newer one"},
      {{{"receipt.json", R"({"format_version": 1, "steered": [{"step": "x"}]})"}},
       "does not say what was done"}};
  for (const Case& test : cases) {
    Results(test.files, {});
    const ProgramRun run = Reproduce();
    EXPECT_NE(run.exit_code, 0) << test.says;
    EXPECT_THAT(run.err, HasSubstr(test.says));
  }
  v1::Job failed;
  failed.set_id("job-9");
  failed.set_state(v1::Job::FAILED);
  failed.mutable_resolved_spec()->mutable_training();
  server_.AddJob(failed);
  const ProgramRun run = Reproduce();
  EXPECT_NE(run.exit_code, 0);
  EXPECT_THAT(run.err, HasSubstr("there is nothing to compare with"));
  EXPECT_TRUE(server_.created().empty());
}

}  // namespace
}  // namespace thaw
