#include "common/dataset/dataset_split.h"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace thaw {
namespace {

constexpr uint64_t kFnvOffset = 0xCBF29CE484222325;
constexpr uint64_t kFnvPrime = 0x100000001B3;

uint64_t Fnv1a(uint64_t hash, std::string_view bytes) {
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * kFnvPrime;
  return hash;
}

uint64_t FinalizeHash(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// Different for every seed.
uint64_t SeededHash(const Example& example, uint64_t seed) {
  return FinalizeHash(HashTexts(example) + FinalizeHash(seed + 1));
}

}  // namespace

uint64_t HashTexts(const Example& example) {
  uint64_t hash = kFnvOffset;
  for (const Turn& turn : example.turns) {
    if (turn.role == "assistant") continue;
    hash = Fnv1a(Fnv1a(hash, turn.role), "\xFF");
    hash = Fnv1a(Fnv1a(hash, turn.content), "\xFF");
  }
  hash = Fnv1a(hash, example.text);
  hash = Fnv1a(hash, "\xFF");  // no byte of UTF-8, so ("ab", "c") is not ("a", "bc")
  return FinalizeHash(Fnv1a(hash, example.text_pair));
}

bool InValidationSplit(const Example& example, double fraction, uint64_t seed) {
  return static_cast<double>(SeededHash(example, seed) >> 11) * 0x1p-53 < fraction;
}

void StratifiedSplit::Add(const Example& example) {
  hashes_[example.label].push_back(SeededHash(example, seed_));
}

void StratifiedSplit::Choose() {
  for (auto& [label, hashes] : hashes_) {
    std::sort(hashes.begin(), hashes.end());
    hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
    const auto all = static_cast<int64_t>(hashes.size());
    const int64_t wanted = std::llround(fraction_ * static_cast<double>(all));
    const int64_t most = all - 1;
    const int64_t taken = std::min(std::max<int64_t>(wanted, 1), most);
    chosen_.insert(hashes.begin(), hashes.begin() + taken);
  }
  hashes_.clear();
}

bool StratifiedSplit::InValidation(const Example& example) const {
  return chosen_.count(SeededHash(example, seed_)) > 0;
}

}  // namespace thaw
