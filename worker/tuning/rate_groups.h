// Discriminative learning rates: lower groups learn more slowly (ULMFiT, arXiv 1801.06146, section
// 3.2).
#pragma once

#include <vector>

#include "thaw/v1/job_spec.pb.h"

namespace thaw {

inline constexpr int kMaxRateGroups = 5;

// The rate group, from 0 at the bottom, of each of a model's `groups` groups (embeddings, blocks,
// head). A model of up to five groups has one each. A deeper one has five: the head alone on top,
// the rest cut into four runs of nearly equal length, the longer ones below. With a decay of 2.6
// for each of MiniLM's eight groups the embeddings would train at 1/800 of the head's rate,
// BERT-base's at 1/248,000; this way the lowest groups train at 1/46 in both.
//
// The cut is of the whole model, not of what a phase trains, so that unfreezing a group leaves the
// rates of those above it alone.
std::vector<int> RateGroups(int groups);

// Peak learning rate of each group in `phase`: its learning_rate at the top, divided by
// learning_rate_decay once for every rate group below.
std::vector<double> PeakRates(const v1::Phase& phase, int groups);

}  // namespace thaw
