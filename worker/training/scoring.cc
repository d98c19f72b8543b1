#include "worker/training/scoring.h"

#include <algorithm>
#include <numeric>

#include "worker/model/ops.h"
#include "worker/training/inference.h"

namespace thaw {
namespace {

int64_t TokensOf(const ScoredRow& row) {
  return static_cast<int64_t>(row.source.size() + row.ids.size());
}

// A batch under construction, and which of its states tell of which tokens.
struct ScoringBatch {
  std::vector<int64_t> sources, ids, states, labels;
  std::vector<int32_t> source_bounds = {0}, bounds = {0};

  void Add(const ScoredRow& row, int32_t decoder_start) {
    sources.insert(sources.end(), row.source.begin(), row.source.end());
    source_bounds.push_back(static_cast<int32_t>(sources.size()));
    // Token i is told of by the row of what comes before it; a decoder reads one token more.
    const auto begin = static_cast<int64_t>(ids.size());
    const int64_t shift = decoder_start >= 0 ? 0 : 1;
    if (decoder_start >= 0) ids.push_back(decoder_start);
    // What follows the last token is not asked for.
    ids.insert(ids.end(), row.ids.begin(), row.ids.end() - 1);
    bounds.push_back(static_cast<int32_t>(ids.size()));
    for (auto i = static_cast<size_t>(row.Begin()); i < row.ids.size(); ++i) {
      states.push_back(begin + static_cast<int64_t>(i) - shift);
      labels.push_back(row.ids[i]);
    }
  }
};

torch::Tensor LogProbabilities(Model* model, const ScoringBatch& batch, int32_t decoder_start) {
  Packed packed;
  if (decoder_start >= 0) {
    packed.token_ids = IdTensor(batch.sources);
    packed.cu_seqlens = batch.source_bounds;
    packed.target_ids = IdTensor(batch.ids);
    packed.target_bounds = batch.bounds;
  } else {
    packed.token_ids = IdTensor(batch.ids);
    packed.cu_seqlens = batch.bounds;
  }
  const torch::NoGradGuard no_gradients;
  const Rows rows = Infer(model, packed, RunContext());
  const torch::Tensor states = model->OutputStates(rows, IdTensor(batch.states), RunContext());
  const OutputLayer output = model->output_layer();
  return LinearLogProbabilities(states.is_cpu() ? Path::kKernels : Path::kReference, states,
                                output.weight, output.bias, IdTensor(batch.labels), output.half)
      .cpu();
}

}  // namespace

int64_t ScoredRow::scored() const {
  return std::max<int64_t>(static_cast<int64_t>(ids.size()) - Begin(), 0);
}

std::optional<std::vector<std::vector<float>>> Score(
    Model* model, std::span<const ScoredRow> rows, int32_t decoder_start, int64_t tokens_per_batch,
    const std::function<bool(int64_t rows_done)>& go_on) {
  std::vector<size_t> order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return TokensOf(rows[a]) > TokensOf(rows[b]); });
  std::vector<std::vector<float>> result(rows.size());
  for (size_t begin = 0; begin < order.size();) {
    if (!go_on(static_cast<int64_t>(begin))) return std::nullopt;
    ScoringBatch batch;
    size_t end = begin;
    for (int64_t tokens = 0; end < order.size(); ++end) {
      const ScoredRow& row = rows[order[end]];
      tokens += TokensOf(row);
      if (end > begin && tokens > tokens_per_batch) break;
      if (row.scored() > 0) batch.Add(row, decoder_start);
    }
    if (!batch.labels.empty()) {
      const torch::Tensor values = LogProbabilities(model, batch, decoder_start);
      const auto* next = values.const_data_ptr<float>();
      for (size_t i = begin; i < end; ++i) {
        const auto count = static_cast<std::ptrdiff_t>(rows[order[i]].scored());
        result[order[i]].assign(next, next + count);
        next += count;
      }
    }
    begin = end;
  }
  return result;
}

}  // namespace thaw
