#include "worker/model/lstm_rows.h"

#include <algorithm>
#include <numeric>

#include "worker/model/packed_rows.h"

namespace thaw {
namespace {

using torch::Tensor;

Tensor IndexTensor(const std::vector<int64_t>& values) {
  return torch::tensor(values, torch::kInt64);
}

// Rows by time step, sequences by falling length within a step: what torch calls a packed sequence.
struct TimeMajor {
  explicit TimeMajor(const std::vector<int32_t>& bounds) {
    const auto length = [&](int64_t s) { return bounds[s + 1] - bounds[s]; };
    order.resize(bounds.size() - 1);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return length(a) > length(b); });
    back.resize(static_cast<size_t>(bounds.back()));
    for (int32_t t = 0; t < length(order[0]); ++t) {
      int64_t alive = 0;
      for (const int64_t s : order) {
        if (length(s) <= t) break;
        back[static_cast<size_t>(bounds[s] + t)] = static_cast<int64_t>(rows.size());
        rows.push_back(bounds[s] + t);
        ++alive;
      }
      batch_sizes.push_back(alive);
    }
  }

  std::vector<int64_t> order;        // sequences, longest first
  std::vector<int64_t> rows;         // of the packed batch
  std::vector<int64_t> back;         // where each of them went
  std::vector<int64_t> batch_sizes;  // sequences alive at each step
};

}  // namespace

Tensor RunLstm(const LstmWeights& weights, const LstmRun& run, const Tensor& x,
               const std::vector<int32_t>& bounds) {
  const TimeMajor time(bounds);
  const int64_t width = run.hidden_weight.size(1);
  const int64_t sequences = static_cast<int64_t>(time.order.size());
  const int64_t steps = static_cast<int64_t>(time.batch_sizes.size());
  const Tensor sorted = GatherRows(x, IndexTensor(time.rows).to(x.device()));
  const Tensor order = IndexTensor(time.order).to(x.device());
  Tensor h, c;  // by `order`
  if (run.state != nullptr && run.state->hidden.defined()) {
    h = run.state->hidden.index_select(0, order);
    c = run.state->cell.index_select(0, order);
  } else {
    h = at::zeros({sequences, width}, x.options());
    c = at::zeros_like(h);
  }
  const std::vector<Tensor> parameters = {weights.input->tensor, run.hidden_weight,
                                          weights.input_bias->tensor, weights.hidden_bias->tensor};
  const int64_t chunk = run.chunk > 0 ? run.chunk : steps;
  std::vector<Tensor> outputs;
  int64_t row = 0;
  for (int64_t step = 0; step < steps; step += chunk) {
    const auto begin = time.batch_sizes.begin() + step;
    const std::vector<int64_t> sizes(begin, begin + std::min(chunk, steps - step));
    const int64_t rows = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    const int64_t alive = sizes.front();
    if (step > 0) {
      h = h.detach();
      c = c.detach();
    }
    const auto [out, last_h, last_c] =
        at::lstm(sorted.narrow(0, row, rows), IndexTensor(sizes),
                 {h.narrow(0, 0, alive).unsqueeze(0), c.narrow(0, 0, alive).unsqueeze(0)},
                 parameters, /*has_biases=*/true, /*num_layers=*/1, /*dropout=*/0.0,
                 /*train=*/false, /*bidirectional=*/false);
    outputs.push_back(out);
    h = at::cat({last_h.squeeze(0), h.slice(0, alive)});
    c = at::cat({last_c.squeeze(0), c.slice(0, alive)});
    row += rows;
  }
  if (run.state != nullptr) {
    std::vector<int64_t> place(time.order.size());
    for (size_t i = 0; i < time.order.size(); ++i) {
      place[static_cast<size_t>(time.order[i])] = static_cast<int64_t>(i);
    }
    const Tensor index = IndexTensor(place).to(x.device());
    run.state->hidden = h.detach().index_select(0, index);
    run.state->cell = c.detach().index_select(0, index);
  }
  return GatherRows(at::cat(outputs), IndexTensor(time.back).to(x.device()));
}

Tensor SequenceDropout(Path path, const Tensor& x, const std::vector<int32_t>& bounds,
                       const DropoutSite& dropout) {
  if (!dropout.active()) return x;
  const int64_t sequences = static_cast<int64_t>(bounds.size()) - 1;
  const Tensor masks = Dropout(path, at::ones({sequences, x.size(1)}, x.options()), dropout);
  std::vector<int64_t> sequence_of;
  for (int64_t s = 0; s < sequences; ++s) {
    sequence_of.insert(sequence_of.end(), static_cast<size_t>(bounds[s + 1] - bounds[s]), s);
  }
  return x * GatherRows(masks, IndexTensor(sequence_of).to(x.device()));
}

Tensor ConcatPool(const Tensor& x, const std::vector<int32_t>& bounds) {
  std::vector<Tensor> largest, mean;
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    const Tensor rows = x.slice(0, bounds[s], bounds[s + 1]);
    largest.push_back(std::get<0>(rows.max(0)));
    mean.push_back(rows.sum(0) / static_cast<double>(rows.size(0)));
  }
  return at::cat({LastRows(x, bounds), at::stack(largest), at::stack(mean)}, 1);
}

Tensor BatchNorm(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                 const Tensor& running_mean, const Tensor& running_variance, bool learns) {
  constexpr double kMomentum = 0.1, kEpsilon = 1e-5;
  if (x.is_cpu()) {
    return std::get<0>(at::native_batch_norm(x, gamma, beta, running_mean, running_variance, learns,
                                             kMomentum, kEpsilon));
  }
  // What the meta device runs.
  Tensor mean = running_mean, variance = running_variance;
  if (learns) {
    const double examples = static_cast<double>(x.size(0));
    mean = x.mean(0);
    variance = (x - mean).square().mean(0);
    running_mean.lerp_(mean.detach(), kMomentum);
    running_variance.lerp_(variance.detach() * (examples / (examples - 1)), kMomentum);
  }
  return (x - mean) * (variance + kEpsilon).rsqrt() * gamma + beta;
}

}  // namespace thaw
