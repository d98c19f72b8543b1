#include "worker/training/frozen_part.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/spec/cache_decision.h"
#include "worker/training/forward.h"

namespace thaw {
namespace {

// Of the disk, for other attempts' inputs, and for a server on the same disk, which takes no new
// work when less than 1 GiB is free.
constexpr int64_t kDiskReserveBytes = int64_t{2} << 30;

}  // namespace

std::string FrozenPart::BeginPhase(int phase, int lowest, int64_t written_bytes, Model* model) {
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
  scratch_.kept_bytes = kDiskReserveBytes + written_bytes;
  scratch_.files = decision.training && decision.validation ? 2 : 1;
  const auto make = [&](bool kept, const TokenizedDataset& rows, int64_t bytes,
                        std::optional<ActivationCache>* cache) {
    cache->emplace(&rows, lowest, kept ? bytes : 0, kept ? scratch_ : ScratchRoom());
  };
  make(decision.training, inputs_.training, share, &rows_);
  if (facts.has_validation) {
    make(decision.validation, inputs_.validation, max_bytes - share, &validation_rows_);
  }
  return decided;
}

std::string FrozenPart::EndPhase() {
  in_phase_ = false;
  ActivationCache::Figures sum;
  absl::Status full;
  for (const auto* cache : {&rows_, &validation_rows_}) {
    if (!*cache) continue;
    const ActivationCache::Figures& figures = (*cache)->figures();
    sum.held_rows += figures.held_rows;
    sum.bytes += figures.bytes;
    sum.file_bytes += figures.file_bytes;
    sum.found += figures.found;
    sum.computed += figures.computed;
    const bool kept = cache == &rows_ ? keeps_training_ : keeps_validation_;
    if (kept && figures.held_rows < (*cache)->rows()) full.Update((*cache)->file_full());
  }
  if (sum.held_rows == 0) return "";
  const auto mebi = [](int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::string file;
  if (sum.file_bytes > 0)
    file = absl::StrFormat(" of memory and %.1f MiB of a file", mebi(sum.file_bytes));
  std::string told = absl::StrFormat(
      "activation cache: holds %d of %d rows in %.1f MiB%s; %d of the %d asked for were there",
      sum.held_rows, inputs_.training.rows() + inputs_.validation.rows(), mebi(sum.bytes), file,
      sum.found, sum.found + sum.computed);
  if (!full.ok()) absl::StrAppend(&told, "; a file takes no more: ", full.message());
  return told;
}

void FrozenPart::Forget() {
  rows_.reset();
  validation_rows_.reset();
}

}  // namespace thaw
