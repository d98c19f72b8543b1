// What can be seen of a training's program from the spec alone.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/spec/model_abilities.h"
#include "common/spec/spec_problems.h"

namespace thaw {
namespace {

constexpr int kMostPhases = 64;
constexpr int kMostInList = 32;  // expressions, selectors and overrides of one list
constexpr int kDeepestSelector = 4;

using Selectors = google::protobuf::RepeatedPtrField<v1::Selector>;

class SelectorCheck {
 public:
  explicit SelectorCheck(SpecProblems* problems) : problems_(problems) {}

  void Check(absl::string_view field, const v1::Selector& selector, int depth = 1) const {
    if (depth > kDeepestSelector) {
      problems_->Add(field, absl::StrCat("lies ", depth, " deep; nest at most ", kDeepestSelector));
      return;
    }
    const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
    switch (selector.include_case()) {
      case v1::Selector::kHeadOnly:
        ExpectTrue(at("head_only"), selector.head_only());
        break;
      case v1::Selector::kLastBlocks:
        if (selector.last_blocks() < 0) {
          problems_->Add(at("last_blocks"),
                         absl::StrCat(selector.last_blocks(), " is negative; give 0 or more"));
        }
        break;
      case v1::Selector::kEverything:
        ExpectTrue(at("everything"), selector.everything());
        break;
      case v1::Selector::kNamePattern:
        ValidatePattern(at("name_pattern"), selector.name_pattern(), problems_);
        break;
      case v1::Selector::kKind:
        CheckKind(at("kind"), selector.kind());
        break;
      case v1::Selector::kAnyOf:
        if (selector.any_of().values().empty()) {
          problems_->Add(at("any_of.values"), "is empty and would choose nothing; give 1 to 32");
        }
        CheckAll(at("any_of.values"), selector.any_of().values(), depth + 1);
        break;
      case v1::Selector::INCLUDE_NOT_SET:
        problems_->Add(field,
                       "chooses nothing; give head_only, last_blocks, everything, name_pattern, "
                       "kind or any_of");
        break;
    }
    const int patterns = selector.exclude_patterns_size();
    if (patterns > kMostInList) {
      problems_->Add(at("exclude_patterns"),
                     absl::StrCat(patterns, " expressions; give at most ", kMostInList));
    }
    for (int i = 0; i < std::min(patterns, kMostInList); ++i) {
      ValidatePattern(absl::StrCat(at("exclude_patterns"), "[", i, "]"),
                      selector.exclude_patterns(i), problems_);
    }
    CheckAll(at("and_not"), selector.and_not(), depth + 1);
  }

 private:
  void ExpectTrue(absl::string_view field, bool value) const {
    if (!value) problems_->Add(field, "is false; set it true or leave it");
  }

  void CheckKind(absl::string_view field, v1::Selector::Kind kind) const {
    if (!v1::Selector::Kind_IsValid(kind) || kind == v1::Selector::KIND_UNSPECIFIED) {
      problems_->Add(field, absl::StrCat(static_cast<int>(kind),
                                         " is not known; give BIASES, NORMS, EMBEDDINGS, "
                                         "ATTENTION, FEED_FORWARD or ADDED_PARTS"));
    }
  }

  void CheckAll(absl::string_view field, const Selectors& selectors, int depth) const {
    if (selectors.size() > kMostInList) {
      problems_->Add(field,
                     absl::StrCat(selectors.size(), " selectors; give at most ", kMostInList));
    }
    for (int i = 0; i < std::min(selectors.size(), kMostInList); ++i) {
      Check(absl::StrCat(field, "[", i, "]"), selectors.Get(i), depth);
    }
  }

  SpecProblems* const problems_;
};

// What a schedule stretches over.
struct Stretch {
  const char* open_end = nullptr;  // what ends it at a step that nobody knows beforehand
  int64_t steps = 0;               // where the spec says how many; 0: it does not
};

void ValidateSchedule(absl::string_view field, const v1::Schedule& schedule, const Stretch& stretch,
                      SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (!v1::Schedule::Shape_IsValid(schedule.shape())) {
    problems->Add(at("shape"), absl::StrCat(static_cast<int>(schedule.shape()),
                                            " is not known; give CONSTANT, LINEAR, COSINE, "
                                            "SLANTED_TRIANGULAR or ONE_CYCLE"));
    return;
  }
  const bool one_cycle = schedule.shape() == v1::Schedule::ONE_CYCLE;
  const bool rises = one_cycle || schedule.shape() == v1::Schedule::SLANTED_TRIANGULAR;
  const bool constant = schedule.shape() == v1::Schedule::CONSTANT ||
                        schedule.shape() == v1::Schedule::SHAPE_UNSPECIFIED;
  const std::string shape = v1::Schedule::Shape_Name(schedule.shape());
  if (stretch.open_end != nullptr && !constant) {
    problems->Add(at("shape"),
                  absl::StrCat(shape, " needs to know where it ends, a ", stretch.open_end,
                               " does not; give CONSTANT, or another end"));
  }
  if (schedule.warmup_steps() < 0) {
    problems->Add(at("warmup_steps"),
                  absl::StrCat(schedule.warmup_steps(), " is negative; give 0 or more steps"));
  } else if (rises && schedule.warmup_steps() > 0) {
    problems->Add(at("warmup_steps"),
                  absl::StrCat(schedule.warmup_steps(), " is given with ", shape,
                               ", which warms up by itself; set cut_fraction"));
  } else if (stretch.steps > 0 && schedule.warmup_steps() >= stretch.steps) {
    problems->Add(at("warmup_steps"), absl::StrCat(schedule.warmup_steps(), " of ", stretch.steps,
                                                   " steps; give fewer than there are"));
  }
  if (schedule.warmup_fraction() != 0) {
    problems->ExpectWithin(at("warmup_fraction"), schedule.warmup_fraction(), {0, 1, false, true});
    if (rises) {
      problems->Add(at("warmup_fraction"),
                    absl::StrCat(schedule.warmup_fraction(), " is given with ", shape,
                                 ", which warms up by itself; set cut_fraction"));
    } else if (schedule.warmup_steps() > 0) {
      problems->Add(at("warmup_fraction"), "is given beside warmup_steps; give one of them");
    } else if (stretch.open_end != nullptr) {
      problems->Add(at("warmup_fraction"),
                    absl::StrCat("is a share of steps that a ", stretch.open_end,
                                 " does not know; give warmup_steps"));
    }
  }
  for (const auto& [given, belongs, name, owners] :
       {std::tuple(schedule.has_cut_fraction(), rises, "cut_fraction",
                   "SLANTED_TRIANGULAR and ONE_CYCLE"),
        std::tuple(schedule.has_ratio(), rises, "ratio", "SLANTED_TRIANGULAR and ONE_CYCLE"),
        std::tuple(schedule.has_final_ratio(), one_cycle, "final_ratio", "ONE_CYCLE")}) {
    if (given && !belongs) {
      problems->Add(at(name), absl::StrCat("belongs to ", owners,
                                           " alone; leave it out or set such a shape"));
    }
  }
  if (rises && schedule.has_cut_fraction()) {
    problems->ExpectWithin(at("cut_fraction"), schedule.cut_fraction(), {0, 1, true, true});
  }
  if (rises && schedule.has_ratio()) {
    problems->ExpectWithin(at("ratio"), schedule.ratio(), {1, 1e9, true});
  }
  if (one_cycle && schedule.has_final_ratio()) {
    problems->ExpectWithin(at("final_ratio"), schedule.final_ratio(), {1, 1e9, true});
  }
}

void ValidatePlateau(absl::string_view field, const v1::Training& training,
                     const v1::Plateau& plateau, SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (!Evaluates(training)) {
    problems->Add(field, "needs evaluations, and validation_fraction is 0; keep some rows back");
  }
  if (plateau.patience() != 0) {
    problems->ExpectWithin(at("patience"), int64_t{plateau.patience()}, 1, 100);
  }
  problems->ExpectWithin(at("min_delta"), plateau.min_delta(), {0, 1e9});
  problems->ExpectWithin(at("max_epochs"), plateau.max_epochs(), {0, 1000, true});
  ExpectMetric(at("metric"), plateau.metric(), training, problems);
}

const char* OpenEnd(const v1::Phase& phase) {
  return phase.has_plateau()       ? "plateau"
         : phase.has_wall_time()   ? "wall_time"
         : phase.has_convergence() ? "convergence"
                                   : nullptr;
}

void ValidateUntil(absl::string_view field, const v1::Training& training, const v1::Phase& phase,
                   SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  switch (phase.until_case()) {
    case v1::Phase::kSteps:
      problems->ExpectWithin(at("steps"), phase.steps(), 1, 10'000'000);
      break;
    case v1::Phase::kEpochs:
      problems->ExpectWithin(at("epochs"), phase.epochs(), {0, 1000, true});
      break;
    case v1::Phase::kPlateau:
      ValidatePlateau(at("plateau"), training, phase.plateau(), problems);
      break;
    case v1::Phase::kLossUnits:
      problems->ExpectWithin(at("loss_units"), phase.loss_units(), 1, 1'000'000'000'000'000);
      break;
    case v1::Phase::kWallTime:
      problems->ExpectDuration(at("wall_time"), phase.wall_time());
      break;
    case v1::Phase::kConvergence:
      ValidateConvergence(field, training, phase, problems);
      break;
    case v1::Phase::UNTIL_NOT_SET:
      break;
  }
}

void ValidatePhase(absl::string_view field, const v1::Training& training, int index,
                   SpecProblems* problems) {
  const v1::Phase& phase = training.phases(index);
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  const SelectorCheck selectors(problems);
  problems->ExpectName(at("name"), phase.name(), 120);
  selectors.Check(at("selector"), phase.selector());
  if (phase.learning_rate() != 0) {
    problems->ExpectWithin(at("learning_rate"), phase.learning_rate(), {0, 1, true});
  }
  if (phase.has_learning_rate_decay()) {
    problems->ExpectWithin(at("learning_rate_decay"), phase.learning_rate_decay(), {1, 100});
  }
  if (phase.rate_overrides_size() > kMostInList) {
    problems->Add(at("rate_overrides"), absl::StrCat(phase.rate_overrides_size(),
                                                     " of them; give at most ", kMostInList));
  }
  for (int i = 0; i < std::min(phase.rate_overrides_size(), kMostInList); ++i) {
    const std::string override_field = absl::StrCat(at("rate_overrides"), "[", i, "]");
    selectors.Check(override_field + ".selector", phase.rate_overrides(i).selector());
    problems->ExpectWithin(override_field + ".learning_rate",
                           phase.rate_overrides(i).learning_rate(), {0, 1, true});
  }
  ValidateOptimizer(at("optimizer"), phase.optimizer(), problems);
  if (training.has_schedule() && phase.has_schedule()) {
    problems->Add(at("schedule"),
                  "is given beside the training's schedule, which is that of all phases; leave one "
                  "of them out");
  } else {
    ValidateSchedule(at("schedule"), phase.schedule(),
                     {.open_end = OpenEnd(phase), .steps = phase.steps()}, problems);
  }
  ValidateUntil(field, training, phase, problems);
  if (phase.restore_best() && index == 0) {
    problems->Add(at("restore_best"),
                  "is true in the first phase, which has no weights before it; "
                  "leave it out");
  } else if (phase.restore_best() && !Evaluates(training)) {
    problems->Add(at("restore_best"),
                  "needs evaluations, and validation_fraction is 0; keep some rows back");
  }
  if (!v1::OptimizerState_IsValid(phase.optimizer_state())) {
    problems->Add(at("optimizer_state"), absl::StrCat(static_cast<int>(phase.optimizer_state()),
                                                      " is not known; give KEEP or RESET"));
  }
}

// Two phases of one name cannot be told apart in events; of two alike in a row, one was meant to be
// another.
void ValidateDifferentPhases(absl::string_view field, const v1::Training& training,
                             SpecProblems* problems) {
  std::map<std::string, int> numbers;
  std::string before;
  for (int i = 0; i < training.phases_size(); ++i) {
    const std::string name = PhaseName(training.phases(i), i + 1);
    const std::string at = absl::StrCat(field, "[", i, "]");
    if (const auto [other, fresh] = numbers.emplace(name, i); !fresh) {
      problems->Add(at + ".name", absl::StrCat("\"", name, "\" is the name of ", field, "[",
                                               other->second, "] too; give another"));
    }
    v1::Phase nameless = training.phases(i);
    nameless.clear_name();
    std::string bytes = nameless.SerializeAsString();
    if (i > 0 && bytes == before) {
      problems->Add(at, absl::StrCat("\"", name, "\" is in everything the same as \"",
                                     PhaseName(training.phases(i - 1), i),
                                     "\" before it; change it, or make one of both"));
    }
    before = std::move(bytes);
  }
}

void ValidateJobSchedule(absl::string_view field, const v1::Training& training,
                         SpecProblems* problems) {
  Stretch stretch;
  bool known = training.phases_size() > 0;
  for (int i = 0; i < training.phases_size(); ++i) {
    const v1::Phase& phase = training.phases(i);
    if (OpenEnd(phase) != nullptr && stretch.open_end == nullptr) {
      stretch.open_end = OpenEnd(phase);
      problems->Add(field, absl::StrCat("needs to know where the job ends, and phase \"",
                                        PhaseName(phase, i + 1), "\" ends by ", stretch.open_end,
                                        "; give it steps, epochs or loss_units"));
    }
    known = known && phase.has_steps();
    stretch.steps += phase.steps();
  }
  // What is wrong with the end has been said.
  stretch.open_end = nullptr;
  if (!known) stretch.steps = 0;
  ValidateSchedule(field, training.schedule(), stretch, problems);
}

void ValidatePreset(absl::string_view field, const v1::Preset& preset, SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (!v1::Preset::Name_IsValid(preset.name()) || preset.name() == v1::Preset::NAME_UNSPECIFIED) {
    problems->Add(at("name"),
                  absl::StrCat(static_cast<int>(preset.name()),
                               " is not known; give FEATURES, HEAD, PARTIAL, FULL, GRADUAL, "
                               "HEAD_THEN_FULL, CHAIN_THAW, BITFIT, LORA or SFT"));
    return;
  }
  const std::string name = v1::Preset::Name_Name(preset.name());
  if (preset.learning_rate() != 0) {
    problems->ExpectWithin(at("learning_rate"), preset.learning_rate(), {0, 1, true});
  }
  if (preset.epochs() != 0) {
    problems->ExpectWithin(at("epochs"), preset.epochs(), {0, 1000, true});
  }
  if (preset.epochs_per_phase() != 0) {
    problems->ExpectWithin(at("epochs_per_phase"), preset.epochs_per_phase(), {0, 1000, true});
    if (preset.name() != v1::Preset::GRADUAL && preset.name() != v1::Preset::CHAIN_THAW &&
        preset.name() != v1::Preset::HEAD_THEN_FULL) {
      problems->Add(at("epochs_per_phase"),
                    absl::StrCat("is given with ", name, ", which has one phase; give epochs"));
    }
  }
  if (preset.last_blocks() < 0) {
    problems->Add(at("last_blocks"),
                  absl::StrCat(preset.last_blocks(), " is negative; give 0 for a third"));
  } else if (preset.last_blocks() > 0 && preset.name() != v1::Preset::PARTIAL) {
    problems->Add(at("last_blocks"),
                  absl::StrCat("is given with ", name, "; only PARTIAL has it, so leave it out"));
  }
}

}  // namespace

std::string PhaseName(const v1::Phase& phase, int number) {
  return phase.name().empty() ? absl::StrCat("phase ", number) : phase.name();
}

void ValidateOptimizer(absl::string_view field, const v1::Optimizer& optimizer,
                       SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (optimizer.has_beta1()) {
    problems->ExpectWithin(at("beta1"), optimizer.beta1(), {0, 1, false, true});
  }
  if (optimizer.has_beta2()) {
    problems->ExpectWithin(at("beta2"), optimizer.beta2(), {0, 1, false, true});
  }
  if (optimizer.has_epsilon()) {
    problems->ExpectWithin(at("epsilon"), optimizer.epsilon(), {0, 1, true});
  }
  if (optimizer.has_weight_decay()) {
    problems->ExpectWithin(at("weight_decay"), optimizer.weight_decay(), {0, 1});
  }
}

void ValidateProgram(absl::string_view field, const v1::Training& training,
                     SpecProblems* problems) {
  const std::string phases = absl::StrCat(field, ".phases");
  if (training.has_preset()) {
    ValidatePreset(absl::StrCat(field, ".preset"), training.preset(), problems);
    if (training.phases_size() > 0) {
      problems->Add(absl::StrCat(field, ".preset"),
                    "is given beside phases, which it would make; leave one of them out");
    }
  } else if (training.phases_size() < 1 || training.phases_size() > kMostPhases) {
    problems->Add(phases, absl::StrCat(training.phases_size(), " phases; give 1 to ", kMostPhases,
                                       ", or a preset"));
  }
  for (int i = 0; i < std::min(training.phases_size(), kMostPhases); ++i) {
    ValidatePhase(absl::StrCat(phases, "[", i, "]"), training, i, problems);
  }
  if (training.phases_size() <= kMostPhases) ValidateDifferentPhases(phases, training, problems);
  if (training.has_schedule()) {
    ValidateJobSchedule(absl::StrCat(field, ".schedule"), training, problems);
  }
}

}  // namespace thaw
