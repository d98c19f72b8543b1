// What a training went through, as one number: equal histories, equal bits of every loss.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace thaw {

// A chain of SHA-256: each entry is hashed with the digest before it, so that a checkpoint needs to
// keep one digest.
class History {
 public:
  // 64 hex digits; empty before the first entry, and if it is not known.
  const std::string& digest() const { return digest_; }
  // Goes on from `digest`, the one after optimizer step `step`. An empty one after the first step,
  // of a checkpoint without it, cannot be gone on from: the history is then not known.
  void GoOnFrom(std::string digest, int64_t step);

  void PhaseBegins(int phase);
  void StepDone(int64_t step, double loss_sum, int64_t loss_units);
  void Evaluated(int64_t step, const std::map<std::string, double>& values);

 private:
  void Add(const std::string& entry);

  std::string digest_;
  bool known_ = true;
};

}  // namespace thaw
