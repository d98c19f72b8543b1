// A head on pooled hidden states, and phases that end at its optimum.
#include <string>

#include "absl/strings/str_cat.h"
#include "common/spec/spec_problems.h"

namespace thaw {
namespace {

constexpr int kMostPooledWidth = 65'536;

bool HasPooledHead(const v1::Training& training) {
  return training.has_pooled_head() || training.preset().name() == v1::Preset::FEATURES;
}

// Whether it is plain that nothing below the head trains.
bool TrainsHeadAlone(const v1::Training& training) {
  if (training.has_preset()) {
    return training.preset().name() == v1::Preset::FEATURES ||
           training.preset().name() == v1::Preset::HEAD;
  }
  for (const v1::Phase& phase : training.phases()) {
    if (!phase.selector().head_only()) return false;
  }
  return true;
}

}  // namespace

void ValidatePooledHead(absl::string_view field, const v1::Training& training,
                        SpecProblems* problems) {
  if (!HasPooledHead(training)) return;
  const std::string name = absl::StrCat(field, ".pooled_head");
  const auto at = [&](absl::string_view part) { return absl::StrCat(name, ".", part); };
  if (!training.has_text_classification() && !training.has_regression()) {
    problems->Add(training.has_pooled_head() ? name : absl::StrCat(field, ".preset.name"),
                  "is a head for text_classification and regression; leave it out for this task");
  }
  const v1::PooledHead& head = training.pooled_head();
  if (head.blocks() < 0) {
    problems->Add(at("blocks"), absl::StrCat(head.blocks(),
                                             " is negative; give 0 for the embeddings, or the "
                                             "number of blocks"));
  }
  if (!v1::Embed::Pooling_IsValid(head.pooling())) {
    problems->Add(at("pooling"), absl::StrCat(static_cast<int>(head.pooling()),
                                              " is not known; give MEAN, CLS, LAST or MAX"));
  }
  problems->ExpectWithin(at("hidden_size"), int64_t{head.hidden_size()}, 0, kMostPooledWidth);
  problems->ExpectWithin(at("dropout"), head.dropout(), {0, 1, false, true});
  if (head.export_features() && (training.has_added_part() || !TrainsHeadAlone(training))) {
    problems->Add(at("export_features"),
                  "is true, and a phase trains more than the head, so that features change; choose "
                  "head_only in every phase without an added part, or leave it out");
  }
}

void ValidateConvergence(absl::string_view field, const v1::Training& training,
                         const v1::Phase& phase, SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  const v1::Convergence& convergence = phase.convergence();
  if (convergence.max_iterations() != 0) {
    problems->ExpectWithin(at("convergence.max_iterations"), int64_t{convergence.max_iterations()},
                           1, 10'000);
  }
  if (convergence.has_tolerance()) {
    problems->ExpectWithin(at("convergence.tolerance"), convergence.tolerance(), {0, 1, true});
  }
  if (convergence.has_l2()) {
    problems->ExpectWithin(at("convergence.l2"), convergence.l2(), {0, 1e9});
  }
  if (!training.has_pooled_head() || training.pooled_head().hidden_size() != 0) {
    problems->Add(at("convergence"),
                  absl::StrCat("needs a linear pooled head",
                               training.has_pooled_head()
                                   ? ", and pooled_head.hidden_size is given; leave that out"
                                   : "; give pooled_head",
                               ", or another end"));
  }
  if (training.has_added_part()) {
    problems->Add(at("convergence"), "is given beside an added part; leave that out");
  }
  if (!phase.selector().head_only()) {
    problems->Add(at("selector"), "must be head_only in a phase that ends by convergence");
  }
  for (const auto& [given, name] :
       {std::pair(phase.learning_rate() != 0, "learning_rate"),
        std::pair(phase.has_schedule(), "schedule"), std::pair(phase.has_optimizer(), "optimizer"),
        std::pair(phase.rate_overrides_size() > 0, "rate_overrides"),
        std::pair(phase.frozen_dropout(), "frozen_dropout")}) {
    if (given) {
      problems->Add(at(name),
                    "is given in a phase that ends by convergence, which takes no steps "
                    "at a rate; leave it out");
    }
  }
}

}  // namespace thaw
