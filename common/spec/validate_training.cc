#include <initializer_list>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/spec/model_abilities.h"
#include "common/spec/spec_problems.h"
#include "re2/re2.h"

namespace thaw {
namespace {

constexpr int kMaxPatternBytes = 1024;

// A column as a task names it.
struct ColumnName {
  const char* field;
  const std::string& given;
  const char* otherwise;  // the default; empty: no such column

  absl::string_view name() const { return given.empty() ? absl::string_view(otherwise) : given; }
};

void ValidatePattern(absl::string_view field, const std::string& pattern, SpecProblems* problems) {
  if (pattern.empty()) {
    problems->Add(field, "is empty and would match nothing; give an RE2 expression");
    return;
  }
  if (pattern.size() > kMaxPatternBytes) {
    problems->Add(field,
                  absl::StrCat("has ", pattern.size(), " bytes; give at most ", kMaxPatternBytes));
    return;
  }
  RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(1 << 20);
  const RE2 compiled(pattern, options);
  if (!compiled.ok()) {
    problems->Add(field,
                  absl::StrCat("\"", pattern, "\" is not an RE2 expression: ", compiled.error()));
  }
}

void ValidateSelector(absl::string_view field, const v1::Selector& selector,
                      SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  switch (selector.include_case()) {
    case v1::Selector::kHeadOnly:
      if (!selector.head_only())
        problems->Add(at("head_only"), "is false; set it true or leave it");
      break;
    case v1::Selector::kLastBlocks:
      if (selector.last_blocks() < 0) {
        problems->Add(at("last_blocks"),
                      absl::StrCat(selector.last_blocks(), " is negative; give 0 or more blocks"));
      }
      break;
    case v1::Selector::kEverything:
      if (!selector.everything()) {
        problems->Add(at("everything"), "is false; set it true or leave it");
      }
      break;
    case v1::Selector::kNamePattern:
      ValidatePattern(at("name_pattern"), selector.name_pattern(), problems);
      break;
    case v1::Selector::kKind:
    case v1::Selector::kAnyOf:
      problems->Add(field, "kind and any_of are not supported yet; give another selector");
      break;
    case v1::Selector::INCLUDE_NOT_SET:
      problems->Add(field,
                    "chooses nothing; give head_only, last_blocks, everything or name_pattern");
      break;
  }
  if (selector.exclude_patterns_size() > 32) {
    problems->Add(at("exclude_patterns"),
                  absl::StrCat(selector.exclude_patterns_size(), " expressions; give at most 32"));
  }
  for (int i = 0; i < selector.exclude_patterns_size() && i < 32; ++i) {
    ValidatePattern(absl::StrCat(at("exclude_patterns"), "[", i, "]"), selector.exclude_patterns(i),
                    problems);
  }
}

void ValidateSchedule(absl::string_view field, const v1::Phase& phase, SpecProblems* problems) {
  const v1::Schedule& schedule = phase.schedule();
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (!v1::Schedule::Shape_IsValid(schedule.shape())) {
    problems->Add(
        at("shape"),
        absl::StrCat(static_cast<int>(schedule.shape()),
                     " is not known; give CONSTANT, LINEAR, COSINE or SLANTED_TRIANGULAR"));
    return;
  }
  const bool slanted = schedule.shape() == v1::Schedule::SLANTED_TRIANGULAR;
  const bool constant = schedule.shape() == v1::Schedule::CONSTANT ||
                        schedule.shape() == v1::Schedule::SHAPE_UNSPECIFIED;
  if (phase.until_case() == v1::Phase::kPlateau && !constant) {
    problems->Add(at("shape"),
                  absl::StrCat(v1::Schedule::Shape_Name(schedule.shape()),
                               " needs to know where the phase ends, a plateau does not; "
                               "give CONSTANT, or end the phase by steps or epochs"));
  }
  if (schedule.warmup_steps() < 0) {
    problems->Add(at("warmup_steps"),
                  absl::StrCat(schedule.warmup_steps(), " is negative; give 0 or more steps"));
  } else if (slanted && schedule.warmup_steps() > 0) {
    problems->Add(at("warmup_steps"), absl::StrCat(schedule.warmup_steps(),
                                                   " is given with SLANTED_TRIANGULAR, which "
                                                   "warms up by itself; set cut_fraction"));
  } else if (phase.until_case() == v1::Phase::kSteps && phase.steps() > 0 &&
             schedule.warmup_steps() >= phase.steps()) {
    problems->Add(at("warmup_steps"), absl::StrCat(schedule.warmup_steps(), " of ", phase.steps(),
                                                   " steps; give fewer than the phase has"));
  }
  for (const auto& [given, name] : {std::pair(schedule.has_cut_fraction(), "cut_fraction"),
                                    std::pair(schedule.has_ratio(), "ratio")}) {
    if (given && !slanted) {
      problems->Add(at(name),
                    "belongs to SLANTED_TRIANGULAR alone; leave it out or set that shape");
    }
  }
  if (slanted && schedule.has_cut_fraction()) {
    problems->ExpectWithin(at("cut_fraction"), schedule.cut_fraction(), {0, 1, true, true});
  }
  if (slanted && schedule.has_ratio()) {
    problems->ExpectWithin(at("ratio"), schedule.ratio(), {1, 1e9, true});
  }
}

void ValidatePlateau(absl::string_view field, const v1::Plateau& plateau, bool evaluates,
                     SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (!evaluates) {
    problems->Add(field, "needs evaluations, and validation_fraction is 0; keep some rows back");
  }
  if (plateau.patience() != 0) {
    problems->ExpectWithin(at("patience"), int64_t{plateau.patience()}, 1, 100);
  }
  problems->ExpectWithin(at("min_delta"), plateau.min_delta(), {0, 1e9});
  problems->ExpectWithin(at("max_epochs"), plateau.max_epochs(), {0, 1000, true});
}

void ValidatePhase(absl::string_view field, const v1::Phase& phase, bool first, bool evaluates,
                   SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  problems->ExpectName(at("name"), phase.name(), 120);
  ValidateSelector(at("selector"), phase.selector(), problems);
  problems->ExpectWithin(at("learning_rate"), phase.learning_rate(), {0, 1, true});
  if (phase.has_learning_rate_decay()) {
    problems->ExpectWithin(at("learning_rate_decay"), phase.learning_rate_decay(), {1, 100});
  }
  ValidateSchedule(at("schedule"), phase, problems);
  switch (phase.until_case()) {
    case v1::Phase::kSteps:
      problems->ExpectWithin(at("steps"), phase.steps(), 1, 10'000'000);
      break;
    case v1::Phase::kEpochs:
      problems->ExpectWithin(at("epochs"), phase.epochs(), {0, 1000, true});
      break;
    case v1::Phase::kPlateau:
      ValidatePlateau(at("plateau"), phase.plateau(), evaluates, problems);
      break;
    case v1::Phase::kLossUnits:
    case v1::Phase::kWallTime:
      problems->Add(at("until"),
                    "loss_units and wall_time are not supported yet; give steps or epochs");
      break;
    case v1::Phase::UNTIL_NOT_SET:
      problems->Add(at("until"),
                    "is not set, so the phase would never end; give steps, epochs or "
                    "plateau");
      break;
  }
  if (phase.restore_best() && first) {
    problems->Add(at("restore_best"),
                  "is true in the first phase, which has no weights before it; "
                  "leave it out");
  } else if (phase.restore_best() && !evaluates) {
    problems->Add(at("restore_best"),
                  "needs evaluations, and validation_fraction is 0; keep some rows back");
  }
  if (!v1::OptimizerState_IsValid(phase.optimizer_state())) {
    problems->Add(at("optimizer_state"), absl::StrCat(static_cast<int>(phase.optimizer_state()),
                                                      " is not known; give KEEP or RESET"));
  }
}

// Names of columns must be printable and different.
void ValidateColumns(absl::string_view field, std::initializer_list<ColumnName> columns,
                     SpecProblems* problems) {
  for (const ColumnName& column : columns) {
    problems->ExpectName(absl::StrCat(field, ".", column.field), column.given, 120);
    for (const ColumnName& other : columns) {
      if (&other == &column) break;
      if (!column.name().empty() && column.name() == other.name()) {
        problems->Add(absl::StrCat(field, ".", column.field),
                      absl::StrCat("\"", column.name(), "\" is the ", other.field,
                                   " too; give another column"));
      }
    }
  }
}

void ValidateTask(absl::string_view field, const v1::Training& training, SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  switch (training.task_case()) {
    case v1::Training::kTextClassification: {
      const v1::TextClassification& task = training.text_classification();
      ValidateColumns(at("text_classification"),
                      {{"text_column", task.text_column(), "text"},
                       {"text_pair_column", task.text_pair_column(), ""},
                       {"label_column", task.label_column(), "label"}},
                      problems);
      break;
    }
    case v1::Training::kRegression:
      ValidateColumns(at("regression"),
                      {{"text_column", training.regression().text_column(), "text"},
                       {"target_column", training.regression().target_column(), "label"}},
                      problems);
      break;
    case v1::Training::kLanguageModeling: {
      const v1::LanguageModeling& task = training.language_modeling();
      ValidateColumns(at("language_modeling"), {{"text_column", task.text_column(), "text"}},
                      problems);
      if (!v1::LanguageModeling::Layout_IsValid(task.layout())) {
        problems->Add(at("language_modeling.layout"),
                      absl::StrCat(static_cast<int>(task.layout()),
                                   " is not known; give CONTIGUOUS or PER_DOCUMENT"));
      }
      break;
    }
    case v1::Training::kCompletion: {
      const v1::Completion& task = training.completion();
      if (!task.messages_column().empty() &&
          !(task.prompt_column().empty() && task.completion_column().empty())) {
        problems->Add(at("completion.messages_column"),
                      absl::StrCat("\"", task.messages_column(),
                                   "\" is given beside prompt_column or completion_column; a file "
                                   "holds conversations or prompts, so give one or the other"));
      }
      ValidateColumns(at("completion"),
                      {{"prompt_column", task.prompt_column(), "prompt"},
                       {"completion_column", task.completion_column(), "completion"},
                       {"messages_column", task.messages_column(), ""}},
                      problems);
      break;
    }
    case v1::Training::kSequenceToSequence: {
      const v1::SequenceToSequence& task = training.sequence_to_sequence();
      ValidateColumns(at("sequence_to_sequence"),
                      {{"source_column", task.source_column(), "source"},
                       {"target_column", task.target_column(), "target"}},
                      problems);
      if (task.max_target_length() != 0) {
        problems->ExpectWithin(at("sequence_to_sequence.max_target_length"),
                               int64_t{task.max_target_length()}, 2, 1 << 20);
      }
      break;
    }
    case v1::Training::TASK_NOT_SET:
      problems->Add(at("task"),
                    "is not set; give text_classification, regression, language_modeling, "
                    "completion or sequence_to_sequence");
      break;
  }
}

// What the contract has and this version does not do.
void RefuseUnsupported(absl::string_view field, const v1::Training& training,
                       SpecProblems* problems) {
  const auto refuse = [&](bool given, absl::string_view name) {
    if (given) problems->Add(absl::StrCat(field, ".", name), "is not supported yet; leave it out");
  };
  refuse(training.has_preset(), "preset");
  refuse(training.has_schedule(), "schedule");
  refuse(training.has_added_part(), "added_part");
  refuse(training.output() != v1::Training::OUTPUT_UNSPECIFIED, "output");
  for (int i = 0; i < training.phases_size(); ++i) {
    const v1::Phase& phase = training.phases(i);
    const std::string at = absl::StrCat("phases[", i, "].");
    refuse(phase.has_optimizer(), at + "optimizer");
    refuse(phase.rate_overrides_size() > 0, at + "rate_overrides");
    refuse(phase.frozen_dropout(), at + "frozen_dropout");
    refuse(phase.selector().and_not_size() > 0, at + "selector.and_not");
    refuse(phase.schedule().warmup_fraction() != 0, at + "schedule.warmup_fraction");
    refuse(phase.schedule().has_final_ratio(), at + "schedule.final_ratio");
    refuse(phase.schedule().shape() == v1::Schedule::ONE_CYCLE, at + "schedule.shape");
    refuse(phase.plateau().metric() != v1::Evaluation::METRIC_UNSPECIFIED, at + "plateau.metric");
  }
}

}  // namespace

void ValidateTraining(absl::string_view field, const v1::Training& training,
                      SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (training.dataset().empty()) problems->Add(at("dataset"), "is empty; give a dataset's id");
  if (training.validation_case() == v1::Training::kValidationFraction) {
    problems->ExpectWithin(at("validation_fraction"), training.validation_fraction(), {0, 0.5});
  }
  if (training.validation_case() == v1::Training::kValidationDataset) {
    if (training.validation_dataset().empty()) {
      problems->Add(at("validation_dataset"), "is empty; give a dataset's id or leave it out");
    } else if (training.validation_dataset() == training.dataset()) {
      problems->Add(at("validation_dataset"), absl::StrCat("\"", training.dataset(),
                                                           "\" is the training dataset too; give "
                                                           "another, or validation_fraction"));
    }
  }
  ValidateTask(field, training, problems);
  ValidateRows(field, training, problems);
  RefuseUnsupported(field, training, problems);
  if (training.phases_size() < 1 || training.phases_size() > 64) {
    problems->Add(at("phases"), absl::StrCat(training.phases_size(), " phases; give 1 to 64"));
  }
  for (int i = 0; i < training.phases_size() && i < 64; ++i) {
    ValidatePhase(absl::StrCat(at("phases"), "[", i, "]"), training.phases(i), i == 0,
                  Evaluates(training), problems);
  }
  const v1::Optimizer& optimizer = training.optimizer();
  if (optimizer.has_beta1()) {
    problems->ExpectWithin(at("optimizer.beta1"), optimizer.beta1(), {0, 1, false, true});
  }
  if (optimizer.has_beta2()) {
    problems->ExpectWithin(at("optimizer.beta2"), optimizer.beta2(), {0, 1, false, true});
  }
  if (optimizer.has_epsilon()) {
    problems->ExpectWithin(at("optimizer.epsilon"), optimizer.epsilon(), {0, 1, true});
  }
  if (optimizer.has_weight_decay()) {
    problems->ExpectWithin(at("optimizer.weight_decay"), optimizer.weight_decay(), {0, 1});
  }
  if (training.batch().examples_per_step() != 0) {
    problems->ExpectWithin(at("batch.examples_per_step"),
                           int64_t{training.batch().examples_per_step()}, 1, 65536);
  }
  if (training.batch().tokens_per_micro_step() != 0) {
    problems->ExpectWithin(at("batch.tokens_per_micro_step"),
                           int64_t{training.batch().tokens_per_micro_step()}, 128, 1 << 20);
  }
  if (training.max_length() != 0) {
    problems->ExpectWithin(at("max_length"), int64_t{training.max_length()}, 2, 1 << 20);
  }
  if (training.has_max_grad_norm()) {
    problems->ExpectWithin(at("max_grad_norm"), training.max_grad_norm(), {0, 1e9});
  }
  ValidateEvaluation(at("evaluation"), training, problems);
  if (training.checkpoint().every_steps() != 0) {
    problems->ExpectWithin(at("checkpoint.every_steps"), training.checkpoint().every_steps(), 1,
                           1'000'000);
  }
}

}  // namespace thaw
