#include <functional>

#include "common/base/status.h"
#include "common/spec/planned_training.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

void ExpectResolved(const v1::JobSpec& spec, const std::string& expected_json) {
  const auto resolved = ResolveSpec(spec, ContextExample());
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const v1::JobSpec expected = SpecFromJson(expected_json);
  google::protobuf::util::MessageDifferencer differencer;
  std::string difference;
  differencer.ReportDifferencesToString(&difference);
  EXPECT_TRUE(differencer.Compare(expected, *resolved)) << difference;
  const auto again = ResolveSpec(*resolved, ContextExample());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(CanonicalBytes(*again), CanonicalBytes(*resolved));
}

TEST(ResolveSpecTest, FillsEveryDefaultOfATraining) {
  ExpectResolved(TrainingExample(), R"({
    "base_model": "model-1",
    "training": {
      "dataset": "dataset-1", "validation_fraction": 0.1,
      "text_classification": {"text_column": "text", "label_column": "label"},
      "phases": [
        {"name": "phase 1", "selector": {"head_only": true}, "learning_rate": 0.001, "learning_rate_decay": 1,
         "schedule": {"shape": "CONSTANT"}, "epochs": 1, "optimizer_state": "KEEP"},
        {"name": "phase 2", "selector": {"last_blocks": 2}, "learning_rate": 0.0001, "learning_rate_decay": 1,
         "schedule": {"shape": "CONSTANT"}, "steps": 100, "optimizer_state": "KEEP"}],
      "optimizer": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01},
      "batch": {"examples_per_step": 8, "tokens_per_micro_step": 2048},
      "max_length": 256, "long_rows": "TRUNCATE", "seed": 42, "max_grad_norm": 1,
      "evaluation": {"metric": "ACCURACY", "every_epochs": 1, "keep_best": true},
      "checkpoint": {"every_steps": 200}, "output": "FULL", "base_weights": "AS_LOADED",
      "precision": "FP32", "recompute_activations": "AFTER_OUT_OF_MEMORY",
      "activation_cache": {"use": "AUTO", "max_bytes": "1073741824", "decisions": [
        "phase 1: no: 1 pass over the rows, and nothing is computed twice",
        "phase 2: kept: blocks 0 to 3 are frozen for 8.89 passes over the rows; at most 1024 MiB in memory, then a file"]}},
    "resources": {"device_count": 1},
    "retry_limits": {"crashes": 3, "out_of_memory": 1, "losses_in_a_row": 5}})");
}

TEST(ResolveSpecTest, FillsEveryDefaultOfAPrediction) {
  ExpectResolved(PredictionExample(), R"({
    "prediction": {"model": "result-1", "texts": {"values": ["good"]}, "max_length": 256,
                   "precision": "FP32", "classify": {"text_column": "text", "label_column": "label"}},
    "resources": {"device_count": 1},
    "retry_limits": {"crashes": 3, "out_of_memory": 1, "losses_in_a_row": 5}})");
}

TEST(ResolveSpecTest, KeepsWhatIsGivenEvenWhereItIsZero) {
  v1::JobSpec spec = TrainingExample();
  v1::Training* training = spec.mutable_training();
  training->set_seed(0);
  training->set_max_grad_norm(0);
  training->set_validation_fraction(0);
  training->mutable_optimizer()->set_weight_decay(0);
  training->mutable_evaluation()->set_keep_best(false);
  training->mutable_phases(1)->mutable_schedule()->set_shape(v1::Schedule::SLANTED_TRIANGULAR);
  spec.mutable_retry_limits()->set_crashes(0);
  const auto resolved = ResolveSpec(spec, ContextExample());
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->training().seed(), 0u);
  EXPECT_EQ(resolved->training().max_grad_norm(), 0);
  EXPECT_TRUE(resolved->training().has_validation_fraction());
  EXPECT_EQ(resolved->training().optimizer().weight_decay(), 0);
  EXPECT_FALSE(resolved->training().evaluation().keep_best());
  EXPECT_EQ(resolved->training().phases(1).schedule().cut_fraction(), 0.1);
  EXPECT_EQ(resolved->training().phases(1).schedule().ratio(), 32);
  EXPECT_EQ(resolved->retry_limits().crashes(), 0);
}

TEST(ResolveSpecTest, WhatIsLeftOutOfAPhaseFollowsTheRule) {
  v1::JobSpec spec = TrainingExample();
  spec.mutable_training()->mutable_phases(0)->clear_learning_rate();
  spec.mutable_training()->mutable_phases(1)->clear_until();
  v1::Schedule* schedule = spec.mutable_training()->mutable_phases(1)->mutable_schedule();
  schedule->set_shape(v1::Schedule::ONE_CYCLE);
  const auto resolved = ResolveSpec(spec, ContextExample());
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->training().phases(0).learning_rate(), 5e-3);
  EXPECT_EQ(resolved->training().phases(1).epochs(), 10);
  const v1::Schedule& filled = resolved->training().phases(1).schedule();
  EXPECT_EQ(filled.cut_fraction(), 0.25);
  EXPECT_EQ(filled.ratio(), 25);
  EXPECT_EQ(filled.final_ratio(), 1e5);
}

TEST(ResolveSpecTest, MaxLengthFollowsAShortModel) {
  SpecContext context = ContextExample();
  context.artifacts["model-1"].mutable_model()->set_max_positions(64);
  const auto resolved = ResolveSpec(TrainingExample(), context);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->training().max_length(), 64);
}

struct Refusal {
  std::string field;
  std::string says;
  std::function<void(v1::JobSpec*, SpecContext*)> change;
};

void ExpectRefused(const v1::JobSpec& example, const std::vector<Refusal>& refusals) {
  for (const Refusal& one : refusals) {
    v1::JobSpec spec = example;
    SpecContext context = ContextExample();
    one.change(&spec, &context);
    const auto resolved = ResolveSpec(spec, context);
    const auto violations = ViolationsOf(resolved.status());
    ASSERT_EQ(violations.size(), 1u) << one.field << " " << one.says << ": " << resolved.status();
    EXPECT_EQ(violations[0].field, one.field);
    EXPECT_THAT(violations[0].description, testing::HasSubstr(one.says));
  }
}

TEST(ResolveSpecTest, RefusesATrainingThatItsArtifactsDoNotCarry) {
  const std::string dataset = "spec.training.dataset";
  ExpectRefused(
      TrainingExample(),
      {{"spec.base_model", "does not exist", [](auto* s, auto*) { s->set_base_model("model-9"); }},
       {"spec.base_model", "is a DATASET", [](auto* s, auto*) { s->set_base_model("dataset-1"); }},
       {"spec.base_model", "type \"gpt5\"; known types: bert",
        [](auto*, auto* c) { c->artifacts["model-1"].mutable_model()->set_model_type("gpt5"); }},
       {dataset, "is a MODEL",
        [](auto* s, auto*) { s->mutable_training()->set_dataset("model-1"); }},
       {dataset, "read through",
        [](auto*, auto* c) { c->artifacts["dataset-1"].set_state(v1::Artifact::VALIDATING); }},
       {dataset, "3 bad lines",
        [](auto*, auto* c) {
          c->artifacts["dataset-1"].set_state(v1::Artifact::REJECTED);
          c->artifacts["dataset-1"].set_state_reason("3 bad lines");
        }},
       {dataset, "at least 2",
        [](auto* s, auto*) { s->mutable_training()->set_dataset("dataset-2"); }},
       {dataset, "7 of 100 rows",
        [](auto*, auto* c) {
          c->artifacts["dataset-1"].mutable_dataset()->set_unlabelled_rows(7);
        }},
       {"spec.training.text_classification.text_column", "column \"text\"",
        [](auto* s, auto*) {
          s->mutable_training()->mutable_text_classification()->set_text_column("body");
        }},
       {"spec.training.text_classification.label_column", "column \"label\"",
        [](auto* s, auto*) {
          s->mutable_training()->mutable_text_classification()->set_label_column("class");
        }},
       {"spec.training.validation_dataset", "\"2\"",
        [](auto* s, auto* c) {
          c->artifacts["dataset-3"] = DatasetExample("dataset-3", {"1", "2"});
          s->mutable_training()->set_validation_dataset("dataset-3");
        }},
       {"spec.training.validation_fraction", "keeps none back",
        [](auto* s, auto*) { s->mutable_training()->set_validation_fraction(0.005); }},
       {"spec.training.max_length", "512 positions",
        [](auto* s, auto*) { s->mutable_training()->set_max_length(513); }},
       {"spec.training.phases[1].selector.last_blocks", "7 blocks; the model has 6",
        [](auto* s, auto*) {
          s->mutable_training()->mutable_phases(1)->mutable_selector()->set_last_blocks(7);
        }},
       {"spec.training.phases[1].selector.and_not[0].last_blocks", "8 blocks; the model has 6",
        [](auto* s, auto*) {
          s->mutable_training()
              ->mutable_phases(1)
              ->mutable_selector()
              ->add_and_not()
              ->set_last_blocks(8);
        }},
       {"spec.training.phases[1].rate_overrides[0].selector.any_of.values[0].last_blocks",
        "9 blocks",
        [](auto* s, auto*) {
          v1::RateOverride* one = s->mutable_training()->mutable_phases(1)->add_rate_overrides();
          one->set_learning_rate(0.1);
          one->mutable_selector()->mutable_any_of()->add_values()->set_last_blocks(9);
        }},
       {"spec.training.phases[0].schedule.warmup_steps", "13 of at most 13", [](auto* s, auto*) {
          s->mutable_training()->mutable_phases(0)->mutable_schedule()->set_warmup_steps(13);
        }}});
}

TEST(ResolveSpecTest, CountsTheShorterLastStepOfEveryEpochBeforeItRefusesAWarmUp) {
  v1::JobSpec spec = TrainingExample();
  spec.mutable_training()->mutable_phases(0)->set_epochs(3);  // of 100 rows by 8: 13 steps each
  spec.mutable_training()->mutable_phases(0)->mutable_schedule()->set_warmup_steps(38);
  EXPECT_TRUE(ResolveSpec(spec, ContextExample()).ok());
  spec.mutable_training()->mutable_phases(0)->mutable_schedule()->set_warmup_steps(39);
  EXPECT_FALSE(ResolveSpec(spec, ContextExample()).ok());
}

TEST(ResolveSpecTest, RefusesAPredictionThatItsArtifactsDoNotCarry) {
  ExpectRefused(PredictionExample(),
                {{"spec.prediction.model", "no labels",
                  [](auto* s, auto*) { s->mutable_prediction()->set_model("model-1"); }},
                 {"spec.prediction.max_length", "512 positions",
                  [](auto* s, auto*) { s->mutable_prediction()->set_max_length(1000); }},
                 {"spec.prediction.dataset", "does not exist",
                  [](auto* s, auto*) { s->mutable_prediction()->set_dataset("dataset-9"); }},
                 {"spec.prediction.dataset", "\"spam\"", [](auto* s, auto* c) {
                    c->artifacts["dataset-3"] = DatasetExample("dataset-3", {"spam"});
                    s->mutable_prediction()->set_dataset("dataset-3");
                  }}});
}

TEST(ResolveSpecTest, UnlabelledRowsServeAPrediction) {
  SpecContext context = ContextExample();
  v1::DatasetSummary* summary = context.artifacts["dataset-1"].mutable_dataset();
  summary->clear_labels();
  summary->clear_label_column();
  summary->set_unlabelled_rows(100);
  v1::JobSpec spec = PredictionExample();
  spec.mutable_prediction()->set_dataset("dataset-1");
  EXPECT_TRUE(ResolveSpec(spec, context).ok()) << ResolveSpec(spec, context).status();
}

TEST(ResolveSpecTest, GathersProblemsOfSpecAndArtifacts) {
  v1::JobSpec spec = TrainingExample();
  spec.set_priority(500);
  spec.set_base_model("model-9");
  spec.mutable_training()->set_dataset("dataset-2");
  EXPECT_EQ(ViolationsOf(ResolveSpec(spec, ContextExample()).status()).size(), 3u);
}

TEST(ReferencesOfTest, ListsWhatIsNamed) {
  v1::JobSpec spec = TrainingExample();
  spec.mutable_training()->set_validation_dataset("dataset-2");
  std::vector<std::string> ids;
  for (const SpecReference& reference : ReferencesOf(spec)) ids.push_back(reference.id);
  EXPECT_THAT(ids, testing::ElementsAre("model-1", "dataset-1", "dataset-2"));
  EXPECT_EQ(ReferencesOf(PredictionExample()).size(), 1u);
}

TEST(ReferencesOfTest, APlanNamesWhatItsTrainingNames) {
  v1::JobSpec spec = TrainingExample();
  const std::vector<SpecReference> training = ReferencesOf(spec);
  const std::vector<SpecReference> plan = ReferencesOf(WithPlan(spec));
  ASSERT_EQ(plan.size(), training.size());
  EXPECT_EQ(plan[0].field, "spec.base_model");
  EXPECT_EQ(plan[1].field, "spec.plan.training.dataset");
  for (size_t i = 0; i < plan.size(); ++i) EXPECT_EQ(plan[i].id, training[i].id);
}

TEST(ResolveSpecTest, APlanIsResolvedAsItsTraining) {
  const auto training = ResolveSpec(TrainingExample(), ContextExample());
  const auto plan = ResolveSpec(WithPlan(TrainingExample()), ContextExample());
  ASSERT_TRUE(training.ok() && plan.ok()) << training.status() << plan.status();
  EXPECT_TRUE(plan->has_plan());
  EXPECT_EQ(CanonicalBytes(WithTraining(*plan)), CanonicalBytes(*training));
}

TEST(ResolveSpecTest, AWrongFieldOfAPlanIsNamedWithItsPath) {
  const auto refuse = [](const std::string& field,
                         const std::function<void(v1::JobSpec*)>& change) {
    v1::JobSpec spec = TrainingExample();
    change(&spec);
    spec = WithPlan(spec);
    const auto violations = ViolationsOf(ResolveSpec(spec, ContextExample()).status());
    ASSERT_EQ(violations.size(), 1u) << field;
    EXPECT_EQ(violations[0].field, field);
  };
  refuse("spec.base_model", [](auto* s) { s->clear_base_model(); });
  refuse("spec.plan.training.max_length",
         [](auto* s) { s->mutable_training()->set_max_length(513); });
  refuse("spec.plan.training.dataset", [](auto* s) { s->mutable_training()->set_dataset("none"); });
  refuse("spec.plan.training.phases[1].selector.last_blocks", [](auto* s) {
    s->mutable_training()->mutable_phases(1)->mutable_selector()->set_last_blocks(7);
  });
  v1::JobSpec spec = TrainingExample();
  spec.mutable_training()->set_max_grad_norm(-1);
  EXPECT_EQ(ViolationsOf(ValidateSpec(WithPlan(spec))).at(0).field,
            "spec.plan.training.max_grad_norm");
}

TEST(CanonicalBytesTest, DoNotDependOnTheOrderOfLabels) {
  v1::JobSpec a = TrainingExample(), b = TrainingExample();
  for (int i = 0; i < 30; ++i)
    (*a.mutable_labels())[std::string(1, static_cast<char>('a' + i % 26)) + std::to_string(i)] =
        "x";
  for (int i = 29; i >= 0; --i)
    (*b.mutable_labels())[std::string(1, static_cast<char>('a' + i % 26)) + std::to_string(i)] =
        "x";
  EXPECT_EQ(CanonicalBytes(a), CanonicalBytes(b));
  b.set_priority(1);
  EXPECT_NE(CanonicalBytes(a), CanonicalBytes(b));
}

}  // namespace
}  // namespace thaw
