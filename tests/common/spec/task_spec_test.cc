// Every task of trainings and predictions: defaults, bounds, what models and datasets serve it.
#include <functional>

#include "common/base/status.h"
#include "common/spec/model_abilities.h"
#include "gmock/gmock.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

using Rows = v1::DatasetSummary;
using testing::HasSubstr;

v1::Artifact Model(const std::string& id, const std::string& type, v1::ModelSummary::Head head,
                   const std::vector<std::string>& labels = {}) {
  v1::Artifact model = ModelExample(id, v1::Artifact::RESULT, labels);
  model.mutable_model()->set_model_type(type);
  model.mutable_model()->set_head(head);
  return model;
}

v1::Artifact Dataset(const std::string& id, Rows::Task task,
                     const std::function<void(Rows*)>& columns) {
  v1::Artifact dataset = ReadyArtifact(id, v1::Artifact::DATASET);
  dataset.mutable_dataset()->set_task(task);
  dataset.mutable_dataset()->set_rows(1000);
  columns(dataset.mutable_dataset());
  return dataset;
}

SpecContext TaskContext() {
  SpecContext context = ContextExample();
  const auto add = [&](v1::Artifact artifact) { context.artifacts[artifact.id()] = artifact; };
  add(Model("gpt2", "gpt2", v1::ModelSummary::LANGUAGE_MODEL));
  add(Model("gpt2-labels", "gpt2", v1::ModelSummary::CLASSIFIER, {"0", "1"}));
  add(Model("several", "distilbert", v1::ModelSummary::MULTI_LABEL_CLASSIFIER, {"0", "1"}));
  add(Model("number", "bert", v1::ModelSummary::REGRESSION));
  add(Model("t5", "t5", v1::ModelSummary::SEQUENCE_TO_SEQUENCE));
  add(Model("chat", "qwen2", v1::ModelSummary::LANGUAGE_MODEL));
  context.artifacts["chat"].mutable_model()->set_chat_template(true);
  context.artifacts["chat"].mutable_model()->set_max_positions(32768);
  context.artifacts["t5"].mutable_model()->set_max_positions(0);
  add(Dataset("texts", Rows::LANGUAGE_MODELING, [](Rows* rows) { rows->set_text_column("text"); }));
  add(Dataset("tags", Rows::MULTI_LABEL, [](Rows* rows) {
    rows->set_text_column("text");
    rows->set_label_column("label");
    rows->add_labels()->set_label("a");
  }));
  add(Dataset("stars", Rows::REGRESSION, [](Rows* rows) {
    rows->set_text_column("text");
    rows->set_target_column("label");
  }));
  add(Dataset("prompts", Rows::COMPLETION, [](Rows* rows) {
    rows->set_prompt_column("prompt");
    rows->set_completion_column("completion");
  }));
  add(Dataset("questions", Rows::COMPLETION, [](Rows* rows) {
    rows->set_prompt_column("prompt");
    rows->set_completion_column("completion");
    rows->set_unlabelled_rows(1000);
  }));
  add(Dataset("chats", Rows::COMPLETION, [](Rows* rows) { rows->set_messages_column("turns"); }));
  add(Dataset("pairs", Rows::SEQUENCE_TO_SEQUENCE, [](Rows* rows) {
    rows->set_source_column("source");
    rows->set_target_column("target");
  }));
  return context;
}

v1::JobSpec Training(const std::string& model, const std::string& dataset,
                     const std::string& task) {
  return SpecFromJson("{\"base_model\": \"" + model + "\", \"training\": {\"dataset\": \"" +
                      dataset + "\", " + task +
                      ", \"phases\": [{\"selector\": {\"everything\": true}, \"learning_rate\": "
                      "0.001, \"steps\": 10}]}}");
}

v1::JobSpec Prediction(const std::string& model, const std::string& rest) {
  return SpecFromJson("{\"prediction\": {\"model\": \"" + model + "\", " + rest + "}}");
}

v1::JobSpec Resolved(const v1::JobSpec& spec, const SpecContext& context = TaskContext()) {
  const auto resolved = ResolveSpec(spec, context);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  if (!resolved.ok()) return {};
  const auto again = ResolveSpec(*resolved, context);
  EXPECT_TRUE(again.ok()) << again.status();
  if (again.ok()) {
    EXPECT_EQ(CanonicalBytes(*again), CanonicalBytes(*resolved));
  }
  return *resolved;
}

void ExpectRefused(const v1::JobSpec& spec, const std::string& field, const std::string& says,
                   const SpecContext& context = TaskContext()) {
  const auto violations = ViolationsOf(ResolveSpec(spec, context).status());
  ASSERT_EQ(violations.size(), 1u) << field << " " << says << "\n" << spec.DebugString();
  EXPECT_EQ(violations[0].field, field);
  EXPECT_THAT(violations[0].description, HasSubstr(says));
}

TEST(TaskSpecTest, FillsTheDefaultsOfEveryTraining) {
  const v1::JobSpec tags =
      Resolved(Training("model-1", "tags", "\"text_classification\": {\"multi_label\": true}"));
  EXPECT_EQ(tags.training().evaluation().metric(), v1::Evaluation::MACRO_F1);

  const v1::JobSpec stars = Resolved(Training("gpt2", "stars", "\"regression\": {}"));
  EXPECT_EQ(stars.training().regression().target_column(), "label");
  EXPECT_EQ(stars.training().evaluation().metric(), v1::Evaluation::MEAN_SQUARED_ERROR);

  const v1::JobSpec texts = Resolved(Training("gpt2", "texts", "\"language_modeling\": {}"));
  EXPECT_EQ(texts.training().language_modeling().layout(), v1::LanguageModeling::CONTIGUOUS);
  EXPECT_EQ(texts.training().evaluation().metric(), v1::Evaluation::LOSS);
  EXPECT_EQ(texts.training().max_length(), 256);
  // Labels do not hinder: the first stage of a classifier learns its language.
  Resolved(Training("gpt2", "dataset-1", "\"language_modeling\": {}"));

  const v1::JobSpec prompts = Resolved(Training("gpt2", "prompts", "\"completion\": {}"));
  EXPECT_EQ(prompts.training().completion().prompt_column(), "prompt");
  EXPECT_EQ(prompts.training().completion().messages_column(), "");
  const v1::JobSpec chats = Resolved(Training("chat", "chats", "\"completion\": {}"));
  EXPECT_EQ(chats.training().completion().prompt_column(), "");
  EXPECT_EQ(chats.training().completion().messages_column(), "turns");

  const v1::JobSpec pairs = Resolved(Training("t5", "pairs", "\"sequence_to_sequence\": {}"));
  EXPECT_EQ(pairs.training().sequence_to_sequence().max_target_length(), 256);
}

TEST(TaskSpecTest, RefusesModelsThatCannotLearnATask) {
  const std::string field = "spec.base_model";
  ExpectRefused(Training("model-1", "texts", "\"language_modeling\": {}"), field,
                "\"model-1\" is of type bert, which reads both ways and cannot write on; give a "
                "model of type gpt2, llama, mistral, qwen2, qwen3, bloom, awd_lstm");
  ExpectRefused(Training("t5", "prompts", "\"completion\": {}"), field, "use sequence_to_sequence");
  ExpectRefused(Training("gpt2-labels", "texts", "\"language_modeling\": {}"), field,
                "give the model that it was made from");
  ExpectRefused(Training("gpt2", "pairs", "\"sequence_to_sequence\": {}"), field,
                "has no encoder; give a model of type t5, or use completion");
  ExpectRefused(Training("model-1", "pairs", "\"sequence_to_sequence\": {}"), field,
                "has no decoder; give a model of type t5");
  ExpectRefused(Training("t5", "dataset-1", "\"text_classification\": {}"), field,
                "writes text instead of choosing; use sequence_to_sequence");
  ExpectRefused(Training("gpt2", "chats", "\"completion\": {}"),
                "spec.training.completion.messages_column",
                "\"gpt2\" has no chat template to render conversations with");
}

TEST(TaskSpecTest, TakesTheChatTemplateOfTheTokenizerThatReplaces) {
  v1::JobSpec spec = Training("gpt2", "chats", "\"completion\": {}");
  spec.mutable_training()->set_tokenizer("chat");
  Resolved(spec);
  spec.mutable_training()->set_tokenizer("model-9");
  const auto violations = ViolationsOf(ResolveSpec(spec, TaskContext()).status());
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, "spec.training.tokenizer");
}

TEST(TaskSpecTest, RefusesDatasetsOfOtherTasks) {
  const std::string field = "spec.training.dataset";
  ExpectRefused(Training("model-1", "tags", "\"text_classification\": {}"), field,
                "\"tags\" holds rows of MULTI_LABEL; give a dataset that was imported as "
                "CLASSIFICATION");
  ExpectRefused(Training("model-1", "dataset-1", "\"regression\": {}"), field, "REGRESSION");
  ExpectRefused(Training("gpt2", "prompts", "\"language_modeling\": {}"), field,
                "LANGUAGE_MODELING");
  ExpectRefused(Training("gpt2", "questions", "\"completion\": {}"), field,
                "1000 of 1000 rows without an answer");
  ExpectRefused(Training("gpt2", "prompts", "\"completion\": {\"completion_column\": \"best\"}"),
                "spec.training.completion.completion_column", "with column \"completion\"");
  ExpectRefused(
      Training("model-1", "dataset-1", "\"text_classification\": {\"text_pair_column\": \"b\"}"),
      "spec.training.text_classification.text_pair_column", "uploaded without such a column");
}

TEST(TaskSpecTest, KnowsTheMetricsOfEveryTask) {
  const auto refuse = [](const std::string& task, const std::string& model,
                         const std::string& dataset, v1::Evaluation::Metric metric,
                         const std::string& says) {
    v1::JobSpec spec = Training(model, dataset, task);
    spec.mutable_training()->mutable_evaluation()->set_metric(metric);
    ExpectRefused(spec, "spec.training.evaluation.metric", says);
  };
  refuse(
      "\"text_classification\": {}", "model-1", "dataset-1", v1::Evaluation::MICRO_F1,
      "MICRO_F1 is no metric of this task; give ACCURACY, MACRO_F1, LOSS or MATTHEWS_CORRELATION");
  refuse("\"regression\": {}", "model-1", "stars", v1::Evaluation::ACCURACY,
         "give MEAN_SQUARED_ERROR, LOSS, PEARSON or SPEARMAN");
  refuse("\"language_modeling\": {}", "gpt2", "texts", v1::Evaluation::MEAN_SQUARED_ERROR,
         "give LOSS or PERPLEXITY");
  refuse("\"completion\": {}", "gpt2", "prompts", v1::Evaluation::ACCURACY,
         "give LOSS, PERPLEXITY, EXACT_MATCH or DIGIT_MATCH");
  // The dataset decides that these are conversations.
  refuse("\"completion\": {}", "chat", "chats", v1::Evaluation::EXACT_MATCH,
         "EXACT_MATCH is no metric of this task; give LOSS or PERPLEXITY");
}

TEST(TaskSpecTest, FillsWhatEvaluationsGenerate) {
  v1::JobSpec spec = Training("gpt2", "prompts", "\"completion\": {}");
  spec.mutable_training()->mutable_evaluation()->add_also(v1::Evaluation::DIGIT_MATCH);
  spec.mutable_training()->mutable_evaluation()->set_every_steps(50);
  const v1::JobSpec resolved = Resolved(spec);
  const v1::Evaluation& evaluation = resolved.training().evaluation();
  EXPECT_EQ(evaluation.metric(), v1::Evaluation::LOSS);
  EXPECT_EQ(evaluation.max_new_tokens(), 256);
  EXPECT_EQ(evaluation.generated_rows(), 256);
  EXPECT_FALSE(evaluation.has_every_epochs());
}

TEST(TaskSpecTest, WeighsKnownLabelsOnly) {
  const auto weighted = [](const std::string& label) {
    v1::JobSpec spec = Training("model-1", "dataset-1", "\"text_classification\": {}");
    (*spec.mutable_training()->mutable_text_classification()->mutable_class_weights())[label] = 2;
    return spec;
  };
  Resolved(weighted("1"));
  ExpectRefused(weighted("2"), "spec.training.text_classification.class_weights",
                "\"2\" is no label of \"dataset-1\"; did you mean \"0\"?");
  ExpectRefused(weighted("positive"), "spec.training.text_classification.class_weights",
                "give labels of its rows");
}

TEST(TaskSpecTest, TakesTheColumnsThatTheDatasetHas) {
  SpecContext context = ContextExample();
  v1::DatasetSummary* summary = context.artifacts["dataset-1"].mutable_dataset();
  summary->set_text_column("review");
  summary->set_label_column("sentiment");
  const auto resolved = ResolveSpec(TrainingExample(), context);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->training().text_classification().text_column(), "review");
  EXPECT_EQ(resolved->training().text_classification().label_column(), "sentiment");
}

TEST(TaskSpecTest, FillsTheDefaultsOfEveryPrediction) {
  const v1::Embed embed =
      Resolved(Prediction("model-1", "\"texts\": {\"values\": [\"t\"]}, \"embed\": {}"))
          .prediction()
          .embed();
  EXPECT_EQ(embed.pooling(), v1::Embed::MEAN);
  EXPECT_TRUE(embed.normalize());
  EXPECT_EQ(embed.text_column(), "text");

  const v1::JobSpec score = Resolved(Prediction("gpt2", "\"dataset\": \"prompts\", \"score\": {}"));
  EXPECT_EQ(score.prediction().score().prompt_column(), "prompt");
  EXPECT_EQ(score.prediction().score().completion_column(), "completion");
  EXPECT_EQ(score.prediction().max_length(), 512);
  EXPECT_EQ(Resolved(Prediction("gpt2", "\"dataset\": \"texts\", \"score\": {}"))
                .prediction()
                .score()
                .text_column(),
            "text");

  const v1::JobSpec spec =
      Resolved(Prediction("chat", "\"texts\": {\"values\": [\"t\"]}, \"generate\": {}"));
  const v1::Generate& generate = spec.prediction().generate();
  EXPECT_EQ(generate.max_new_tokens(), 256);
  EXPECT_EQ(generate.temperature(), 0);
  EXPECT_EQ(generate.top_p(), 1);
  EXPECT_EQ(generate.repetition_penalty(), 1);
  EXPECT_EQ(generate.seed(), 42u);
  EXPECT_EQ(spec.prediction().max_length(), 2048);
  EXPECT_EQ(Resolved(Prediction("chat", "\"dataset\": \"chats\", \"generate\": {}"))
                .prediction()
                .generate()
                .messages_column(),
            "turns");
  EXPECT_EQ(Resolved(Prediction("t5", "\"dataset\": \"pairs\", \"generate\": {}"))
                .prediction()
                .generate()
                .prompt_column(),
            "source");
  EXPECT_EQ(Resolved(Prediction("gpt2", "\"dataset\": \"questions\", \"generate\": {}"))
                .prediction()
                .generate()
                .prompt_column(),
            "prompt");
}

TEST(TaskSpecTest, RefusesModelsThatCannotAnswer) {
  const std::string field = "spec.prediction.model";
  const std::string texts = "\"texts\": {\"values\": [\"t\"]}, ";
  ExpectRefused(Prediction("model-1", texts + "\"generate\": {}"), field,
                "\"model-1\" is of type bert and has no head that predicts tokens, so it cannot "
                "generate; give a language model");
  ExpectRefused(Prediction("gpt2-labels", texts + "\"score\": {}"), field, "classifies");
  ExpectRefused(Prediction("gpt2", texts + "\"classify\": {}"), field,
                "has no labels and so cannot classify");
  ExpectRefused(Prediction("t5", texts + "\"score\": {}"), field,
                "scores a completion after a prompt, not a text alone");
  ExpectRefused(Prediction("gpt2", texts + "\"embed\": {\"pooling\": \"CLS\"}"), field,
                "give the pooling MEAN, LAST or MAX");
  const std::string chat =
      "\"examples\": {\"values\": [{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}]}, ";
  ExpectRefused(Prediction("gpt2", chat + "\"generate\": {}"), field, "has no chat template");
  ExpectRefused(Prediction("t5", chat + "\"generate\": {}"), field, "knows no conversations");
  Resolved(Prediction("chat", chat + "\"generate\": {}"));
  for (const char* model : {"result-1", "several", "number", "gpt2-labels"}) {
    Resolved(Prediction(model, texts + "\"classify\": {}"));
  }
}

TEST(TaskSpecTest, RefusesDatasetsThatAPredictionCannotRead) {
  ExpectRefused(Prediction("gpt2", "\"dataset\": \"chats\", \"embed\": {}"),
                "spec.prediction.dataset", "holds conversations");
  ExpectRefused(Prediction("gpt2", "\"dataset\": \"questions\", \"score\": {}"),
                "spec.prediction.dataset", "rows without a completion");
  ExpectRefused(Prediction("gpt2",
                           "\"dataset\": \"texts\", \"generate\": {\"prompt_column\": "
                           "\"prompt\"}"),
                "spec.prediction.generate.prompt_column", "are in: text; give one of these");
}

TEST(TaskSpecTest, RefusesWhatIsWrongInAPrediction) {
  const std::string texts = "\"texts\": {\"values\": [\"t\"]}, ";
  const std::string at = "spec.prediction.generate.";
  const std::vector<std::vector<std::string>> cases = {
      {at + "temperature", "-1 is out of range", texts + "\"generate\": {\"temperature\": -1}"},
      {at + "temperature", "nan", texts + "\"generate\": {\"temperature\": \"NaN\"}"},
      {at + "max_new_tokens", "give 1 to 32768",
       texts + "\"generate\": {\"max_new_tokens\": 32769}"},
      {at + "top_k", "with temperature 0", texts + "\"generate\": {\"top_k\": 5}"},
      {at + "top_p", "with temperature 0", texts + "\"generate\": {\"top_p\": 0.5}"},
      {at + "top_p", "above 0", texts + "\"generate\": {\"temperature\": 1, \"top_p\": 0}"},
      {at + "min_p", "at most 1", texts + "\"generate\": {\"temperature\": 1, \"min_p\": 1.5}"},
      {at + "repetition_penalty", "above 0", texts + "\"generate\": {\"repetition_penalty\": 0}"},
      {at + "stop[1]", "has 0 bytes", texts + "\"generate\": {\"stop\": [\"a\", \"\"]}"},
      {"spec.prediction.examples", "give texts",
       "\"examples\": {\"values\": [{\"prompt\": \"p\"}]}, \"embed\": {}"},
      {"spec.prediction.examples.values", "0 examples", "\"examples\": {}, \"generate\": {}"},
      {"spec.prediction.examples.values[0].completion", "leave it empty",
       "\"examples\": {\"values\": [{\"prompt\": \"p\", \"completion\": \"c\"}]}, "
       "\"generate\": {}"},
      {"spec.prediction.examples.values[0].completion", "is empty",
       "\"examples\": {\"values\": [{\"prompt\": \"p\"}]}, \"score\": {}"},
      {"spec.prediction.examples.values[0].messages[0].role", "whose turn is asked for",
       "\"examples\": {\"values\": [{\"messages\": [{\"role\": \"assistant\"}]}]}, "
       "\"generate\": {}"},
      {"spec.prediction.examples.values[0].messages[0].role", "\"bot\" is not known",
       "\"examples\": {\"values\": [{\"messages\": [{\"role\": \"bot\"}]}]}, \"generate\": {}"},
      {"spec.prediction.score.text_column", "beside prompt_column",
       texts + "\"score\": {\"text_column\": \"text\", \"prompt_column\": \"p\"}"},
      {"spec.prediction.weights", "is no job", texts + "\"weights\": \"LAST\", \"generate\": {}"},
  };
  for (const auto& one : cases) ExpectRefused(Prediction("chat", one[2]), one[0], one[1]);
}

TEST(TaskSpecTest, AveragesModelsOfTheSameLabelsOnly) {
  SpecContext context = TaskContext();
  context.artifacts["result-2"] = ModelExample("result-2", v1::Artifact::RESULT, {"1", "0"});
  context.artifacts["result-3"] = ModelExample("result-3", v1::Artifact::RESULT, {"0", "1"});
  const auto with = [](const std::string& model, const std::string& other) {
    return Prediction(model,
                      "\"texts\": {\"values\": [\"t\"]}, \"classify\": {\"average_with\": "
                      "[\"" +
                          other + "\"]}");
  };
  const std::string field = "spec.prediction.classify.average_with[0]";
  Resolved(with("result-1", "result-3"), context);
  Resolved(with("result-1", "gpt2-labels"), context);
  ExpectRefused(with("result-1", "result-2"), field, "has other labels", context);
  ExpectRefused(with("result-1", "several"), field, "has other labels", context);
  ExpectRefused(with("result-1", "result-1"), field, "given twice", context);
  ExpectRefused(with("result-1", "result-9"), field, "does not exist", context);
  ExpectRefused(with("number", "result-1"), field, "answers with a number", context);
}

SpecContext JobContext(v1::Job::State state, const std::string& checkpoint,
                       const std::string& result) {
  SpecContext context = TaskContext();
  ModelJob& job = context.jobs["job-1"];
  job.state = state;
  job.resolved_spec = *ResolveSpec(TrainingExample(), ContextExample());
  job.checkpoint = checkpoint;
  job.result = result;
  return context;
}

TEST(TaskSpecTest, ATrainingStandsForItsNewestCheckpointOrItsResult) {
  const v1::JobSpec classify =
      Prediction("job-1", "\"texts\": {\"values\": [\"t\"]}, \"classify\": {}");
  const v1::JobSpec running = Resolved(classify, JobContext(v1::Job::RUNNING, "checkpoint-1", ""));
  EXPECT_EQ(running.prediction().model(), "job-1");
  EXPECT_EQ(running.prediction().checkpoint(), "checkpoint-1");
  EXPECT_EQ(running.prediction().weights(), v1::Prediction::BEST);

  v1::JobSpec last = classify;
  last.mutable_prediction()->set_weights(v1::Prediction::LAST);
  EXPECT_EQ(Resolved(last, JobContext(v1::Job::PAUSED, "checkpoint-1", "")).prediction().weights(),
            v1::Prediction::LAST);

  const v1::JobSpec ended = Resolved(last, JobContext(v1::Job::SUCCEEDED, "", "result-1"));
  EXPECT_EQ(ended.prediction().model(), "result-1");
  EXPECT_EQ(ended.prediction().checkpoint(), "");
  EXPECT_EQ(ended.prediction().weights(), v1::Prediction::WEIGHTS_UNSPECIFIED);
}

TEST(TaskSpecTest, RefusesJobsThatHaveNoModel) {
  const std::string field = "spec.prediction.model";
  const v1::JobSpec classify =
      Prediction("job-1", "\"texts\": {\"values\": [\"t\"]}, \"classify\": {}");
  ExpectRefused(classify, field, "\"job-1\" does not exist");
  ExpectRefused(classify, field,
                "\"job-1\" has no checkpoint yet; wait for the first one (it writes one every 200 "
                "steps), or pause the job",
                JobContext(v1::Job::RUNNING, "", ""));
  ExpectRefused(classify, field, "has ended CANCELLED and left no result",
                JobContext(v1::Job::CANCELLED, "", ""));
  SpecContext context = JobContext(v1::Job::RUNNING, "", "");
  context.jobs["job-1"].resolved_spec = PredictionExample();
  ExpectRefused(classify, field, "is a prediction", context);
  ExpectRefused(Prediction("job-1", "\"texts\": {\"values\": [\"t\"]}, \"generate\": {}"), field,
                "\"job-1\" is of type bert and classifies",
                JobContext(v1::Job::RUNNING, "checkpoint-1", ""));
}

}  // namespace
}  // namespace thaw
