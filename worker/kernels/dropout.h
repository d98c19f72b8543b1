// Dropout as a pure function of its place: Philox 4x32-10 (Salmon et al., "Parallel random numbers:
// as easy as 1, 2, 3", SC 2011) with the site as key and the element as counter. No state, so a
// mask is drawn again in the backward pass instead of being kept, and neither threads nor the order
// of work change it.
#pragma once

#include <cstdint>

namespace thaw {

// One dropout site in one micro-step. Element (row, column, plane) of a matrix, where `plane` is
// the head in attention and 0 elsewhere, is dropped if its 16 random bits are below `threshold`,
// and multiplied by `scale` otherwise. Philox with key (key[0], key[1]) and
//   counter = (column / 128 * 16 + column % 16, row, plane, 0)
// gives four words; the element's bits are the low half of word column % 64 / 16 where column % 128
// is below 64, else the high half.
struct DropoutSite {
  uint32_t key[2] = {0, 0};
  uint32_t threshold = 0;  // 65536 times the probability; 0: dropout is off
  float scale = 1;         // 1 / (1 - threshold / 65536)

  bool active() const { return threshold != 0; }
};

// `probability` in [0, 1), rounded to a multiple of 2^-16. `site` numbers the places in the model.
DropoutSite MakeDropoutSite(uint64_t seed, uint64_t step, uint32_t micro_step, uint32_t site,
                            double probability);

// What element (row, column, plane) is multiplied by, one at a time: 0 or scale; 1 when off.
float DropoutFactor(const DropoutSite& site, uint32_t row, uint32_t plane, uint32_t column);

}  // namespace thaw
