// Tasks and ways of prediction on the command line, against a server in memory.
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/id.h"
#include "gmock/gmock.h"
#include "tests/client/fake_thaw_server.h"
#include "tests/client/run_thaw.h"

namespace thaw {
namespace {

using testing::HasSubstr;
using Rows = v1::DatasetSummary;

class CliTasksTest : public testing::Test {
 protected:
  CliTasksTest() : directory_(testing::TempDir() + "/cli_tasks_" + RandomId()) {
    EXPECT_TRUE(MakeDirectories(directory_).ok());
    AddModel("bert", v1::ModelSummary::NONE);
    AddModel("gpt2", v1::ModelSummary::LANGUAGE_MODEL);
    AddModel("labels", v1::ModelSummary::CLASSIFIER);
    AddModel("more", v1::ModelSummary::CLASSIFIER);
    v1::Artifact chats = Dataset("chats");
    chats.mutable_dataset()->set_task(Rows::COMPLETION);
    chats.mutable_dataset()->set_messages_column("turns");
    server_.AddArtifact(chats);
    v1::Artifact reviews = Dataset("reviews");
    reviews.mutable_dataset()->set_text_column("body");
    reviews.mutable_dataset()->set_label_column("stars");
    server_.AddArtifact(reviews);
    server_.created_state = v1::Job::SUCCEEDED;
  }

  void AddModel(const std::string& name, v1::ModelSummary::Head head) {
    v1::Artifact model;
    model.set_id("model-" + name);
    model.set_kind(v1::Artifact::MODEL);
    model.set_state(v1::Artifact::READY);
    model.set_display_name(name);
    model.mutable_model()->set_model_type("any");
    model.mutable_model()->set_blocks(2);
    model.mutable_model()->set_head(head);
    server_.AddArtifact(model);
  }
  static v1::Artifact Dataset(const std::string& name) {
    v1::Artifact dataset;
    dataset.set_id("dataset-" + name);
    dataset.set_kind(v1::Artifact::DATASET);
    dataset.set_state(v1::Artifact::READY);
    dataset.set_display_name(name);
    return dataset;
  }
  // What every job that is created leaves.
  void Leave(const std::string& file, const std::string& bytes) {
    v1::Artifact result;
    result.set_id("result-0");
    result.set_kind(v1::Artifact::RESULT);
    server_.AddArtifact(result, {{file, bytes}});
  }
  void LeaveAnswer(const std::string& line) { Leave("predictions.jsonl", line + "\n"); }

  ProgramRun Thaw(const std::vector<std::string>& arguments) {
    return RunProgram(ProgramDirectory() + "/thaw", arguments,
                      {"THAW_SERVER=" + server_.address(),
                       "THAW_TOKEN_FILE=" + server_.token_file(), "XDG_DATA_HOME=" + directory_});
  }
  v1::JobSpec Asked() {
    const std::vector<v1::CreateJobRequest> created = server_.created();
    return created.empty() ? v1::JobSpec() : created.back().spec();
  }

  const std::string directory_;
  FakeThawServer server_;
};

TEST_F(CliTasksTest, SubmitLearnsWhatTheDatasetIsFor) {
  ProgramRun run = Thaw({"submit", "--model", "gpt2", "--data", "chats", "--method", "full"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(Asked().training().completion().messages_column(), "turns");
  run = Thaw({"submit", "--model", "gpt2", "--data", "reviews", "--task", "lm", "--per_document",
              "--tokenizer", "bert", "--metric", "perplexity"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(Asked().training().language_modeling().text_column(), "body");
  EXPECT_EQ(Asked().training().language_modeling().layout(), v1::LanguageModeling::PER_DOCUMENT);
  EXPECT_EQ(Asked().training().tokenizer(), "model-bert");
  EXPECT_EQ(Asked().training().evaluation().metric(), v1::Evaluation::PERPLEXITY);
  run = Thaw({"submit", "--model", "bert", "--data", "reviews", "--task", "multi_label"});
  EXPECT_TRUE(Asked().training().text_classification().multi_label()) << run.err;
  run = Thaw({"submit", "--model", "bert", "--data", "reviews", "--task", "poetry"});
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_THAT(run.err, HasSubstr("give one of classification, multi_label, regression, lm, "
                                 "completion, seq2seq"));
}

TEST_F(CliTasksTest, SubmitWritesFeatures) {
  const std::vector<std::string> features = {"submit",         "--model",  "bert",
                                             "--data",         "reviews",  "--task",
                                             "classification", "--method", "features"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = features;
    all.insert(all.end(), more.begin(), more.end());
    return Thaw(all);
  };
  ProgramRun run = with(
      {"--pooling", "cls", "--layer", "3", "--hidden", "32", "--epochs", "4", "--export_features"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(Asked().training().preset().name(), v1::Preset::FEATURES);
  EXPECT_EQ(Asked().training().preset().epochs(), 4);
  const v1::PooledHead head = Asked().training().pooled_head();
  EXPECT_EQ(head.pooling(), v1::Embed::CLS);
  EXPECT_EQ(head.blocks(), 3);
  EXPECT_EQ(head.hidden_size(), 32);
  EXPECT_TRUE(head.export_features());
  run = with({"--solver", "lbfgs"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_FALSE(Asked().training().has_preset());
  ASSERT_EQ(Asked().training().phases_size(), 1);
  EXPECT_TRUE(Asked().training().phases(0).has_convergence());
  EXPECT_TRUE(Asked().training().has_pooled_head());
  EXPECT_FALSE(Asked().training().pooled_head().has_blocks());
  for (const auto& [more, says] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"--solver", "newton"}, "give adamw or lbfgs"},
           {{"--pooling", "sum"}, "give mean, cls, last or max"},
           {{"--solver", "lbfgs", "--epochs", "2"}, "belong to --solver adamw"}}) {
    run = with(more);
    EXPECT_EQ(run.exit_code, 2);
    EXPECT_THAT(run.err, HasSubstr(says));
  }
  run = Thaw({"submit", "--model", "bert", "--data", "reviews", "--pooling", "max"});
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_THAT(run.err, HasSubstr("belongs to --method features"));
}

TEST_F(CliTasksTest, ImportSaysWhatTheRowsAre) {
  const std::string path = directory_ + "/pairs.jsonl";
  ASSERT_TRUE(WriteFileAtomically(path, "{\"de\":\"ja\",\"en\":\"yes\"}\n").ok());
  const ProgramRun run = Thaw({"dataset", "import", path, "--task", "seq2seq", "--source_column",
                               "de", "--target_column", "en"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  const v1::DatasetColumns columns = server_.announced().columns();
  EXPECT_EQ(columns.task(), Rows::SEQUENCE_TO_SEQUENCE);
  EXPECT_EQ(columns.source_column(), "de");
  EXPECT_EQ(columns.target_column(), "en");
  EXPECT_EQ(columns.text_column(), "");
}

TEST_F(CliTasksTest, TheModelDecidesWhatIsPredicted) {
  LeaveAnswer(R"({"row":0,"text":"is blue","tokens":2,"finish_reason":"end"})");
  ProgramRun run = Thaw({"predict", "--model", "gpt2", "The sky"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, testing::StartsWith("is blue\n"));
  EXPECT_TRUE(Asked().prediction().has_generate());
  EXPECT_EQ(Asked().prediction().texts().values(0), "The sky");

  LeaveAnswer(R"({"row":0,"labels":["a","b"],"scores":{"a":0.9,"b":0.5,"c":0.1},"logits":[]})");
  run = Thaw({"predict", "--model", "labels", "--average_with", "more", "x"});
  EXPECT_THAT(run.out, HasSubstr("a, b  90.0 %, 50.0 %  x\n")) << run.err;
  EXPECT_EQ(Asked().prediction().classify().average_with(0), "model-more");
  LeaveAnswer(R"({"row":0,"value":3.25})");
  EXPECT_THAT(Thaw({"predict", "--model", "labels", "x"}).out, HasSubstr("3.25  x\n"));
  LeaveAnswer(R"({"row":0,"rubbish":1})");
  EXPECT_EQ(Thaw({"predict", "--model", "labels", "x"}).exit_code, 1);
}

TEST_F(CliTasksTest, EmbeddingsShowTheirBeginning) {
  const std::string header =
      R"({"embeddings":{"dtype":"F32","shape":[1,6],"data_offsets":[0,24]}})";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size());
  bytes += header;
  const float numbers[] = {0.5F, -1.0F, 0.25F, 0.0F, 2.0F, 3.0F};
  bytes.append(reinterpret_cast<const char*>(numbers), sizeof numbers);
  Leave("embeddings.safetensors", bytes);
  ProgramRun run = Thaw({"predict", "--model", "bert", "x", "--pooling", "max", "--no_normalize"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr(", …] 6 numbers  x\n"));
  EXPECT_EQ(Asked().prediction().embed().pooling(), v1::Embed::MAX);
  EXPECT_FALSE(Asked().prediction().embed().normalize());
  run = Thaw({"predict", "--model", "bert", "x", "--json"});
  EXPECT_EQ(run.out, "{\"row\":0,\"embedding\":[0.5,-1.0,0.25,0.0,2.0,3.0]}\n");
  Leave("embeddings.safetensors", bytes.substr(0, bytes.size() - 1));
  run = Thaw({"predict", "--model", "bert", "x"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, HasSubstr("holds no fp32 tensor"));
}

TEST_F(CliTasksTest, ScoresTextsAndCompletions) {
  LeaveAnswer(R"({"row":0,"log_probability":-2.5,"tokens":2,"perplexity":3.49})");
  ProgramRun run = Thaw({"predict", "--model", "gpt2", "--score", "2+2=", "--completion", "4"});
  EXPECT_THAT(run.out, HasSubstr("-2.5  perplexity 3.49, 2 tokens  2+2=4\n")) << run.err;
  EXPECT_EQ(Asked().prediction().examples().values(0).completion(), "4");
  run = Thaw({"predict", "--model", "gpt2", "--score", "--per_token", "2+2=4"});
  EXPECT_TRUE(Asked().prediction().score().per_token());
  EXPECT_EQ(Asked().prediction().texts().values(0), "2+2=4");
}

TEST_F(CliTasksTest, GeneratedTextIsShownAsItComesAndOnlyOnce) {
  LeaveAnswer(R"({"row":0,"text":"one two\nthree","tokens":3,"finish_reason":"length"})");
  for (const auto& [attempt, text] : std::vector<std::pair<int, std::string>>{
           {1, "one"}, {1, " mistaken"}, {2, "one "}, {2, "two\n"}}) {
    v1::Event event;
    event.set_sequence(static_cast<int64_t>(server_.events.size()) + 1);
    event.set_attempt(attempt);
    event.mutable_generated_text()->set_text(text);
    server_.events.push_back(event);
  }
  const ProgramRun run = Thaw(
      {"predict", "--model",          "gpt2", "--chat",        "--stop", "five",
       "count",   "--max_new_tokens", "3",    "--temperature", "0.5",    "--top_k",
       "5",       "--top_p",          "0.9",  "--min_p",       "0.1",    "--repetition_penalty",
       "1.2",     "--stop",           "four", "--seed",        "0",      "--precision",
       "bf16"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, testing::StartsWith("one mistaken\none two\nthree\n"));
  const v1::Generate generate = Asked().prediction().generate();
  EXPECT_EQ(Asked().prediction().examples().values(0).messages(0).role(), "user");
  EXPECT_EQ(generate.max_new_tokens(), 3);
  EXPECT_EQ(generate.temperature(), 0.5);
  EXPECT_EQ(generate.top_k(), 5);
  EXPECT_EQ(generate.top_p(), 0.9);
  EXPECT_EQ(generate.min_p(), 0.1);
  EXPECT_EQ(generate.repetition_penalty(), 1.2);
  EXPECT_EQ(generate.stop(0), "five");
  EXPECT_EQ(generate.stop(1), "four");
  EXPECT_TRUE(generate.has_seed());
  EXPECT_EQ(generate.seed(), 0u);
  EXPECT_EQ(Asked().prediction().precision(), v1::BF16);
}

TEST_F(CliTasksTest, DatasetsKeepTheirOwnColumns) {
  LeaveAnswer(R"({"row":0,"text":"yes","tokens":1,"finish_reason":"end"})");
  ProgramRun run = Thaw({"predict", "--model", "gpt2", "--data", "chats"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(Asked().prediction().dataset(), "dataset-chats");
  EXPECT_EQ(Asked().prediction().generate().messages_column(), "");
  LeaveAnswer(R"({"row":0,"label":"a","score":0.9})");
  run = Thaw({"predict", "--model", "labels", "--data", "reviews"});
  EXPECT_EQ(Asked().prediction().classify().text_column(), "body") << run.err;
}

TEST_F(CliTasksTest, ARunningTrainingIsAModel) {
  v1::Job job;
  job.set_id("job-77");
  job.set_state(v1::Job::RUNNING);
  job.mutable_spec()->set_display_name("mine");
  job.mutable_spec()->mutable_training()->mutable_language_modeling();
  server_.AddJob(job);
  LeaveAnswer(R"({"row":0,"text":"x","tokens":1,"finish_reason":"end"})");
  for (const char* name : {"job-77", "mine"}) {
    const ProgramRun run = Thaw({"predict", "--model", name, "--weights", "last", "The"});
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(Asked().prediction().model(), "job-77");
    EXPECT_EQ(Asked().prediction().weights(), v1::Prediction::LAST);
    EXPECT_TRUE(Asked().prediction().has_generate());
  }
}

TEST_F(CliTasksTest, FlagsOfOtherTasksAreRefused) {
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"predict", "--model", "labels", "--top_k", "5", "x"}, "--top_k belongs to --generate"},
      {{"predict", "--model", "gpt2", "--completion", "c", "x"}, "--completion belongs to --score"},
      {{"predict", "--model", "gpt2", "--pooling", "cls", "x"}, "--pooling belongs to --embed"},
      {{"predict", "--model", "bert", "--pooling", "sum", "x"}, "give mean, cls, last or max"},
      {{"predict", "--model", "gpt2", "--embed", "--score", "x"}, "give one of --embed"},
      {{"predict", "--model", "gpt2", "--weights", "first", "x"}, "give last or best"},
      {{"predict", "--model", "gpt2", "--precision", "fp16", "x"}, "give fp32 or bf16"},
      {{"submit", "--model", "bert", "--data", "reviews", "--precision", "half"},
       "give fp32 or bf16"},
      {{"submit", "--model", "bert", "--data", "reviews", "--per_document"}, "--task lm"}};
  for (const auto& [arguments, says] : cases) {
    const ProgramRun run = Thaw(arguments);
    EXPECT_EQ(run.exit_code, 2) << says;
    EXPECT_THAT(run.err, HasSubstr(says));
  }
  EXPECT_TRUE(server_.created().empty());
}

}  // namespace
}  // namespace thaw
