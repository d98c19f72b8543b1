// See amx_attention_impl.h.
#pragma once

#include "worker/kernels/amx_attention_impl.h"
#include "worker/kernels/attention_backward_impl.h"

namespace thaw {
namespace {

constexpr int64_t kTileKeySteps = 8;  // of a block, of 32 keys each

// Two strips of scores and of gradients of the dropped-out weights, keys [first, end): weights and
// the scores' gradients as left tiles, and the gradients in pairs as well.
struct TwoStrips {
  const float *scores, *d_weights;
  int64_t strip;  // of both, in floats
  Bf16 *weights, *d_scores;
  int64_t row;  // from a row of their tiles to the next
  Bf16* d_pairs;
  int64_t pairs_strip;
};
THAW_INLINE void SoftmaxBackwardStrips(const AttentionShape& shape, const TwoStrips& at,
                                       int64_t query, int64_t head, int64_t first, int64_t end,
                                       const float* log_sums, const float* inner) {
  const float scale = shape.scale * kLog2E;
  const Floats shifts[2] = {Load(log_sums), Load(log_sums + 16)};
  const Floats inners[2] = {Load(inner), Load(inner + 16)};
  uint16_t kept[2][kDropoutBlock];
  const bool drops = shape.dropout.active();
  for (int64_t j = first; j < end; j += 2) {
    const int64_t column = j % kDropoutBlock;
    if (drops && (j == first || column == 0)) {
      for (int s = 0; s < 2; ++s) {
        DropoutMasks(shape.dropout, query + 16 * s, head, j / kDropoutBlock, kept[s]);
      }
    }
    const int64_t row = j - first;
    if (row % 16 == 0) KeepTilesAwake();
    Floats p[2][2], d[2][2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 2
      for (int s = 0; s < 2; ++s) {
        const int64_t offset = s * at.strip + (row + i) * 16;
        p[i][s] = Exp2(Load(at.scores + offset) * scale - shifts[s]);
        Floats above = Load(at.d_weights + offset);
        if (drops) above = KeptOnly(kept[s][column + i], above * shape.dropout.scale);
        d[i][s] = p[i][s] * (above - inners[s]);
        if (drops) p[i][s] = KeptOnly(kept[s][column + i], p[i][s]);
      }
      const int64_t to = row / 16 * at.row + (row % 16 + i) * 32;
      const auto both = [](const Floats(&x)[2]) {
        return reinterpret_cast<__m512i>(
            _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(x[1]), reinterpret_cast<__m512>(x[0])));
      };
      _mm512_store_si512(at.weights + to, both(p[i]));
      _mm512_store_si512(at.d_scores + to, both(d[i]));
    }
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s) {
      _mm512_store_si512(at.d_pairs + s * at.pairs_strip + row * 16, Pairs(d[0][s], d[1][s]));
    }
  }
}

// The inner product of two rows.
THAW_INLINE float RowProduct(int64_t n, const Bf16* a, const Bf16* b) {
  __m512 sum = {};
  for (int64_t c = 0; c < n; c += 32) {
    sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(LoadTileRow(a, c, n)),
                           reinterpret_cast<__m512bh>(LoadTileRow(b, c, n)));
  }
  return SumOf(reinterpret_cast<Floats>(sum));
}

void AttendTaskBackwardByTiles(const AttentionShape& shape, int64_t index, const Bf16* q,
                               const Bf16* k, const Bf16* v, const Bf16* out, const float* log_sums,
                               const Bf16* d_out, Bf16* d_q, Bf16* d_k, Bf16* d_v) {
  const AttentionTask task(shape, index);
  const int64_t key_steps = TilesOf(task.keys, 32), dim_steps = TilesOf(task.dim, 32);
  const int64_t dim_tiles = TilesOf(task.dim, 16);
  const int64_t block_steps = Smaller(key_steps, kTileKeySteps);
  const int64_t most_steps = Smaller(TilesOf(task.queries, 32), kTileQueries / 32);
  const int64_t all_keys = 2 * key_steps * dim_steps * kTile;
  const int64_t all_sums = 2 * dim_steps * key_steps * kTile;
  const int64_t all_queries = 2 * most_steps * dim_steps * kTile;
  const int64_t block = 2 * most_steps * block_steps * kTile;
  ScratchParts parts;
  const size_t keys_at = parts.Add<Bf16>(all_keys), values_at = parts.Add<Bf16>(all_keys);
  const size_t keys_t_at = parts.Add<Bf16>(all_keys);
  const size_t d_keys_at = parts.Add<float>(all_sums), d_values_at = parts.Add<float>(all_sums);
  const size_t queries_t_at = parts.Add<Bf16>(all_queries);
  const size_t above_t_at = parts.Add<Bf16>(all_queries);
  const size_t queries_at = parts.Add<Bf16>(all_queries), above_at = parts.Add<Bf16>(all_queries);
  const size_t scores_at = parts.Add<float>(block), d_weights_at = parts.Add<float>(block);
  const size_t weights_at = parts.Add<Bf16>(block), d_scores_at = parts.Add<Bf16>(block);
  const size_t d_pairs_at = parts.Add<Bf16>(block);
  const size_t d_queries_at = parts.Add<float>(2 * most_steps * dim_tiles * kSumTile);
  parts.Allocate();
  Bf16 *const keys = parts.At<Bf16>(keys_at), *const values = parts.At<Bf16>(values_at);
  Bf16* const keys_t = parts.At<Bf16>(keys_t_at);
  Bf16 *const queries_t = parts.At<Bf16>(queries_t_at), *const above_t = parts.At<Bf16>(above_t_at);
  Bf16 *const queries = parts.At<Bf16>(queries_at), *const above = parts.At<Bf16>(above_at);
  float *const scores = parts.At<float>(scores_at), *const d_weights =
                                                        parts.At<float>(d_weights_at);
  Bf16 *const weights = parts.At<Bf16>(weights_at), *const d_scores = parts.At<Bf16>(d_scores_at);
  Bf16* const d_pairs = parts.At<Bf16>(d_pairs_at);
  const SumTiles d_keys = SumStrips(parts.At<float>(d_keys_at), key_steps * kTile);
  const SumTiles d_values = SumStrips(parts.At<float>(d_values_at), key_steps * kTile);
  const SumTiles d_queries = SumStrips(parts.At<float>(d_queries_at), dim_tiles * kSumTile);

  PackLeft(task.keys, task.dim, k + task.kv_offset, shape.kv.row, keys);
  PackLeft(task.keys, task.dim, v + task.kv_offset, shape.kv.row, values);
  PackLeftTransposed(task.keys, task.dim, k + task.kv_offset, shape.kv.row, keys_t);
  std::memset(d_keys.data, 0, static_cast<size_t>(all_sums) * sizeof(float));
  std::memset(d_values.data, 0, static_cast<size_t>(all_sums) * sizeof(float));
  if (task.kv_head + 1 < shape.kv_heads) {
    for (const Bf16* strip : {k, v}) {
      PrefetchStrip(task.keys, task.dim, strip + task.kv_offset + shape.kv.head, shape.kv.row);
    }
  }

  for (int64_t head = task.kv_head * task.group; head < (task.kv_head + 1) * task.group; ++head) {
    const int64_t q_offset = task.q_first * shape.q.row + head * shape.q.head;
    const int64_t out_offset = task.q_first * shape.out.row + head * shape.out.head;
    if (head + 1 < shape.heads) {
      PrefetchStrip(task.queries, task.dim, q + q_offset + shape.q.head, shape.q.row);
      for (const Bf16* strip : {out, d_out}) {
        PrefetchStrip(task.queries, task.dim, strip + out_offset + shape.out.head, shape.out.row);
      }
    }
    for (int64_t first = 0; first < task.queries; first += kTileQueries) {
      const int64_t rows = Smaller(kTileQueries, task.queries - first);
      const int64_t query_steps = TilesOf(rows, 32), strips = 2 * query_steps;
      const Bf16* some_q = q + q_offset + first * shape.q.row;
      const Bf16* some_d = d_out + out_offset + first * shape.out.row;
      PackRightTransposed(rows, task.dim, strips, some_q, shape.q.row, queries_t);
      PackRightTransposed(rows, task.dim, strips, some_d, shape.out.row, above_t);
      PackRight(rows, task.dim, some_q, shape.q.row, queries);
      PackRight(rows, task.dim, some_d, shape.out.row, above);
      float inner[kTileQueries] = {}, shifts[kTileQueries] = {};
      for (int64_t i = 0; i < rows; ++i) {
        inner[i] = RowProduct(task.dim, out + out_offset + (first + i) * shape.out.row,
                              some_d + i * shape.out.row);
        shifts[i] = log_sums[(task.q_first + first + i) * shape.heads + head] * kLog2E;
      }
      const int64_t first_step = SeenKeys(shape, task, first).first / 32;
      const int64_t end_step = TilesOf(SeenKeys(shape, task, first + rows - 1).end, 32);
      for (int64_t step = first_step; step < end_step; step += kTileKeySteps) {
        const int64_t steps = Smaller(kTileKeySteps, end_step - step);
        const int64_t left = 2 * step * dim_steps * kTile, row = query_steps * kTile;
        TileMatmul(2 * steps, strips, dim_steps, {keys + left, dim_steps * kTile},
                   {queries_t, dim_steps * kTile}, SumStrips(scores, steps * kTile), false);
        TileMatmul(2 * steps, strips, dim_steps, {values + left, dim_steps * kTile},
                   {above_t, dim_steps * kTile}, SumStrips(d_weights, steps * kTile), false);
        for (int64_t s = 0; s < strips; s += 2) {
          for (int64_t i : {s, s + 1}) {
            HideUnseen(SeenByStrip(shape, task, first + i * 16), step * 32, step * 32,
                       (step + steps) * 32, scores + i * steps * kTile);
          }
          const int64_t strip = s * steps * kTile, tile = s / 2 * kTile;
          SoftmaxBackwardStrips(shape,
                                {scores + strip, d_weights + strip, steps * kTile, weights + tile,
                                 d_scores + tile, row, d_pairs + strip, steps * kTile},
                                task.q_first + first + s * 16, head, step * 32, (step + steps) * 32,
                                shifts + s * 16, inner + s * 16);
        }
        const int64_t sums = 2 * step * kSumTile;
        TileMatmul(2 * steps, dim_tiles, query_steps, {weights, row}, {above, row},
                   SumStrips(d_values.data + sums, d_values.strip), true);
        TileMatmul(2 * steps, dim_tiles, query_steps, {d_scores, row}, {queries, row},
                   SumStrips(d_keys.data + sums, d_keys.strip), true);
        TileMatmul(dim_tiles, strips, steps, {keys_t + step * kTile, key_steps * kTile},
                   {d_pairs, steps * kTile}, d_queries, step > first_step);
      }
      Bf16* to = d_q + task.q_first * shape.d_q.row + head * shape.d_q.head;
      for (int64_t s = 0; s < TilesOf(rows, 16); ++s) {
        UnpackTransposedStrip(task.dim, Smaller(16, rows - s * 16),
                              d_queries.data + s * d_queries.strip, All(shape.scale),
                              to + (first + s * 16) * shape.d_q.row, shape.d_q.row);
      }
    }
  }
  const int64_t offset = task.k_first * shape.d_kv.row + task.kv_head * shape.d_kv.head;
  UnpackSums(task.keys, task.dim, d_keys, shape.scale, d_k + offset, shape.d_kv.row);
  UnpackSums(task.keys, task.dim, d_values, shape.dropout.scale, d_v + offset, shape.d_kv.row);
}

void AttentionBackwardByTiles(const AttentionShape& shape, ConstElements q, ConstElements k,
                              ConstElements v, ConstElements out, const float* log_sums,
                              ConstElements d_out, Elements d_q, Elements d_k, Elements d_v,
                              float* d_relative_bias) {
  if (!GoesByTiles(shape, q.type)) {
    return AttentionBackward(shape, q, k, v, out, log_sums, d_out, d_q, d_k, d_v, d_relative_bias);
  }
  ParallelForUneven(int64_t{shape.sequences} * shape.kv_heads, [=, &shape](int64_t task) {
    const TileRegisters registers;
    AttendTaskBackwardByTiles(shape, task, As<Bf16>(q), As<Bf16>(k), As<Bf16>(v), As<Bf16>(out),
                              log_sums, As<Bf16>(d_out), As<Bf16>(d_q), As<Bf16>(d_k),
                              As<Bf16>(d_v));
  });
}

}  // namespace
}  // namespace thaw
