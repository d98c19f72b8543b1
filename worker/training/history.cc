#include "worker/training/history.h"

#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"

namespace thaw {
namespace {

std::string Bits(double value) { return absl::StrCat(absl::Hex(std::bit_cast<uint64_t>(value))); }

}  // namespace

void History::PhaseBegins(int phase) { Add(absl::StrCat("phase ", phase)); }

void History::StepDone(int64_t step, double loss_sum, int64_t loss_units) {
  Add(absl::StrCat("step ", step, " ", Bits(loss_sum), " ", loss_units));
}

void History::Evaluated(int64_t step, const std::map<std::string, double>& values) {
  std::string entry = absl::StrCat("evaluation ", step);
  for (const auto& [name, value] : values) absl::StrAppend(&entry, " ", name, " ", Bits(value));
  Add(entry);
}

void History::GoOnFrom(std::string digest, int64_t step) {
  digest_ = std::move(digest);
  known_ = step == 0 || !digest_.empty();
}

void History::Add(const std::string& entry) {
  if (!known_) return;
  digest_ = Sha256Hex(absl::StrCat(digest_, "\n", entry));
}

}  // namespace thaw
