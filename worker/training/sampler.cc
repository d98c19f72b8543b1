#include "worker/training/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace thaw {
namespace {

// Most distributions have their mass in a few tokens: so many are sorted first.
constexpr size_t kFirstSorted = 256;

// SplitMix64's finalizer (Steele, Lea, Flood 2014).
uint64_t MixSampling(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

bool MoreProbable(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id > b.id;
}

void Normalise(std::vector<Candidate>* candidates) {
  float highest = -std::numeric_limits<float>::infinity();
  for (const Candidate& candidate : *candidates) highest = std::max(highest, candidate.logit);
  double sum = 0;
  for (Candidate& candidate : *candidates) {
    candidate.probability = std::exp(static_cast<double>(candidate.logit) - highest);
    sum += candidate.probability;
  }
  for (Candidate& candidate : *candidates) candidate.probability /= sum;
}

void KeepTopK(int32_t top_k, std::vector<Candidate>* candidates) {
  if (top_k <= 0 || candidates->size() <= static_cast<size_t>(top_k)) return;
  std::vector<float> logits;
  logits.reserve(candidates->size());
  for (const Candidate& candidate : *candidates) logits.push_back(candidate.logit);
  const auto last = logits.begin() + (top_k - 1);
  std::nth_element(logits.begin(), last, logits.end(), std::greater<>());
  std::erase_if(*candidates, [least = *last](const Candidate& c) { return c.logit < least; });
}

void KeepTopP(double top_p, std::vector<Candidate>* candidates) {
  if (top_p >= 1) return;
  Normalise(candidates);
  const auto begin = candidates->begin();
  double before = 0;  // what the more probable ones have together
  size_t kept = 0, sorted = 0;
  while (kept < candidates->size() && (kept == 0 || before < top_p)) {
    if (kept == sorted) {
      const size_t more = std::max(kFirstSorted, 3 * sorted);
      const size_t end = std::min(candidates->size(), sorted + more);
      std::partial_sort(begin + static_cast<std::ptrdiff_t>(sorted),
                        begin + static_cast<std::ptrdiff_t>(end), candidates->end(), MoreProbable);
      sorted = end;
    }
    before += (*candidates)[kept++].probability;
  }
  candidates->resize(kept);
  std::sort(candidates->begin(), candidates->end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

void KeepMinP(double min_p, std::vector<Candidate>* candidates) {
  if (min_p <= 0) return;
  Normalise(candidates);
  double highest = 0;
  for (const Candidate& candidate : *candidates) {
    highest = std::max(highest, candidate.probability);
  }
  std::erase_if(*candidates, [least = min_p * highest, highest](const Candidate& candidate) {
    return candidate.probability < least && candidate.probability < highest;
  });
}

}  // namespace

void PenalizeRepetition(std::span<const int32_t> seen, double penalty, std::span<float> logits) {
  const auto factor = static_cast<float>(penalty);
  for (const int32_t id : seen) {
    float& logit = logits[static_cast<size_t>(id)];
    logit = logit < 0 ? logit * factor : logit / factor;
  }
}

std::vector<Candidate> Candidates(std::span<const float> logits, const SamplingOptions& options) {
  const auto temperature = static_cast<float>(options.temperature);
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    const float logit = logits[id] / temperature;
    if (std::isinf(logit) && logit < 0) continue;
    candidates.push_back({.id = static_cast<int32_t>(id), .logit = logit});
  }
  if (candidates.empty()) candidates.push_back({.id = MostProbable(logits), .logit = 0});
  KeepTopK(options.top_k, &candidates);
  KeepTopP(options.top_p, &candidates);
  KeepMinP(options.min_p, &candidates);
  Normalise(&candidates);
  return candidates;
}

int32_t Draw(std::span<const Candidate> candidates, double uniform) {
  double sum = 0;
  for (const Candidate& candidate : candidates) {
    sum += candidate.probability;
    if (uniform < sum) return candidate.id;
  }
  // The sum may end a rounding below 1.
  return candidates.back().id;
}

int32_t MostProbable(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double UniformAt(uint64_t seed, int64_t row, int64_t position) {
  constexpr uint64_t kGamma = 0x9E3779B97F4A7C15;
  uint64_t state = MixSampling(seed + kGamma);
  state = MixSampling(state + kGamma * (static_cast<uint64_t>(row) + 1));
  state = MixSampling(state + kGamma * (static_cast<uint64_t>(position) + 1));
  return static_cast<double>(state >> 11) * 0x1p-53;
}

int32_t NextToken(const SamplingOptions& options, std::span<const int32_t> seen, int64_t row,
                  int64_t position, std::span<float> logits) {
  if (options.repetition_penalty != 1) {
    PenalizeRepetition(seen, options.repetition_penalty, logits);
  }
  // Below it logits over the temperature leave what a float holds, and one token has all of the
  // probability.
  constexpr double kLeastTemperature = 1e-6;
  if (options.temperature < kLeastTemperature) return MostProbable(logits);
  return Draw(Candidates(logits, options), UniformAt(options.seed, row, position));
}

}  // namespace thaw
