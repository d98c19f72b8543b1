#include "worker/training/frozen_part.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/spec/cache_decision.h"
#include "worker/training/forward.h"

namespace thaw {

std::string FrozenPart::BeginPhase(int phase, int lowest, Model* model) {
  in_phase_ = true;
  const FrozenFacts facts{.frozen_blocks = std::max(lowest - 1, 0),
                          .rows = static_cast<double>(inputs_.training.rows()),
                          .has_validation = inputs_.validation.rows() > 0};
  const std::string& model_type = model->config().model_type;
  std::string why_not;
  if (!MayKeepActivations(model_type, training_.phases(phase), *facts.frozen_blocks, &why_not)) {
    Forget();
    return "";
  }
  CacheDecision decision = DecideCache(training_, training_.phases(phase), model_type, facts);
  if (decision.training || decision.validation) {
    if (!model->parameters().all().front().tensor.is_cpu()) {
      decision = {.why = "no: the model is not on the CPU"};
    } else if (!ComputesRowsAlike(model, inputs_.training, lowest)) {
      decision = {.why = "no: on this machine what is computed for a row depends on its batch"};
    }
  }
  const std::string decided =
      absl::StrCat("activation cache: phase ", phase + 1, ": ", decision.why);
  const bool same = rows_ && rows_->boundary() == lowest && decision.training == keeps_training_ &&
                    decision.validation == keeps_validation_;
  if (same) return decided;
  keeps_training_ = decision.training;
  keeps_validation_ = decision.validation;
  const int64_t given = training_.activation_cache().max_bytes();
  const int64_t max_bytes = (given > 0 ? given : kDefaultCacheBytes) / max_bytes_divisor_;
  // Each gets its share of the tokens, so that both are held as far.
  const auto weight = [](bool kept, const TokenizedDataset& rows) {
    return kept ? static_cast<double>(rows.tokens()) : 0;
  };
  const double tokens = weight(decision.training, inputs_.training);
  const double validation_tokens = weight(decision.validation, inputs_.validation);
  const int64_t share = static_cast<int64_t>(std::floor(static_cast<double>(max_bytes) * tokens /
                                                        std::max(tokens + validation_tokens, 1.0)));
  rows_.reset();
  validation_rows_.reset();
  rows_.emplace(&inputs_.training, lowest, decision.training ? share : 0);
  if (facts.has_validation) {
    validation_rows_.emplace(&inputs_.validation, lowest,
                             decision.validation ? max_bytes - share : 0);
  }
  return decided;
}

std::string FrozenPart::EndPhase() {
  in_phase_ = false;
  ActivationCache::Figures sum;
  for (const auto* cache : {&rows_, &validation_rows_}) {
    if (!*cache) continue;
    const ActivationCache::Figures& figures = (*cache)->figures();
    sum.held_rows += figures.held_rows;
    sum.bytes += figures.bytes;
    sum.found += figures.found;
    sum.computed += figures.computed;
  }
  if (sum.held_rows == 0) return "";
  return absl::StrFormat(
      "activation cache: holds %d of %d rows in %.1f MiB; %d of the %d asked for were there",
      sum.held_rows, inputs_.training.rows() + inputs_.validation.rows(),
      static_cast<double>(sum.bytes) / (1 << 20), sum.found, sum.found + sum.computed);
}

void FrozenPart::Forget() {
  rows_.reset();
  validation_rows_.reset();
}

}  // namespace thaw
