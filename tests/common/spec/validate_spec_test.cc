#include <functional>
#include <limits>

#include "common/base/status.h"
#include "gmock/gmock.h"
#include "tests/common/spec/spec_examples.h"

namespace thaw {
namespace {

using Change = std::function<void(v1::JobSpec*)>;

struct Case {
  std::string field;
  std::string says;  // part of the description
  Change change;
};

void ExpectRefused(const v1::JobSpec& example, const std::vector<Case>& cases) {
  ASSERT_TRUE(ValidateSpec(example).ok()) << ValidateSpec(example);
  for (const Case& one : cases) {
    v1::JobSpec spec = example;
    one.change(&spec);
    const auto violations = ViolationsOf(ValidateSpec(spec));
    ASSERT_EQ(violations.size(), 1u) << one.field << ": " << ValidateSpec(spec);
    EXPECT_EQ(violations[0].field, one.field);
    EXPECT_THAT(violations[0].description, testing::HasSubstr(one.says)) << one.field;
  }
}

const double kNan = std::numeric_limits<double>::quiet_NaN();
const double kInfinity = std::numeric_limits<double>::infinity();

v1::Phase* FirstPhase(v1::JobSpec* s) { return s->mutable_training()->mutable_phases(0); }
v1::Phase* SecondPhase(v1::JobSpec* s) { return s->mutable_training()->mutable_phases(1); }

// Appends an entry to the training's replay.
v1::Steering* Replay(v1::JobSpec* s, int64_t step) {
  v1::SteeredStep* entry = s->mutable_training()->add_replay();
  entry->set_step(step);
  return entry->mutable_action();
}

TEST(ValidateSpecTest, RefusesAReplayThatNobodyCanHaveDone) {
  v1::JobSpec example = TrainingExample();
  Replay(&example, 4)->set_next_phase(true);
  Replay(&example, 4)->set_extend_epochs(0.5);
  ExpectRefused(example,
                {{"spec.training.replay[2].step", "3 is below 4",
                  [](auto* s) { Replay(s, 3)->set_stop(true); }},
                 {"spec.training.replay[0].step", "0 is below 1",
                  [](auto* s) { s->mutable_training()->mutable_replay(0)->set_step(0); }},
                 {"spec.training.replay[2].action", "nothing to do", [](auto* s) { Replay(s, 5); }},
                 {"spec.training.replay[2].action.stop", "false",
                  [](auto* s) { Replay(s, 5)->set_stop(false); }},
                 {"spec.training.replay[2].action.next_phase", "false",
                  [](auto* s) { Replay(s, 5)->set_next_phase(false); }},
                 {"spec.training.replay[2].action.checkpoint", "false",
                  [](auto* s) { Replay(s, 5)->set_checkpoint(false); }},
                 {"spec.training.replay[2].action.scale_rate", "0.0001",
                  [](auto* s) { Replay(s, 5)->set_scale_rate(0.0001); }},
                 {"spec.training.replay[2].action.scale_rate", "nan",
                  [](auto* s) { Replay(s, 5)->set_scale_rate(kNan); }},
                 {"spec.training.replay[2].action.extend_epochs", "0",
                  [](auto* s) { Replay(s, 5)->set_extend_epochs(0); }},
                 {"spec.training.replay[2].action.extend_steps", "10000001",
                  [](auto* s) { Replay(s, 5)->set_extend_steps(10'000'001); }},
                 {"spec.training.replay", "10001 entries", [](auto* s) {
                    while (s->training().replay_size() < 10'001) Replay(s, 5)->set_checkpoint(true);
                  }}});
}

TEST(ValidateSpecTest, AnActionIsNamedByItsField) {
  v1::Steering action;
  EXPECT_EQ(ViolationsOf(ValidateSteering(action))[0].field, "action");
  action.set_scale_rate(1001);
  EXPECT_EQ(ViolationsOf(ValidateSteering(action))[0].field, "action.scale_rate");
  action.set_scale_rate(1000);
  EXPECT_TRUE(ValidateSteering(action).ok());
}

TEST(ValidateSpecTest, RefusesWhatIsWrongInAnySpec) {
  ExpectRefused(
      TrainingExample(),
      {{"spec.base_model", "empty", [](auto* s) { s->clear_base_model(); }},
       {"spec.priority", "101", [](auto* s) { s->set_priority(101); }},
       {"spec.resources.device_count", "65",
        [](auto* s) { s->mutable_resources()->set_device_count(65); }},
       {"spec.resources.device_count", "give 1",
        [](auto* s) {
          s->mutable_resources()->set_device_count(2);
          s->mutable_resources()->set_device_kind(v1::Resources::CPU);
        }},
       {"spec.resources.device_kind", "9 is not known",
        [](auto* s) {
          s->mutable_resources()->set_device_kind(static_cast<v1::Resources::DeviceKind>(9));
        }},
       {"spec.resources.min_memory_bytes", "-1",
        [](auto* s) { s->mutable_resources()->set_min_memory_bytes(-1); }},
       {"spec.retry_limits.crashes", "11",
        [](auto* s) { s->mutable_retry_limits()->set_crashes(11); }},
       {"spec.retry_limits.out_of_memory", "5",
        [](auto* s) { s->mutable_retry_limits()->set_out_of_memory(5); }},
       {"spec.retry_limits.losses_in_a_row", "-1",
        [](auto* s) { s->mutable_retry_limits()->set_losses_in_a_row(-1); }},
       {"spec.labels", "Team", [](auto* s) { (*s->mutable_labels())["Team"] = "a"; }},
       {"spec.labels[team]", "64 characters",
        [](auto* s) { (*s->mutable_labels())["team"] = std::string(64, 'x'); }},
       {"spec.max_runtime", "0 s", [](auto* s) { s->mutable_max_runtime()->set_nanos(5); }},
       {"spec.max_runtime", "30 days",
        [](auto* s) { s->mutable_max_runtime()->set_seconds(30 * 24 * 3600 + 1); }},
       {"spec.display_name", "121 characters",
        [](auto* s) { s->set_display_name(std::string(121, 'n')); }},
       {"spec.display_name", "control character",
        [](auto* s) { s->set_display_name("a\x1b[2J"); }}});
  EXPECT_EQ(ViolationsOf(ValidateSpec(v1::JobSpec())).at(0).field, "spec.work");
}

TEST(ValidateSpecTest, RefusesWhatIsWrongInATraining) {
  ExpectRefused(
      TrainingExample(),
      {{"spec.training.dataset", "empty", [](auto* s) { s->mutable_training()->clear_dataset(); }},
       {"spec.training.validation_fraction", "0.6",
        [](auto* s) { s->mutable_training()->set_validation_fraction(0.6); }},
       {"spec.training.validation_fraction", "nan",
        [](auto* s) { s->mutable_training()->set_validation_fraction(kNan); }},
       {"spec.training.validation_dataset", "training dataset too",
        [](auto* s) { s->mutable_training()->set_validation_dataset("dataset-1"); }},
       {"spec.training.task", "text_classification",
        [](auto* s) { s->mutable_training()->clear_task(); }},
       {"spec.training.phases", "0 phases", [](auto* s) { s->mutable_training()->clear_phases(); }},
       {"spec.training.phases", "65 phases",
        [](auto* s) {
          const v1::Phase phase = s->training().phases(0);
          while (s->training().phases_size() < 65) *s->mutable_training()->add_phases() = phase;
        }},
       {"spec.training.optimizer.beta1", "below 1",
        [](auto* s) { s->mutable_training()->mutable_optimizer()->set_beta1(1); }},
       {"spec.training.optimizer.beta2", "-0.1",
        [](auto* s) { s->mutable_training()->mutable_optimizer()->set_beta2(-0.1); }},
       {"spec.training.optimizer.epsilon", "above 0",
        [](auto* s) { s->mutable_training()->mutable_optimizer()->set_epsilon(0); }},
       {"spec.training.optimizer.weight_decay", "2",
        [](auto* s) { s->mutable_training()->mutable_optimizer()->set_weight_decay(2); }},
       {"spec.training.batch.examples_per_step", "65537",
        [](auto* s) { s->mutable_training()->mutable_batch()->set_examples_per_step(65537); }},
       {"spec.training.batch.tokens_per_micro_step", "127",
        [](auto* s) { s->mutable_training()->mutable_batch()->set_tokens_per_micro_step(127); }},
       {"spec.training.max_length", "1", [](auto* s) { s->mutable_training()->set_max_length(1); }},
       {"spec.training.max_grad_norm", "inf",
        [](auto* s) { s->mutable_training()->set_max_grad_norm(kInfinity); }},
       {"spec.training.evaluation.metric",
        "99 is no metric of this task; give ACCURACY, MACRO_F1, LOSS or MATTHEWS_CORRELATION",
        [](auto* s) {
          s->mutable_training()->mutable_evaluation()->set_metric(
              static_cast<v1::Evaluation::Metric>(99));
        }},
       {"spec.training.evaluation.every_epochs", "above 0",
        [](auto* s) { s->mutable_training()->mutable_evaluation()->set_every_epochs(0); }},
       {"spec.training.evaluation.patience", "negative",
        [](auto* s) { s->mutable_training()->mutable_evaluation()->set_patience(-1); }},
       {"spec.training.evaluation.patience", "keep some rows back",
        [](auto* s) {
          s->mutable_training()->set_validation_fraction(0);
          s->mutable_training()->mutable_evaluation()->set_patience(1);
        }},
       {"spec.training.evaluation.every_steps", "-1",
        [](auto* s) { s->mutable_training()->mutable_evaluation()->set_every_steps(-1); }},
       {"spec.training.evaluation.every_steps", "beside every_epochs",
        [](auto* s) {
          s->mutable_training()->mutable_evaluation()->set_every_steps(5);
          s->mutable_training()->mutable_evaluation()->set_every_epochs(1);
        }},
       {"spec.training.evaluation.also[0]", "EXACT_MATCH is no metric of this task",
        [](auto* s) {
          s->mutable_training()->mutable_evaluation()->add_also(v1::Evaluation::EXACT_MATCH);
        }},
       {"spec.training.evaluation.max_new_tokens", "neither EXACT_MATCH nor DIGIT_MATCH",
        [](auto* s) { s->mutable_training()->mutable_evaluation()->set_max_new_tokens(5); }},
       {"spec.training.evaluation.generated_rows", "neither EXACT_MATCH nor DIGIT_MATCH",
        [](auto* s) { s->mutable_training()->mutable_evaluation()->set_generated_rows(5); }},
       {"spec.training.evaluation.also", "needs evaluations",
        [](auto* s) {
          s->mutable_training()->set_validation_fraction(0);
          s->mutable_training()->mutable_evaluation()->add_also(v1::Evaluation::ACCURACY);
        }},
       {"spec.training.long_rows", "9 is not known",
        [](auto* s) {
          s->mutable_training()->set_long_rows(static_cast<v1::Training::LongRows>(9));
        }},
       {"spec.training.recompute_activations", "9 is not known; give AFTER_OUT_OF_MEMORY",
        [](auto* s) {
          s->mutable_training()->set_recompute_activations(static_cast<v1::Training::Recompute>(9));
        }},
       {"spec.training.long_rows", "SPLIT is for single texts",
        [](auto* s) {
          s->mutable_training()->set_long_rows(v1::Training::SPLIT);
          s->mutable_training()->mutable_text_classification()->set_text_pair_column("b");
        }},
       {"spec.training.long_rows", "would part completions from their prompts",
        [](auto* s) {
          s->mutable_training()->set_long_rows(v1::Training::SPLIT);
          s->mutable_training()->mutable_completion();
        }},
       {"spec.training.long_rows", "DROP is given for joined texts",
        [](auto* s) {
          s->mutable_training()->set_long_rows(v1::Training::DROP);
          s->mutable_training()->mutable_language_modeling();
        }},
       {"spec.training.stratified_validation", "needs one label a text",
        [](auto* s) {
          s->mutable_training()->set_stratified_validation(true);
          s->mutable_training()->mutable_regression();
        }},
       {"spec.training.stratified_validation", "give validation_fraction",
        [](auto* s) {
          s->mutable_training()->set_stratified_validation(true);
          s->mutable_training()->set_validation_dataset("dataset-2");
        }},
       {"spec.training.text_classification.balanced_classes", "multi_label is set",
        [](auto* s) {
          s->mutable_training()->mutable_text_classification()->set_multi_label(true);
          s->mutable_training()->mutable_text_classification()->set_balanced_classes(true);
        }},
       {"spec.training.text_classification.class_weights", "beside balanced_classes",
        [](auto* s) {
          auto* task = s->mutable_training()->mutable_text_classification();
          task->set_balanced_classes(true);
          (*task->mutable_class_weights())["0"] = 2;
        }},
       {"spec.training.text_classification.class_weights[0]", "0",
        [](auto* s) {
          auto* task = s->mutable_training()->mutable_text_classification();
          (*task->mutable_class_weights())["0"] = 0;
        }},
       {"spec.training.checkpoint.every_steps", "1000001",
        [](auto* s) { s->mutable_training()->mutable_checkpoint()->set_every_steps(1'000'001); }}});
}

TEST(ValidateSpecTest, RefusesWhatIsWrongInAPhase) {
  const std::string first = "spec.training.phases[0].", second = "spec.training.phases[1].";
  ExpectRefused(
      TrainingExample(),
      {{first + "learning_rate", "-1 is out of range",
        [](auto* s) { FirstPhase(s)->set_learning_rate(-1); }},
       {first + "learning_rate", "nan", [](auto* s) { FirstPhase(s)->set_learning_rate(kNan); }},
       {first + "learning_rate", "at most 1",
        [](auto* s) { FirstPhase(s)->set_learning_rate(1.5); }},
       {first + "learning_rate_decay", "0.5",
        [](auto* s) { FirstPhase(s)->set_learning_rate_decay(0.5); }},
       {first + "epochs", "inf", [](auto* s) { FirstPhase(s)->set_epochs(kInfinity); }},
       {second + "steps", "0 is out", [](auto* s) { SecondPhase(s)->set_steps(0); }},
       {second + "plateau.max_epochs", "above 0",
        [](auto* s) { SecondPhase(s)->mutable_plateau()->set_patience(1); }},
       {second + "plateau.patience", "101",
        [](auto* s) {
          SecondPhase(s)->mutable_plateau()->set_patience(101);
          SecondPhase(s)->mutable_plateau()->set_max_epochs(3);
        }},
       {second + "plateau", "keep some rows back",
        [](auto* s) {
          s->mutable_training()->set_validation_fraction(0);
          SecondPhase(s)->mutable_plateau()->set_max_epochs(3);
        }},
       {second + "schedule.shape", "a plateau does not",
        [](auto* s) {
          SecondPhase(s)->mutable_plateau()->set_max_epochs(3);
          SecondPhase(s)->mutable_schedule()->set_shape(v1::Schedule::SLANTED_TRIANGULAR);
        }},
       {second + "schedule.shape", "6 is not known",
        [](auto* s) {
          SecondPhase(s)->mutable_schedule()->set_shape(static_cast<v1::Schedule::Shape>(6));
        }},
       {second + "schedule.warmup_steps", "100 of 100",
        [](auto* s) { SecondPhase(s)->mutable_schedule()->set_warmup_steps(100); }},
       {second + "schedule.warmup_steps", "negative",
        [](auto* s) { SecondPhase(s)->mutable_schedule()->set_warmup_steps(-1); }},
       {second + "schedule.warmup_steps", "cut_fraction",
        [](auto* s) {
          SecondPhase(s)->mutable_schedule()->set_shape(v1::Schedule::SLANTED_TRIANGULAR);
          SecondPhase(s)->mutable_schedule()->set_warmup_steps(1);
        }},
       {second + "schedule.cut_fraction", "alone",
        [](auto* s) { SecondPhase(s)->mutable_schedule()->set_cut_fraction(0.1); }},
       {second + "schedule.cut_fraction", "below 1",
        [](auto* s) {
          SecondPhase(s)->mutable_schedule()->set_shape(v1::Schedule::SLANTED_TRIANGULAR);
          SecondPhase(s)->mutable_schedule()->set_cut_fraction(1);
        }},
       {second + "schedule.ratio", "above 1",
        [](auto* s) {
          SecondPhase(s)->mutable_schedule()->set_shape(v1::Schedule::SLANTED_TRIANGULAR);
          SecondPhase(s)->mutable_schedule()->set_ratio(1);
        }},
       {first + "restore_best", "first phase",
        [](auto* s) { FirstPhase(s)->set_restore_best(true); }},
       {second + "restore_best", "keep some rows back",
        [](auto* s) {
          s->mutable_training()->set_validation_fraction(0);
          SecondPhase(s)->set_restore_best(true);
        }},
       {second + "optimizer_state", "5 is not known",
        [](auto* s) { SecondPhase(s)->set_optimizer_state(static_cast<v1::OptimizerState>(5)); }},
       {first + "selector", "chooses nothing", [](auto* s) { FirstPhase(s)->clear_selector(); }},
       {first + "selector.head_only", "false",
        [](auto* s) { FirstPhase(s)->mutable_selector()->set_head_only(false); }},
       {first + "selector.everything", "false",
        [](auto* s) { FirstPhase(s)->mutable_selector()->set_everything(false); }},
       {second + "selector.last_blocks", "negative",
        [](auto* s) { SecondPhase(s)->mutable_selector()->set_last_blocks(-2); }},
       {second + "selector.name_pattern", "not an RE2 expression: missing )",
        [](auto* s) { SecondPhase(s)->mutable_selector()->set_name_pattern("(bias"); }},
       {second + "selector.exclude_patterns[1]", "no argument for repetition",
        [](auto* s) {
          SecondPhase(s)->mutable_selector()->add_exclude_patterns(".*bias");
          SecondPhase(s)->mutable_selector()->add_exclude_patterns("*");
        }},
       {second + "selector.exclude_patterns", "33", [](auto* s) {
          for (int i = 0; i < 33; ++i) {
            SecondPhase(s)->mutable_selector()->add_exclude_patterns("x");
          }
        }}});
}

TEST(ValidateSpecTest, RefusesWhatIsWrongInASelector) {
  const std::string at = "spec.training.phases[1].selector";
  const auto selector = [](auto* s) { return SecondPhase(s)->mutable_selector(); };
  const auto nest = [](v1::Selector* outer, int levels) {
    for (int i = 0; i < levels; ++i) {
      outer = outer->add_and_not();
      outer->set_head_only(true);
    }
  };
  ExpectRefused(
      TrainingExample(),
      {{at + ".kind", "0 is not known",
        [&](auto* s) { selector(s)->set_kind(v1::Selector::KIND_UNSPECIFIED); }},
       {at + ".kind", "9 is not known",
        [&](auto* s) { selector(s)->set_kind(static_cast<v1::Selector::Kind>(9)); }},
       {at + ".any_of.values", "is empty", [&](auto* s) { selector(s)->mutable_any_of(); }},
       {at + ".any_of.values[1]", "chooses nothing",
        [&](auto* s) {
          selector(s)->mutable_any_of()->add_values()->set_head_only(true);
          selector(s)->mutable_any_of()->add_values();
        }},
       {at + ".any_of.values", "33 selectors",
        [&](auto* s) {
          while (selector(s)->any_of().values_size() < 33) {
            selector(s)->mutable_any_of()->add_values()->set_head_only(true);
          }
        }},
       {at + ".and_not", "33 selectors",
        [&](auto* s) {
          while (selector(s)->and_not_size() < 33) selector(s)->add_and_not()->set_head_only(true);
        }},
       {at + ".and_not[0].name_pattern", "not an RE2 expression",
        [&](auto* s) { selector(s)->add_and_not()->set_name_pattern("("); }},
       {at + ".and_not[0].and_not[0].and_not[0].and_not[0]", "5 deep; nest at most 4",
        [&](auto* s) { nest(selector(s), 4); }}});
  v1::JobSpec deep = TrainingExample();
  nest(selector(&deep), 3);
  EXPECT_TRUE(ValidateSpec(deep).ok()) << ValidateSpec(deep);
}

TEST(ValidateSpecTest, RefusesWhatIsWrongInRatesAndEnds) {
  const std::string second = "spec.training.phases[1].";
  const auto schedule = [](auto* s) { return SecondPhase(s)->mutable_schedule(); };
  ExpectRefused(
      TrainingExample(),
      {{second + "rate_overrides[0].learning_rate", "0 is out of range",
        [](auto* s) {
          SecondPhase(s)->add_rate_overrides()->mutable_selector()->set_head_only(true);
        }},
       {second + "rate_overrides[0].selector", "chooses nothing",
        [](auto* s) { SecondPhase(s)->add_rate_overrides()->set_learning_rate(0.1); }},
       {second + "rate_overrides", "33",
        [](auto* s) {
          while (SecondPhase(s)->rate_overrides_size() < 33) {
            v1::RateOverride* one = SecondPhase(s)->add_rate_overrides();
            one->set_learning_rate(0.1);
            one->mutable_selector()->set_head_only(true);
          }
        }},
       {second + "optimizer.beta2", "below 1",
        [](auto* s) { SecondPhase(s)->mutable_optimizer()->set_beta2(1); }},
       {second + "loss_units", "0 is out", [](auto* s) { SecondPhase(s)->set_loss_units(0); }},
       {second + "wall_time", "1 s to 30 days",
        [](auto* s) { SecondPhase(s)->mutable_wall_time()->set_nanos(7); }},
       {second + "schedule.shape", "a wall_time does not",
        [&](auto* s) {
          SecondPhase(s)->mutable_wall_time()->set_seconds(60);
          schedule(s)->set_shape(v1::Schedule::ONE_CYCLE);
        }},
       {second + "schedule.warmup_fraction", "a wall_time does not know",
        [&](auto* s) {
          SecondPhase(s)->mutable_wall_time()->set_seconds(60);
          schedule(s)->set_warmup_fraction(0.1);
        }},
       {second + "schedule.warmup_fraction", "below 1",
        [&](auto* s) { schedule(s)->set_warmup_fraction(1); }},
       {second + "schedule.warmup_fraction", "beside warmup_steps",
        [&](auto* s) {
          schedule(s)->set_warmup_fraction(0.1);
          schedule(s)->set_warmup_steps(5);
        }},
       {second + "schedule.warmup_fraction", "by itself",
        [&](auto* s) {
          schedule(s)->set_shape(v1::Schedule::ONE_CYCLE);
          schedule(s)->set_warmup_fraction(0.1);
        }},
       {second + "schedule.final_ratio", "belongs to ONE_CYCLE alone",
        [&](auto* s) {
          schedule(s)->set_shape(v1::Schedule::SLANTED_TRIANGULAR);
          schedule(s)->set_final_ratio(7);
        }},
       {second + "schedule.final_ratio", "above 1",
        [&](auto* s) {
          schedule(s)->set_shape(v1::Schedule::ONE_CYCLE);
          schedule(s)->set_final_ratio(1);
        }},
       {second + "plateau.metric", "PERPLEXITY is no metric of this task; give ACCURACY",
        [](auto* s) {
          SecondPhase(s)->mutable_plateau()->set_max_epochs(3);
          SecondPhase(s)->mutable_plateau()->set_metric(v1::Evaluation::PERPLEXITY);
        }},
       {second + "schedule", "beside the training's schedule",
        [&](auto* s) {
          s->mutable_training()->mutable_schedule();
          schedule(s)->set_warmup_steps(1);
        }},
       {"spec.training.schedule", "phase \"phase 2\" ends by plateau",
        [](auto* s) {
          s->mutable_training()->mutable_schedule()->set_shape(v1::Schedule::LINEAR);
          SecondPhase(s)->mutable_plateau()->set_max_epochs(3);
        }},
       {"spec.training.schedule.warmup_steps", "150 of 150", [](auto* s) {
          s->mutable_training()->mutable_schedule()->set_warmup_steps(150);
          FirstPhase(s)->set_steps(50);
        }}});
}

TEST(ValidateSpecTest, RefusesPhasesThatCannotBeToldApart) {
  const std::string second = "spec.training.phases[1]";
  ExpectRefused(
      TrainingExample(),
      {{second + ".name", "\"top\" is the name of spec.training.phases[0] too",
        [](auto* s) {
          FirstPhase(s)->set_name("top");
          SecondPhase(s)->set_name("top");
        }},
       {second + ".name", "\"phase 2\"", [](auto* s) { FirstPhase(s)->set_name("phase 2"); }},
       {second, "\"again\" is in everything the same as \"phase 1\"", [](auto* s) {
          *SecondPhase(s) = *FirstPhase(s);
          SecondPhase(s)->set_name("again");
        }}});
}

TEST(ValidateSpecTest, RefusesWhatIsWrongInAPrediction) {
  ExpectRefused(
      PredictionExample(),
      {{"spec.base_model", "leave it empty", [](auto* s) { s->set_base_model("model-1"); }},
       {"spec.prediction.model", "empty", [](auto* s) { s->mutable_prediction()->clear_model(); }},
       {"spec.prediction.input", "dataset, texts or examples",
        [](auto* s) { s->mutable_prediction()->clear_input(); }},
       {"spec.prediction.dataset", "empty",
        [](auto* s) { s->mutable_prediction()->set_dataset(""); }},
       {"spec.prediction.texts.values", "0 texts",
        [](auto* s) { s->mutable_prediction()->mutable_texts()->clear_values(); }},
       {"spec.prediction.texts.values", "1 MiB",
        [](auto* s) {
          s->mutable_prediction()->mutable_texts()->add_values(std::string(1 << 20, 'x'));
        }},
       {"spec.prediction.task", "classify", [](auto* s) { s->mutable_prediction()->clear_task(); }},
       {"spec.prediction.max_length", "-1",
        [](auto* s) { s->mutable_prediction()->set_max_length(-1); }}});
}

TEST(ValidateSpecTest, NamesEveryViolationAtOnce) {
  v1::JobSpec spec = TrainingExample();
  spec.set_priority(-101);
  FirstPhase(&spec)->set_learning_rate(7);
  SecondPhase(&spec)->set_steps(-1);
  EXPECT_EQ(ViolationsOf(ValidateSpec(spec)).size(), 3u);
}

}  // namespace
}  // namespace thaw
