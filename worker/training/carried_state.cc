#include "worker/training/carried_state.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace thaw {
namespace {

constexpr std::pair<const char*, torch::Tensor BlockState::*> kCarriedParts[] = {
    {"hidden", &BlockState::hidden}, {"cell", &BlockState::cell}};

std::string CarriedName(size_t block, const char* part) {
  return absl::StrCat("block.", block, ".", part);
}

}  // namespace

void CarriedState::Reset() {
  now_.assign(now_.size(), BlockState());
  next_ = now_;
  put_ = 0;
}

SequenceState CarriedState::NextLanes(int64_t lanes) const {
  SequenceState state(static_cast<int>(now_.size()), lanes);
  for (size_t block = 0; block < now_.size(); ++block) {
    for (const auto& [name, part] : kCarriedParts) {
      const torch::Tensor& all = now_[block].*part;
      if (all.defined()) state.block(static_cast<int>(block)).*part = all.narrow(0, put_, lanes);
    }
  }
  return state;
}

void CarriedState::Put(SequenceState state) {
  for (size_t block = 0; block < now_.size(); ++block) {
    for (const auto& [name, part] : kCarriedParts) {
      const torch::Tensor& lanes = state.block(static_cast<int>(block)).*part;
      torch::Tensor& all = next_[block].*part;
      all = all.defined() ? at::cat({all, lanes}) : lanes;
    }
  }
  put_ += state.sequences();
}

void CarriedState::StepDone() {
  now_ = std::exchange(next_, std::vector<BlockState>(now_.size()));
  put_ = 0;
}

TensorsByName CarriedState::tensors() const {
  TensorsByName tensors;
  for (size_t block = 0; block < now_.size(); ++block) {
    for (const auto& [name, part] : kCarriedParts) {
      const torch::Tensor& all = now_[block].*part;
      if (all.defined()) tensors[CarriedName(block, name)] = all.contiguous();
    }
  }
  return tensors;
}

absl::Status CarriedState::SetTensors(const TensorsByName& tensors, int64_t lanes) {
  Reset();
  for (size_t block = 0; block < now_.size(); ++block) {
    for (const auto& [name, part] : kCarriedParts) {
      const auto found = tensors.find(CarriedName(block, name));
      if (found == tensors.end() || found->second.dim() != 2 || found->second.size(0) != lanes) {
        return absl::InvalidArgumentError(
            absl::StrCat("the checkpoint has no ", CarriedName(block, name), " of ", lanes,
                         " lanes, so the texts cannot be read on from it: run the job anew"));
      }
      now_[block].*part = found->second;
    }
  }
  return absl::OkStatus();
}

}  // namespace thaw
