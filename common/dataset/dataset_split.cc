#include "common/dataset/dataset_split.h"

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
  const uint64_t mixed = FinalizeHash(HashTexts(example) + FinalizeHash(seed + 1));
  return static_cast<double>(mixed >> 11) * 0x1p-53 < fraction;
}

}  // namespace thaw
