// Whether a phase keeps what its frozen part computes (Training.activation_cache), and why. The
// trainer decides by the same function as the server, with what the weights and the rows tell.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "thaw/v1/artifact.pb.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

constexpr int64_t kDefaultCacheBytes = int64_t{1} << 30;

// What is known of the frozen part of a phase.
struct FrozenFacts {
  // Blocks below the lowest group that trains; nullopt: only the weights tell.
  std::optional<int> frozen_blocks;
  double rows = 0;  // to train on; 0: not known
  bool has_validation = false;
};

struct CacheDecision {
  bool training = false;    // what is computed for the rows to train on is kept
  bool validation = false;  // and that for the rows to validate with
  std::string why;  // "kept: …", "no: …" or, where only the weights tell, "perhaps: …"
};

// Whether what is frozen in `phase` computes the same for a row in every pass, in any batch:
// what a model of this type can keep if `blocks` blocks are frozen. Whether it is kept then changes
// no bit. Otherwise `why` says what is against it.
bool MayKeepActivations(absl::string_view model_type, const v1::Phase& phase, int frozen_blocks,
                        std::string* why);

// `training` is resolved, or has what it needs of a resolved one.
CacheDecision DecideCache(const v1::Training& training, const v1::Phase& phase,
                          absl::string_view model_type, const FrozenFacts& facts);

// Blocks below the lowest group that the phase trains in a model of `blocks` blocks, as far as its
// selector tells without the weights.
std::optional<int> FrozenBlocks(const v1::Training& training, const v1::Phase& phase, int blocks);

// Writes the decisions, a sentence a phase; none while the model or the dataset is not known.
void FillCacheDecisions(const v1::Artifact* model, const v1::Artifact* dataset,
                        v1::Training* training);

}  // namespace thaw
