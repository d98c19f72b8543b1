// Splits one dataset into training and validation examples, the same way on every machine and in
// every version.
#pragma once

#include <cstdint>

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

}  // namespace thaw
