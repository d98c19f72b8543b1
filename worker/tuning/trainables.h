// What a phase trains: views into flat buffers in the place of the model's own tensors, and the
// optimizer over them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "torch/types.h"
#include "worker/model/parameters.h"
#include "worker/tuning/adamw_kernel.h"

namespace thaw {

// Adam's moments of one tensor, in its shape, and how many updates they hold.
struct Moments {
  torch::Tensor first;
  torch::Tensor second;
  int64_t updates = 0;
};
using MomentsByName = std::map<std::string, Moments>;

// L2 norms, of the gradients of one optimizer step or of what it changed.
struct Norms {
  double all = 0;
  std::map<int, double> groups;  // of each group that trains, by its index in the model
};

// Parameters, gradients and both moments lie in four flat fp32 buffers, each tensor in a segment
// padded to 64 bytes, and what matrices round to (Parameter::half) in a fifth one, which every
// update writes anew. Biases and norms (tensors of less than two dimensions) are never decayed.
//
// Owns nothing of the model but replaces its tensors: after Create the named ones are leaves that
// require grad, and their .grad is preset to a view of the gradient buffer into which autograd
// adds. Not thread-safe. CPU, fp32.
class Trainables {
 public:
  // Takes the named parameters over, with their present values and each at its peak rate. Tensors
  // with an entry in `moments` go on from it, the others start fresh. NOT_FOUND for an unknown
  // name, INVALID_ARGUMENT for a tensor that is not fp32 on the CPU. `parameters` must outlive
  // this.
  static absl::StatusOr<std::unique_ptr<Trainables>> Create(Parameters* parameters,
                                                            const std::vector<std::string>& names,
                                                            const std::vector<double>& rates,
                                                            const MomentsByName& moments);

  // The model keeps the present values, which no longer require grad. Nothing else may be called
  // after it; once this is gone, so is the memory of gradients and moments.
  void Release();

  // Views; valid while this lives.
  MomentsByName moments() const;
  std::vector<std::string> names() const;

  // INTERNAL, naming the parameter, if the model reads a tensor that requires grad and is not in
  // these buffers, or autograd has put a gradient elsewhere: an update would pass it by.
  absl::Status CheckComplete() const;

  // Of the gradients; summed in a fixed order, whatever the number of threads.
  Norms GradientNorms() const;

  // One update of every segment at `rate_share` of its rate, which sets the gradients to 0. Of
  // `options` learning_rate and update are not read, and weight_decay only where it applies. Gives
  // back the norms of what has changed, summed likewise.
  Norms Update(double rate_share, const AdamWStep& options);

 private:
  struct Segment {
    const Parameter* parameter;
    int64_t offset;  // in numbers
    int64_t count;   // without padding
    double rate;
    bool decayed;
    int64_t updates;
    int64_t half_offset;  // into halves_; -1: it does not round
  };

  // A piece of one segment.
  struct Chunk {
    size_t segment;
    int64_t offset;
    int64_t count;
  };

  explicit Trainables(Parameters* parameters) : parameters_(parameters) {}
  // The roots of the chunks' sums, by group and of all.
  Norms RootsOf(const std::vector<double>& sums) const;
  torch::Tensor View(const torch::Tensor& buffer, const Segment& segment) const;

  Parameters* const parameters_;
  std::vector<Segment> segments_;
  std::vector<Chunk> chunks_;  // all segments in pieces for the threads, in order
  int64_t size_ = 0;           // numbers in each buffer, padding included
  torch::Tensor values_, gradients_, first_, second_;
  torch::Tensor halves_;  // bf16; undefined where nothing rounds
};

}  // namespace thaw
