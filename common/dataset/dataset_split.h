// Splits one dataset into training and validation examples, the same way on every machine and in
// every version.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/dataset/dataset_schema.h"

namespace thaw {

// A stable 64-bit hash of what an example asks: text and pair, or every turn of a conversation that
// is not the assistant's. Label and answer are left out, so that the same text never lies on both
// sides of a split. FNV-1a over text, a 0xFF byte and pair (of each turn: role, 0xFF, content,
// 0xFF), then the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
uint64_t HashTexts(const Example& example);

// Whether the example belongs to the validation side, which gets about `fraction` (0 to 1) of all
// different examples. A pure function of its arguments.
bool InValidationSplit(const Example& example, double fraction, uint64_t seed);

// The same share of every label: of its different texts those with the least hash, as many as the
// fraction of them rounded, but at least one and at least one less than all. Rows that are added
// move others over only as far as the number changes and their hashes are smaller. A text that
// occurs with several labels lies on one side. Give it all examples, then Choose, then ask.
class StratifiedSplit {
 public:
  StratifiedSplit(double fraction, uint64_t seed) : fraction_(fraction), seed_(seed) {}

  void Add(const Example& example);
  void Choose();
  bool InValidation(const Example& example) const;

 private:
  const double fraction_;
  const uint64_t seed_;
  std::unordered_map<std::string, std::vector<uint64_t>> hashes_;  // by label
  std::unordered_set<uint64_t> chosen_;
};

}  // namespace thaw
