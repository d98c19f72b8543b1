// The `thaw` program against a server in memory.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "gmock/gmock.h"
#include "tests/client/fake_thaw_server.h"
#include "tests/client/run_thaw.h"

namespace thaw {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class CliTest : public testing::Test {
 protected:
  CliTest() : directory_(testing::TempDir() + "/cli_" + RandomId()) {
    EXPECT_TRUE(MakeDirectories(directory_).ok());
    v1::Artifact model;
    model.set_id("model-1");
    model.set_kind(v1::Artifact::MODEL);
    model.set_state(v1::Artifact::READY);
    model.set_display_name("minilm");
    model.mutable_model()->set_blocks(6);
    server_.AddArtifact(model);
    v1::Artifact data;
    data.set_id("dataset-1");
    data.set_kind(v1::Artifact::DATASET);
    data.set_state(v1::Artifact::READY);
    data.set_display_name("reviews");
    data.mutable_dataset()->set_text_column("body");
    data.mutable_dataset()->set_label_column("stars");
    server_.AddArtifact(data);
    v1::Artifact result;
    result.set_id("result-0");
    result.set_kind(v1::Artifact::RESULT);
    server_.AddArtifact(result, {{"predictions.jsonl",
                                  R"({"row":0,"label":"good","score":0.9,"scores":{},"logits":[]})"
                                  "\n"
                                  R"({"row":1,"label":"bad","score":0.6,"scores":{},"logits":[]})"
                                  "\n"}});
  }

  ProgramRun Thaw(const std::vector<std::string>& arguments) {
    return RunProgram(ProgramDirectory() + "/thaw", arguments,
                      {"THAW_SERVER=" + server_.address(),
                       "THAW_TOKEN_FILE=" + server_.token_file(), "XDG_DATA_HOME=" + directory_});
  }
  std::string Leave(const std::string& name, const std::string& text) {
    const std::string path = directory_ + "/" + name;
    EXPECT_TRUE(WriteFileAtomically(path, text).ok());
    return path;
  }
  v1::Job AddJob(const std::string& id, v1::Job::State state) {
    v1::Job job;
    job.set_id(id);
    job.set_state(state);
    job.mutable_spec()->set_display_name("named-" + id);
    server_.AddJob(job);
    return job;
  }

  const std::string directory_;
  FakeThawServer server_;
};

TEST_F(CliTest, SteerAsksOnceForOneThing) {
  AddJob("job-1", v1::Job::RUNNING);
  server_.FailNext("SteerJob", 1, absl::UnavailableError("try again"));
  const ProgramRun run = Thaw({"steer", "named-job-1", "scale_rate", "0.5"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("job-1  asked for: rates times 0.5, after the optimizer step"));
  for (const std::vector<std::string>& action :
       std::vector<std::vector<std::string>>{{"checkpoint"},
                                             {"next_phase"},
                                             {"extend_epochs", "1.5"},
                                             {"extend_steps", "20"},
                                             {"stop"}}) {
    std::vector<std::string> arguments = {"steer", "job-1", "--json"};
    arguments.insert(arguments.end(), action.begin(), action.end());
    EXPECT_EQ(Thaw(arguments).exit_code, 0) << action[0];
  }
  std::string asked;
  const v1::Job job = server_.GetStoredJob("job-1");
  for (const v1::SteeringRecord& record : job.steerings()) {
    asked += record.action().ShortDebugString() + "; ";
  }
  EXPECT_EQ(asked,
            "scale_rate: 0.5; checkpoint: true; next_phase: true; extend_epochs: 1.5; "
            "extend_steps: 20; stop: true; ");
}

TEST_F(CliTest, SteerRefusesWhatItCannotAskFor) {
  AddJob("job-1", v1::Job::RUNNING);
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"scale_rate"}, "scale_rate needs a number: thaw steer JOB scale_rate 0.5"},
      {{"stop", "3"}, "stop takes no number"},
      {{"extend_steps", "1.5"}, "extend_steps takes a whole number, not 1.5"},
      {{"faster"}, "faster"}};
  for (const auto& [words, expected] : cases) {
    std::vector<std::string> arguments = {"steer", "job-1"};
    arguments.insert(arguments.end(), words.begin(), words.end());
    const ProgramRun run = Thaw(arguments);
    EXPECT_EQ(run.exit_code, 2) << words[0];
    EXPECT_THAT(run.err, HasSubstr(expected));
  }
  EXPECT_EQ(server_.CallsOf("SteerJob"), 0);
}

TEST_F(CliTest, SubmitAsksForAPreset) {
  const ProgramRun run = Thaw({"submit", "--model", "minilm", "--data", "reviews", "--method",
                               "gradual", "--epochs_per_phase", "0.5", "--name", "first", "--seed",
                               "7", "--label", "team=a", "--precision", "bf16"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("job-1  QUEUED"));
  ASSERT_EQ(server_.created().size(), 1u);
  const v1::JobSpec spec = server_.created()[0].spec();
  EXPECT_EQ(spec.base_model(), "model-1");
  EXPECT_EQ(spec.training().dataset(), "dataset-1");
  EXPECT_EQ(spec.training().text_classification().text_column(), "body");
  EXPECT_EQ(spec.training().preset().name(), v1::Preset::GRADUAL);
  EXPECT_EQ(spec.training().preset().epochs_per_phase(), 0.5);
  EXPECT_EQ(spec.training().seed(), 7u);
  EXPECT_EQ(spec.training().precision(), v1::BF16);
  EXPECT_EQ(spec.display_name(), "first");
  EXPECT_EQ(spec.labels().at("team"), "a");
}

TEST_F(CliTest, SubmitPrintsTheProgram) {
  const std::string path =
      Leave("job.json", R"({"base_model": "minilm", "training": {"dataset": "reviews",
      "phases": [{"name": "small", "learning_rate": 0.1, "loss_units": 1000, "schedule": {"shape": "ONE_CYCLE"},
                  "selector": {"any_of": {"values": [{"kind": "BIASES"}, {"head_only": true}]},
                               "and_not": [{"kind": "NORMS"}]},
                  "rate_overrides": [{"selector": {"head_only": true}, "learning_rate": 0.2}]},
                 {"selector": {"last_blocks": 6}, "learning_rate": 0.1, "wall_time": "90s"}]}})");
  const ProgramRun run = Thaw({"submit", path});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, AllOf(HasSubstr("biases and head, not (norms)"), HasSubstr("0.1 and others"),
                             HasSubstr("ONE_CYCLE"), HasSubstr("1,000 loss units"),
                             HasSubstr("head, last 6 blocks"), HasSubstr("1:30")));
}

TEST_F(CliTest, SubmitsHelpHasALineForEveryMethod) {
  const ProgramRun run = Thaw({"submit", "--help"});
  EXPECT_THAT(run.out, AllOf(HasSubstr("\n  gradual  "), HasSubstr("\n  chain_thaw  "),
                             HasSubstr("biases and the head"), HasSubstr("\n  lora  ")));
}

TEST_F(CliTest, SubmitTakesAFileWithNamesInThePlaceOfIds) {
  const std::string path =
      Leave("job.json", R"({"base_model": "minilm", "training": {"dataset": "reviews",
      "phases": [{"selector": {"head_only": true}, "learning_rate": 0.1, "epochs": 1}]}})");
  const ProgramRun run = Thaw({"submit", path, "--batch", "4", "--validate_only", "--json"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  ASSERT_EQ(server_.created().size(), 1u);
  EXPECT_TRUE(server_.created()[0].validate_only());
  EXPECT_EQ(server_.created()[0].spec().base_model(), "model-1");
  EXPECT_EQ(server_.created()[0].spec().training().batch().examples_per_step(), 4);
  EXPECT_TRUE(ParseJson(run.out).ok()) << run.out;
}

TEST_F(CliTest, GetShowsWhichLabelsTheResultTookForWhich) {
  v1::Artifact result;
  result.set_id("result-7");
  result.set_kind(v1::Artifact::RESULT);
  server_.AddArtifact(result, {{"evaluation.json",
                                R"({"step": 4, "values": {}, "confusion":
                                    {"labels": ["good", "bad"], "counts": [[7, 1], [2, 8]]}})"}});
  v1::Job job;
  job.set_id("job-7");
  job.set_state(v1::Job::SUCCEEDED);
  job.set_result("result-7");
  job.mutable_resolved_spec()->mutable_training();
  server_.AddJob(job);
  const ProgramRun run = Thaw({"get", "job-7"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("label  as good  as bad"));
  EXPECT_THAT(run.out, HasSubstr("bad          2       8"));
  // A result without figures, or that is gone, is no mistake.
  for (const char* other : {"result-0", "result-gone"}) {
    job.set_result(other);
    server_.AddJob(job);
    EXPECT_EQ(Thaw({"get", "job-7"}).exit_code, 0) << other;
  }
}

TEST_F(CliTest, UsageErrorsNameFieldValueAndRemedy) {
  const std::string misspelt = Leave("bad.json", R"({"base_modle": "minilm", "trainign": {}})");
  const std::string fine = Leave("fine.json", "{}");
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"submit", misspelt}, "thaw: base_modle: is not a field; did you mean base_model?"},
      {{"submit", misspelt}, "thaw: trainign: is not a field; did you mean training?"},
      {{"submit", fine, "--method", "full"}, "change it in the file"},
      {{"submit"}, "--model, --data and --method"},
      {{"submit", "--model", "minilm", "--data", "reviews", "--method", "warp"},
       "\"warp\" is not known"},
      {{"submit", "--model", "bert", "--data", "reviews"}, "there are: minilm"},
      {{"submit", directory_ + "/none.json"}, "none.json: No such file"},
      {{"submit", "--model", "minilm", "--data", "reviews", "--metric", "bleu"}, "macro_f1"},
      {{"list", "--state", "asleep"}, "\"asleep\" is not known"},
      {{"get", "nobody"}, "no job is called \"nobody\""},
      {{"predict", "--model", "result-0"}, "give texts, --file or --data"},
      {{"frobnicate"}, "there is no command frobnicate"},
      {{"list", "--limit", "-1"}, "-1 is no number"},
      {{"list", "--label", "novalue"}, "novalue is not key=value"}};
  for (const auto& [arguments, says] : cases) {
    const ProgramRun run = Thaw(arguments);
    EXPECT_EQ(run.exit_code, 2) << says;
    EXPECT_THAT(run.err, HasSubstr(says));
    EXPECT_EQ(run.out, "") << says;
  }
  EXPECT_TRUE(server_.created().empty());
}

TEST_F(CliTest, ErrorsOfTheServerAreToldFieldByField) {
  server_.FailNext("CreateJob", 1,
                   InvalidFields({{"spec.priority", "101 is out of range; give -100 to 100"},
                                  {"spec.work", "is not set"}}));
  const std::string path = Leave("job.json", R"({"priority": 101})");
  ProgramRun run = Thaw({"submit", path});
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_EQ(
      run.err,
      "thaw: spec.priority: 101 is out of range; give -100 to 100\nthaw: spec.work: is not set\n");
  server_.FailNext("CreateJob", 1, InvalidField("spec.work", "is not set"));
  run = Thaw({"submit", path, "--json"});
  const auto error = ParseJson(run.err);
  ASSERT_TRUE(error.ok()) << run.err;
  EXPECT_EQ((*error)["error"]["fields"][0]["field"], "spec.work");
}

TEST_F(CliTest, AServerThatIsNotThereIsExitCode3) {
  const ProgramRun run = Thaw({"--server", "127.0.0.1:1", "workers"});
  EXPECT_EQ(run.exit_code, 3);
  EXPECT_THAT(run.err, HasSubstr("127.0.0.1:1 cannot be reached"));
}

TEST_F(CliTest, WatchShowsTheHistoryAndTheCurve) {
  AddJob("job-1", v1::Job::SUCCEEDED);
  server_.events = TrainingHistory(60);
  server_.break_every = 20;
  const ProgramRun run = Thaw({"watch", "named-job-1"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, AllOf(HasSubstr("phase 1 head: 10 parameters train (1.0 %), 60 steps"),
                             HasSubstr("step 60: validation accuracy 81.5 %  (best)"),
                             HasSubstr("loss by step"), HasSubstr("job-1  SUCCEEDED")));
}

TEST_F(CliTest, TheExitCodeOfAWatchIsTheJobs) {
  server_.events = TrainingHistory(1);
  for (const auto& [state, code] : {std::pair(v1::Job::SUCCEEDED, 0), std::pair(v1::Job::FAILED, 1),
                                    std::pair(v1::Job::CANCELLED, 1)}) {
    AddJob("job-1", state);
    EXPECT_EQ(Thaw({"watch", "job-1"}).exit_code, code);
  }
}

TEST_F(CliTest, JsonIsOneObjectALine) {
  AddJob("job-1", v1::Job::SUCCEEDED);
  AddJob("job-2", v1::Job::QUEUED);
  AddJob("job-3", v1::Job::RUNNING);
  server_.events = TrainingHistory(5);
  for (const auto& [arguments, lines] :
       {std::pair(std::vector<std::string>{"watch", "job-1", "--json"}, 13),
        std::pair(std::vector<std::string>{"events", "job-1", "--json"}, 11),
        std::pair(std::vector<std::string>{"list", "--json"}, 3),
        std::pair(std::vector<std::string>{"get", "job-1", "--json"}, 1),
        std::pair(std::vector<std::string>{"cancel", "job-2", "--json"}, 1),
        std::pair(std::vector<std::string>{"model", "list", "--json"}, 1),
        std::pair(std::vector<std::string>{"dataset", "show", "reviews", "--json"}, 1)}) {
    const ProgramRun run = Thaw(arguments);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    int objects = 0;
    for (const absl::string_view line : absl::StrSplit(run.out, '\n', absl::SkipEmpty())) {
      EXPECT_TRUE(ParseJson(line).ok()) << line;
      ++objects;
    }
    EXPECT_EQ(objects, lines) << arguments[0];
  }
}

TEST_F(CliTest, ListGetEventsAndLogsAreReadable) {
  AddJob("job-1", v1::Job::RUNNING);
  server_.events = TrainingHistory(2);
  server_.log = "loaded\x1b[31m\nready\n";
  EXPECT_THAT(Thaw({"list"}).out, AllOf(HasSubstr("job-1  named-job-1  RUNNING")));
  EXPECT_THAT(Thaw({"get", "job-1"}).out, HasSubstr("state      RUNNING"));
  EXPECT_THAT(Thaw({"events", "job-1"}).out,
              AllOf(HasSubstr("phase 1 head begins"), HasSubstr("accuracy=0.815 (best)")));
  const std::string log = Thaw({"logs", "job-1"}).out;
  EXPECT_THAT(log, AllOf(HasSubstr("ready\n"), Not(HasSubstr("\x1b"))));
}

TEST_F(CliTest, ImportShowsEveryBadLine) {
  const std::string path = Leave("reviews.jsonl", "not json\n");
  server_.upload_state = v1::Artifact::REJECTED;
  for (const int line : {1, 7}) {
    v1::DatasetIssue& issue = server_.issues.emplace_back();
    issue.set_path("data.jsonl");
    issue.set_line(line);
    issue.set_byte_offset(10 * line);
    issue.set_field("label");
    issue.set_reason("is missing");
  }
  const ProgramRun run = Thaw({"dataset", "import", path});
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_THAT(run.out, AllOf(HasSubstr("2 bad lines"),
                             HasSubstr("data.jsonl:1 (byte 10): label: is missing"),
                             HasSubstr("data.jsonl:7 (byte 70): label: is missing")));
  EXPECT_THAT(run.err, HasSubstr("cannot be used: 2 bad lines"));
}

TEST_F(CliTest, ImportsAModelAndSaysWhatWasLeftOut) {
  ASSERT_TRUE(MakeDirectories(directory_ + "/net").ok());
  for (const char* name : {"net/config.json", "net/model.safetensors", "net/pytorch_model.bin"}) {
    Leave(name, name);
  }
  const ProgramRun run = Thaw({"model", "import", directory_ + "/net/"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, AllOf(HasSubstr("left out: pytorch_model.bin"), HasSubstr("model-up  net")));
  EXPECT_EQ(server_.UploadedBytes("config.json"), "net/config.json");
}

TEST_F(CliTest, PredictPrintsALineForEveryText) {
  server_.created_state = v1::Job::SUCCEEDED;
  const ProgramRun run = Thaw({"predict", "--model", "result-0", "what a film", "never again"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("good  90.0 %  what a film\nbad  60.0 %  never again\n"));
  ASSERT_EQ(server_.created().size(), 1u);
  EXPECT_EQ(server_.created()[0].spec().prediction().texts().values_size(), 2);
  const std::string texts = Leave("texts.txt", "one\r\ntwo\n");
  const ProgramRun from_file = Thaw(
      {"predict", "--model", "result-0", "--file", texts, "--out", directory_ + "/answers.jsonl"});
  EXPECT_EQ(from_file.exit_code, 0) << from_file.err;
  EXPECT_EQ(server_.created()[1].spec().prediction().texts().values(0), "one");
  EXPECT_THAT(*ReadFile(directory_ + "/answers.jsonl"), HasSubstr("\"label\":\"good\""));
}

TEST_F(CliTest, APredictionThatFailsIsExitCode1) {
  server_.created_state = v1::Job::FAILED;
  const ProgramRun run = Thaw({"predict", "--model", "result-0", "a"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, HasSubstr("the labels are all alike"));
}

TEST_F(CliTest, FetchBringsTheResultOfAJob) {
  v1::Job job = AddJob("job-1", v1::Job::SUCCEEDED);
  job.set_result("result-0");
  server_.AddJob(job);
  const ProgramRun run = Thaw({"fetch", "job-1", "--to", directory_ + "/out"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(Exists(directory_ + "/out/predictions.jsonl"));
  // Where files go is not for the server to say.
  v1::Artifact hostile;
  hostile.set_id(directory_ + "/elsewhere");
  hostile.set_kind(v1::Artifact::RESULT);
  server_.AddArtifact(hostile, {{"authorized_keys", "mine"}});
  job.set_result(hostile.id());
  server_.AddJob(job);
  EXPECT_THAT(Thaw({"fetch", "job-1"}).err, HasSubstr("unsafe id"));
  EXPECT_FALSE(Exists(directory_ + "/elsewhere"));
  AddJob("job-2", v1::Job::RUNNING);
  EXPECT_THAT(Thaw({"fetch", "job-2"}).err, HasSubstr("job-2 is RUNNING and has no result"));
}

TEST_F(CliTest, FetchAsFullRefusesWhatHasNoFullForm) {
  v1::Artifact result;
  result.set_kind(v1::Artifact::RESULT);
  result.set_base_model("model-1");
  result.set_id("result-1");
  result.set_form(v1::Artifact::ADAPTER);
  server_.AddArtifact(result, {{"adapter_model.safetensors", "x"}});
  result.set_id("result-2");
  result.set_form(v1::Artifact::DELTA);
  server_.AddArtifact(result, {{"model.safetensors", "x"}});
  for (const auto& [id, says] : {std::pair("result-1", "is an adapter on model-1"),
                                 std::pair("result-2", "holds other weights beside a delta")}) {
    const std::string to = directory_ + "/" + id;
    const ProgramRun run = Thaw({"fetch", id, "--as", "full", "--to", to});
    EXPECT_NE(run.exit_code, 0) << id;
    EXPECT_THAT(run.err, HasSubstr(says));
    EXPECT_FALSE(Exists(to)) << "nothing is fetched";
  }
}

TEST_F(CliTest, BashCanReadTheCompletion) {
  const ProgramRun script = Thaw({"completion", "bash"});
  EXPECT_EQ(script.exit_code, 0);
  const std::string path = Leave("completion.bash", script.out);
  const ProgramRun run = RunProgram(
      "/bin/bash",
      {"-c",
       absl::StrCat("source ", path,
                    "; COMP_WORDS=(thaw model im); COMP_CWORD=2; _thaw; echo ${COMPREPLY[@]}")},
      {});
  EXPECT_EQ(run.out, "import\n") << run.err;
}

TEST_F(CliTest, HelpIsExitCode0) {
  for (const char* command : {"submit", "up", "predict", "watch", "fetch", "list"}) {
    const ProgramRun run = Thaw({command, "--help"});
    EXPECT_EQ(run.exit_code, 0);
    EXPECT_THAT(run.out, HasSubstr("Usage: thaw"));
  }
}

TEST_F(CliTest, MetricsOfGroupsAreATable) {
  AddJob("job-1", v1::Job::RUNNING);
  for (const std::string& group : {"", "block.10", "block.2", "head"}) {
    v1::MetricSeries series;
    series.set_name("grad_norm");
    series.set_group(group);
    for (const int step : {100, 2000}) {
      series.add_steps(step);
      series.add_values(step == 100 ? 0.5 : 0.25);
    }
    server_.series.push_back(series);
  }
  const ProgramRun run = Thaw({"metrics", "job-1", "grad_norm"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("grad_norm  head      2,000    0.25   0.25   0.5")) << run.out;
  EXPECT_LT(run.out.find("block.2"), run.out.find("block.10"));
  EXPECT_EQ(run.out.find(" of "), std::string::npos) << "one plot, of the whole model";
}

// Everything that a server, or somebody else's job, can name.
TEST_F(CliTest, NothingSteersTheTerminal) {
  constexpr char kHostile[] =
      "\x1b]0;owned\x07\x1b[2J\xc2\x9b"
      "31m\r\x7f";
  const std::string job_id = absl::StrCat("job-1", kHostile);
  v1::Job job;
  job.set_id(job_id);
  job.set_owner(kHostile);
  job.set_state(v1::Job::FAILED);
  job.set_done(true);
  job.set_state_reason(kHostile);
  job.set_worker(kHostile);
  job.set_attempt(1);
  job.set_result(kHostile);
  (*job.mutable_result_metrics())[kHostile] = 1;
  job.mutable_spec()->set_display_name(kHostile);
  job.mutable_failure()->set_reason(kHostile);
  job.mutable_failure()->set_message(kHostile);
  job.mutable_failure()->set_incident(kHostile);
  job.mutable_progress()->set_step(1);
  job.mutable_progress()->set_best_metric(1);
  job.mutable_progress()->set_metric_name(kHostile);
  job.mutable_progress()->set_phase_name(kHostile);
  v1::Phase* phase = job.mutable_resolved_spec()->mutable_training()->add_phases();
  phase->set_name(kHostile);
  phase->mutable_selector()->set_name_pattern(kHostile);
  server_.AddJob(job);
  v1::Event event;
  event.set_sequence(1);
  event.mutable_warning()->set_reason(kHostile);
  event.mutable_warning()->set_message(kHostile);
  server_.events.push_back(event);
  event.set_sequence(2);
  event.mutable_log_line()->set_text(kHostile);
  server_.events.push_back(event);
  server_.log = absl::StrCat(kHostile, "\n", kHostile, "\n");
  v1::Artifact model;
  model.set_id(absl::StrCat("result-1", kHostile));
  model.set_kind(v1::Artifact::RESULT);
  model.set_display_name("hostile");
  model.set_state_reason(kHostile);
  model.set_owner(kHostile);
  model.set_digest(kHostile);
  model.set_job(kHostile);
  model.mutable_model()->set_model_type(kHostile);
  model.mutable_model()->add_labels(kHostile);
  v1::File* file = model.add_files();
  file->set_path(kHostile);
  file->set_sha256(kHostile);
  server_.AddArtifact(model);
  v1::WorkerStatus worker;
  worker.set_worker(kHostile);
  worker.add_jobs(kHostile);
  worker.mutable_offer()->set_host(kHostile);
  worker.mutable_offer()->add_devices()->set_name(kHostile);
  server_.workers = {worker};
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"list"},
                                             {"show", job_id},
                                             {"watch", job_id},
                                             {"events", job_id},
                                             {"logs", job_id},
                                             {"cancel", job_id},
                                             {"resume", job_id},
                                             {"show", absl::StrCat("job-2", kHostile)},
                                             {"result", "list"},
                                             {"result", "show", "hostile"},
                                             {"fetch", "hostile"},
                                             {"result", "delete", "hostile"},
                                             {"workers"},
                                             {absl::StrCat("no-such-command", kHostile)}}) {
    const ProgramRun run = Thaw(command);
    for (const std::string& text : {run.out, run.err}) {
      for (const char c : text) {
        ASSERT_FALSE((c >= 0 && c < 0x20 && c != '\n') || c == 0x7f)
            << command[0] << " wrote " << static_cast<int>(c) << ": " << text;
      }
      ASSERT_THAT(text, Not(HasSubstr("\xc2\x9b"))) << command[0];
    }
    ASSERT_FALSE(run.out.empty() && run.err.empty()) << command[0];
  }
}

}  // namespace
}  // namespace thaw
