// Every task but single labels through the whole loop.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "tests/worker/training/toy_job.h"
#include "worker/training/evaluation.h"
#include "worker/training/forward.h"

namespace thaw {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

struct TaskCase {
  std::string name;
  std::string task;  // text format
  std::string model;
  std::vector<std::string> metrics;
  std::string deciding;
  std::string architecture;
};

const TaskCase kTasks[] = {
    {"several_labels",
     "text_classification { multi_label: true label_column: 'labels' }",
     "bert",
     {"accuracy", "loss", "macro_f1", "micro_f1"},
     "macro_f1",
     "BertForSequenceClassification"},
    {"regression",
     "regression { target_column: 'number' }",
     "bert",
     {"loss", "mean_squared_error", "pearson"},
     "mean_squared_error",
     "BertForSequenceClassification"},
    {"contiguous",
     "language_modeling {} max_length: 24",
     "gpt2",
     {"loss", "perplexity"},
     "loss",
     "GPT2LMHeadModel"},
    {"per_document",
     "language_modeling { layout: PER_DOCUMENT } evaluation { metric: PERPLEXITY every_epochs: 0.5 "
     "}",
     "llama",
     {"loss", "perplexity"},
     "perplexity",
     "LlamaForCausalLM"},
    {"completion", "completion {}", "gpt2", {"loss", "perplexity"}, "loss", "GPT2LMHeadModel"},
    {"conversation",
     "completion { messages_column: 'messages' }",
     "gpt2",
     {"loss", "perplexity"},
     "loss",
     "GPT2LMHeadModel"},
    {"sequence_to_sequence",
     "sequence_to_sequence {}",
     "t5",
     {"loss", "perplexity"},
     "loss",
     "T5ForConditionalGeneration"}};

internal::Run TaskJob(const TaskCase& task, const std::string& training, double dropout = 0,
                      int rows = 80) {
  const std::string model = FreshDirectory("model");
  return ToyTraining(task.model == "bert" ? MakeToyModel(model, dropout)
                                          : MakeToyWriter(model, task.model, dropout),
                     MakeToyTexts(FreshDirectory("dataset"), rows, 7), task.task + " " + training);
}

const TaskCase& CaseOf(const std::string& name) {
  return *std::find_if(std::begin(kTasks), std::end(kTasks),
                       [&](const TaskCase& task) { return task.name == name; });
}

class EveryTask : public ::testing::TestWithParam<TaskCase> {};

TEST_P(EveryTask, LearnsEvaluatesAndLeavesAModel) {
  const internal::Run run = TaskJob(GetParam(),
                                    "validation_fraction: 0.2 phases { selector { everything: true "
                                    "} learning_rate: 0.005 epochs: "
                                    "6 }");
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(run, &sink);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  const auto losses = sink.Series("loss");
  EXPECT_LT(losses.rbegin()->second, 0.9 * losses.begin()->second);
  for (const std::string& metric : GetParam().metrics) {
    EXPECT_TRUE(ended.metrics().contains(metric)) << metric;
    EXPECT_FALSE(sink.Series("eval_" + metric).empty()) << metric;
  }
  EXPECT_EQ(sink.progress.metric_name(), GetParam().deciding);
  // What is kept is the best in the metric's own direction.
  const bool more = GetParam().deciding == "macro_f1";
  double best = more ? -1e9 : 1e9;
  for (const v1::EvaluationEnd& evaluation : sink.Evaluations()) {
    const double value = evaluation.values().at(GetParam().deciding);
    EXPECT_EQ(evaluation.best(), more ? value > best : value < best);
    best = more ? std::max(best, value) : std::min(best, value);
  }
  EXPECT_EQ(ended.metrics().at(GetParam().deciding), best);
  const std::string result = run.work_dir() + "/result";
  EXPECT_THAT((*ReadJsonFile(result + "/config.json"))["architectures"],
              ElementsAre(GetParam().architecture));
  EXPECT_TRUE(LoadModel(result, std::nullopt).ok());
  if (GetParam().model == "bert") return;
  for (const char* file : {"tokenizer.json", "tokenizer_config.json", "generation_config.json",
                           "chat_template.jinja"}) {
    EXPECT_TRUE(Exists(result + "/" + file)) << file;
  }
}

// The mean over all loss units of an optimizer step, not a mean of means: 1 x 8 is 8 x 1, also
// where rows have few or many of them.
TEST_P(EveryTask, AccumulationChangesNothing) {
  const auto train = [&](int tokens_per_micro_step, RecordingSink* sink) {
    RunAttempt(TaskJob(GetParam(),
                       absl::StrCat("validation_fraction: 0 phases { selector { everything: true } "
                                    "learning_rate: 0.001 steps: 5 } batch { examples_per_step: 8 "
                                    "tokens_per_micro_step: ",
                                    tokens_per_micro_step, " }")),
               sink);
  };
  RecordingSink whole, single;
  train(4096, &whole);
  train(1, &single);
  ASSERT_THAT(whole.Series("loss"), SizeIs(5));
  EXPECT_EQ(whole.Series("loss_units"), single.Series("loss_units"));
  double worst = 0;
  for (const auto& [step, loss] : whole.Series("loss")) {
    worst = std::max(worst, std::abs(single.Series("loss").at(step) - loss) / loss);
    EXPECT_NEAR(single.Series("grad_norm").at(step) / whole.Series("grad_norm").at(step), 1, 1e-4);
  }
  std::printf("[ FIGURE   ] %s, 1 x 8 against 8 x 1: losses of five steps differ by at most %.1e\n",
              GetParam().name.c_str(), worst);
  EXPECT_LT(worst, 1e-6);
}

TEST_P(EveryTask, ResumesWithTheSameBits) {
  const TaskCase& task = GetParam();
  std::string training =
      "validation_fraction: 0.2 phases { selector { last_blocks: 1 } learning_rate: 0.003 "
      "epochs: 1 } phases { selector { everything: true } learning_rate: 0.002 epochs: 1.5 }"
      " checkpoint { every_steps: 1 }";
  if (!absl::StrContains(task.task, "evaluation")) training += " evaluation { every_epochs: 0.5 }";
  const internal::Run straight_run = TaskJob(task, training, 0.1);
  RecordingSink straight;
  ASSERT_EQ(RunAttempt(straight_run, &straight).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  ASSERT_GT(straight.checkpoints.size(), 6u);
  for (const size_t point :
       {size_t{1}, straight.checkpoints.size() / 2, straight.checkpoints.size() - 3}) {
    internal::Run run = straight_run;
    run.set_work_dir(FreshDirectory("work"));
    run.set_checkpoint_dir(straight_run.work_dir() + "/" + straight.checkpoints[point].dir());
    RecordingSink resumed;
    ASSERT_EQ(RunAttempt(run, &resumed).end().outcome(), v1::AttemptEnd::SUCCEEDED);
    EXPECT_EQ(ResultWeights(run), ResultWeights(straight_run))
        << straight.checkpoints[point].ShortDebugString();
    std::map<int64_t, double> expected = straight.Series("loss");
    expected.erase(expected.begin(), expected.upper_bound(straight.checkpoints[point].step()));
    EXPECT_EQ(resumed.Series("loss"), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Tasks, EveryTask, ::testing::ValuesIn(kTasks),
                         [](const auto& info) { return info.param.name; });

// A batch norm's statistics belong to no optimizer, but to the checkpoint and the best weights.
TEST(Buffers, ResumeWithTheSameBits) {
  const std::string model = MakeToyLstm(FreshDirectory("model"), 1);
  const std::string program =
      "validation_fraction: 0.2 phases { selector { head_only: true } learning_rate: 0.01 epochs: "
      "2 }"
      " phases { selector { last_blocks: 1 } learning_rate: 0.005 epochs: 2 restore_best: true }"
      " evaluation { metric: LOSS every_epochs: 0.5 } checkpoint { every_steps: 1 }";
  const internal::Run straight_run =
      ToyTraining(model, MakeToyDataset(FreshDirectory("dataset"), 60, 5), program);
  RecordingSink straight;
  const internal::Ended ended = RunAttempt(straight_run, &straight);
  ASSERT_EQ(ended.end().outcome(), v1::AttemptEnd::SUCCEEDED) << ended.ShortDebugString();
  for (size_t point = 0; point < straight.checkpoints.size(); point += 4) {
    internal::Run run = straight_run;
    run.set_work_dir(FreshDirectory("work"));
    run.set_checkpoint_dir(straight_run.work_dir() + "/" + straight.checkpoints[point].dir());
    RecordingSink resumed;
    ASSERT_EQ(RunAttempt(run, &resumed).end().outcome(), v1::AttemptEnd::SUCCEEDED);
    EXPECT_EQ(ResultWeights(run), ResultWeights(straight_run))
        << straight.checkpoints[point].ShortDebugString();
  }
}

TEST(TaskEvaluation, WeighsTokensHoweverTheyAreCutIntoBatches) {
  const std::string directory = MakeToyWriter(FreshDirectory("model"), "gpt2", 0.5);
  const auto model = *LoadModel(directory, std::nullopt);
  TokenizedDataset rows;
  for (const int length : {2, 20, 3, 11}) {
    for (int i = 0; i < length; ++i) rows.token_ids.push_back(5 + 7 * i % 100);
    rows.offsets.push_back(static_cast<int64_t>(rows.token_ids.size()));
    const TokenSpan answer = {1, length};
    rows.answers.Append({&answer, 1});
    rows.lines.push_back(rows.rows());
  }
  const auto go_on = [](int64_t) { return true; };
  const auto whole = *EvaluateTokens(model.get(), rows, 4096, 0, go_on);
  const auto single = *EvaluateTokens(model.get(), rows, 1, 0, go_on);
  EXPECT_NEAR(whole.at("loss") / single.at("loss"), 1, 1e-6);
  EXPECT_DOUBLE_EQ(whole.at("perplexity"), std::exp(whole.at("loss")));
  // Each row alone, weighted by its tokens.
  double sum = 0;
  for (int64_t row = 0; row < rows.rows(); ++row) {
    const PackedBatch batch = Pack(rows, {&row, 1});
    const torch::Tensor states = LossStates(model.get(), batch, TrainedGroups(), DropoutKey());
    const OutputLayer output = model->output_layer();
    sum -=
        LinearLogProbabilities(Path::kReference, states, output.weight, output.bias, NextIds(batch))
            .sum()
            .item<double>();
  }
  EXPECT_NEAR(whole.at("loss"), sum / (1 + 19 + 2 + 10), 1e-5);
  EXPECT_FALSE(EvaluateTokens(model.get(), rows, 4096, 0, [](int64_t) { return false; }));
}

constexpr char kOneStep[] =
    "validation_fraction: 0 phases { selector { everything: true } learning_rate: 0.001 steps: 1 }";

TEST(TaskRowsTest, ExamplesWithoutALossUnitAreLeftOutAndToldOf) {
  const internal::Run run = TaskJob(CaseOf("completion"), absl::StrCat("max_length: 5 ", kOneStep));
  ASSERT_TRUE(WriteFileAtomically(run.dataset_dir() + "/data.jsonl",
                                  R"({"prompt":"w1 w2","completion":" w3"})"
                                  "\n"
                                  R"({"prompt":"w1 w2 w3 w4 w5 w6","completion":" w7"})"
                                  "\n")
                  .ok());
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(run, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  ASSERT_THAT(sink.Warnings(), SizeIs(2));
  EXPECT_EQ(sink.Warnings()[0].reason(), "ROWS_TRUNCATED");
  EXPECT_EQ(sink.Warnings()[1].reason(), "ROWS_SKIPPED");
  EXPECT_THAT(sink.Warnings()[1].message(), HasSubstr("line 2"));
  EXPECT_EQ(sink.Series("loss_units").at(1), 2);  // w3 and the end
}

TEST(TaskRowsTest, FailBeforeTheFirstStepWithBlame) {
  struct Case {
    TaskCase task;
    std::string training;
    v1::Failure::Blame blame;
    std::string message;
  };
  TaskCase encoder = CaseOf("completion"), decoder = CaseOf("sequence_to_sequence");
  encoder.model = "bert";
  decoder.model = "gpt2";
  const Case cases[] = {
      {CaseOf("completion"), "max_length: 2", v1::Failure::DATA, "give a greater max_length"},
      {encoder, "", v1::Failure::USER, "cannot learn this task"},
      {decoder, "", v1::Failure::USER, "cannot learn this task"},
  };
  for (const Case& test : cases) {
    RecordingSink sink;
    const internal::Ended ended =
        RunAttempt(TaskJob(test.task, absl::StrCat(test.training, " ", kOneStep)), &sink);
    EXPECT_EQ(ended.end().failure().blame(), test.blame) << ended.ShortDebugString();
    EXPECT_THAT(ended.end().failure().message(), HasSubstr(test.message));
  }
}

TEST(TaskRowsTest, AModelMayLackTemplateOrEnd) {
  const internal::Run chat = TaskJob(CaseOf("conversation"), kOneStep);
  ASSERT_TRUE(RemoveTree(chat.model_dir() + "/chat_template.jinja").ok());
  RecordingSink sink;
  const internal::Ended ended = RunAttempt(chat, &sink);
  EXPECT_EQ(ended.end().failure().blame(), v1::Failure::USER) << ended.ShortDebugString();
  EXPECT_THAT(ended.end().failure().message(), HasSubstr("no chat template"));

  const internal::Run plain = TaskJob(CaseOf("contiguous"), kOneStep);
  ASSERT_TRUE(WriteFileAtomically(plain.model_dir() + "/tokenizer_config.json", "{}").ok());
  auto config = *ReadJsonFile(plain.model_dir() + "/config.json");
  config.erase("eos_token_id");
  ASSERT_TRUE(WriteFileAtomically(plain.model_dir() + "/config.json", config.dump()).ok());
  ASSERT_TRUE(WriteFileAtomically(plain.model_dir() + "/generation_config.json", "{}").ok());
  RecordingSink warned;
  ASSERT_EQ(RunAttempt(plain, &warned).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  ASSERT_THAT(warned.Warnings(), SizeIs(1));
  EXPECT_EQ(warned.Warnings()[0].reason(), "NO_END_OF_TEXT");
}

}  // namespace
}  // namespace thaw
