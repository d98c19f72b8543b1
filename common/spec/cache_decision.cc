#include "common/spec/cache_decision.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/spec/model_abilities.h"
#include "common/spec/spec_problems.h"

namespace thaw {
namespace {

constexpr double kMebi = 1 << 20;

// "1 pass", "2.5 passes".
std::string Counted(double count, absl::string_view one, absl::string_view several) {
  return absl::StrFormat("%g %s", std::round(count * 100) / 100, count == 1 ? one : several);
}

std::string BlocksFrozen(int count) {
  return count == 1 ? "block 0 is frozen" : absl::StrCat("blocks 0 to ", count - 1, " are frozen");
}

// Over the rows, as far as they are known beforehand.
std::optional<double> Passes(const v1::Training& training, const v1::Phase& phase, double rows) {
  switch (phase.until_case()) {
    case v1::Phase::kEpochs:
      return phase.epochs();
    case v1::Phase::kSteps:
      if (rows == 0) return std::nullopt;
      return static_cast<double>(phase.steps()) * training.batch().examples_per_step() / rows;
    case v1::Phase::kLossUnits:
      // Of other tasks they are tokens.
      if (rows == 0 || !(training.has_text_classification() || training.has_regression())) {
        return std::nullopt;
      }
      return static_cast<double>(phase.loss_units()) / rows;
    default:
      return std::nullopt;  // a plateau, a time
  }
}

// At its end, and every so often before.
double Evaluations(const v1::Training& training, double passes, double rows) {
  const v1::Evaluation& evaluation = training.evaluation();
  double interval = evaluation.has_every_epochs() ? evaluation.every_epochs() : 1;
  if (evaluation.every_steps() > 0) {
    if (rows == 0) return 1;
    interval =
        static_cast<double>(evaluation.every_steps()) * training.batch().examples_per_step() / rows;
  }
  return interval > 0 ? std::max(std::ceil(passes / interval), 1.0) : 1;
}

// Of a selector without exceptions.
std::optional<int> FrozenBelow(const v1::Selector& selector, int blocks, bool tied_head) {
  switch (selector.include_case()) {
    case v1::Selector::kEverything:
      return 0;
    case v1::Selector::kHeadOnly:
      if (tied_head) return std::nullopt;
      return blocks;
    case v1::Selector::kLastBlocks:
      if (selector.last_blocks() >= blocks) return 0;
      if (tied_head) return std::nullopt;
      return blocks - selector.last_blocks();
    case v1::Selector::kAnyOf: {
      std::optional<int> least = blocks;
      for (const v1::Selector& one : selector.any_of().values()) {
        const std::optional<int> below = one.exclude_patterns().empty() && one.and_not().empty()
                                             ? FrozenBelow(one, blocks, tied_head)
                                             : std::nullopt;
        if (below == 0) return 0;
        least = below && least ? std::optional(std::min(*below, *least)) : std::nullopt;
      }
      return least;
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

bool MayKeepActivations(absl::string_view model_type, const v1::Phase& phase, int frozen_blocks,
                        std::string* why) {
  if (phase.frozen_dropout()) {
    *why = "no: with frozen_dropout every pass differs";
  } else if (model_type == "awd_lstm") {
    *why = "no: what a recurrent model computes for a row depends on the rows beside it";
  } else if (frozen_blocks == 0) {
    *why = "no: no block is frozen below what trains";
  } else {
    return true;
  }
  return false;
}

CacheDecision DecideCache(const v1::Training& training, const v1::Phase& phase,
                          absl::string_view model_type, const FrozenFacts& facts) {
  CacheDecision decision;
  if (training.activation_cache().use() == v1::ActivationCache::OFF) {
    decision.why = "no: use is OFF";
    return decision;
  }
  if (!MayKeepActivations(model_type, phase, facts.frozen_blocks.value_or(1), &decision.why)) {
    return decision;
  }
  if (phase.has_convergence()) {
    decision.why = "no: a phase that ends by convergence reads the rows once";
    return decision;
  }
  const std::optional<double> passes = Passes(training, phase, facts.rows);
  const bool again = !passes || *passes > 1;
  const double evaluations =
      !facts.has_validation ? 0 : Evaluations(training, passes.value_or(2), facts.rows);
  decision.validation = evaluations > 1;
  decision.training = again;
  if (!decision.training && !decision.validation) {
    decision.why = absl::StrCat("no: ", Counted(*passes, "pass", "passes"),
                                " over the rows, and nothing is computed twice");
    return decision;
  }
  std::string use;
  if (!again) {
    use = Counted(evaluations, "evaluation", "evaluations");
  } else if (passes) {
    use = Counted(*passes, "pass", "passes") + " over the rows";
  } else {
    use = "as many passes over the rows as it takes";
  }
  const int64_t given = training.activation_cache().max_bytes();
  const double mebi = static_cast<double>(given > 0 ? given : kDefaultCacheBytes) / kMebi;
  const std::string room = absl::StrFormat("at most %.4g MiB in memory, then a file", mebi);
  if (facts.frozen_blocks) {
    decision.why =
        absl::StrCat("kept: ", BlocksFrozen(*facts.frozen_blocks), " for ", use, "; ", room);
  } else {
    decision.training = decision.validation = false;
    decision.why = absl::StrCat(
        "perhaps: if the weights show that blocks are frozen below what "
        "trains, kept for ",
        use, "; ", room);
  }
  return decision;
}

std::optional<int> FrozenBlocks(const v1::Training& training, const v1::Phase& phase, int blocks) {
  const v1::Selector& selector = phase.selector();
  const v1::ModelSummary::Head head = HeadAfter(training);
  // The output layer of these may be the table of the embeddings.
  const bool tied_head =
      head == v1::ModelSummary::LANGUAGE_MODEL || head == v1::ModelSummary::SEQUENCE_TO_SEQUENCE;
  const std::optional<int> below = FrozenBelow(selector, blocks, tied_head);
  if (!below || !selector.exclude_patterns().empty()) return std::nullopt;
  for (const v1::Selector& one : selector.and_not()) {
    // What it takes out must leave something of the lowest group.
    const std::optional<int> taken =
        one.exclude_patterns().empty() && one.and_not().empty() && !one.has_any_of()
            ? FrozenBelow(one, blocks, tied_head)
            : std::nullopt;
    if (!taken || *taken <= *below) return std::nullopt;
  }
  const v1::PooledHead& pooled = training.pooled_head();
  return pooled.has_blocks() ? std::min(*below, pooled.blocks()) : *below;
}

void FillCacheDecisions(const v1::Artifact* model, const v1::Artifact* dataset,
                        v1::Training* training) {
  v1::ActivationCache* cache = training->mutable_activation_cache();
  cache->clear_decisions();
  if (model == nullptr || dataset == nullptr || model->model().blocks() == 0) return;
  FrozenFacts facts{.frozen_blocks = {}, .rows = 0, .has_validation = Evaluates(*training)};
  // How many rows joined texts make is known to the tokenizer alone.
  if (!training->has_language_modeling()) {
    facts.rows = static_cast<double>(dataset->dataset().rows()) *
                 (training->has_validation_dataset() ? 1 : 1 - training->validation_fraction());
  }
  for (int i = 0; i < training->phases_size(); ++i) {
    const v1::Phase& phase = training->phases(i);
    facts.frozen_blocks = FrozenBlocks(*training, phase, model->model().blocks());
    cache->add_decisions(
        absl::StrCat("phase ", i + 1, ": ",
                     DecideCache(*training, phase, model->model().model_type(), facts).why));
  }
}

}  // namespace thaw
