// Which token comes next. The steps, and their order, are those of transformers' generate():
// repetition penalty, temperature, top-k, top-p, min-p, then a draw. docs/prediction.md has them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace thaw {

struct SamplingOptions {
  double temperature = 0;  // 0: the most probable token, of equals that of the lowest id
  int32_t top_k = 0;       // 0: all
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;  // 1: none
  uint64_t seed = 42;
};

// A token that may be drawn.
struct Candidate {
  int32_t id = 0;
  float logit = 0;         // after temperature
  double probability = 0;  // among the candidates
};

// Divides positive logits of the tokens `seen`, each of which is named once, by `penalty` and
// multiplies negative ones (arXiv 1909.05858, section 4.1).
void PenalizeRepetition(std::span<const int32_t> seen, double penalty, std::span<float> logits);

// What is left of `logits` after temperature (above 0), top-k, top-p and min-p, in the order of the
// ids; each step sees the distribution that the one before has left. Of tokens as probable as the
// last one that top-k keeps all stay; at least one token stays.
std::vector<Candidate> Candidates(std::span<const float> logits, const SamplingOptions& options);

// The candidate at `uniform`, in [0, 1), of their cumulated probabilities.
int32_t Draw(std::span<const Candidate> candidates, double uniform);

int32_t MostProbable(std::span<const float> logits);

// In [0, 1): a function of its arguments alone, so that a row's draws depend on nothing that is
// generated beside it.
double UniformAt(uint64_t seed, int64_t row, int64_t position);

// One row's next token. Penalises `logits` in place.
int32_t NextToken(const SamplingOptions& options, std::span<const int32_t> seen, int64_t row,
                  int64_t position, std::span<float> logits);

}  // namespace thaw
