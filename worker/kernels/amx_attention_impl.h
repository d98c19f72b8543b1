// Attention on rows in bf16 by AMX; softmax and sums in fp32. As in attention_impl.h a task is one
// key head of one sequence. Scores are computed transposed, keys by queries: then 16 queries lie in
// a vector, the softmax runs down the keys without a step across lanes, and two neighbouring rows
// of weights are pairs as the next product wants them. See simd.h for how this is included.
#pragma once

#include "worker/kernels/amx_tiles_impl.h"
#include "worker/kernels/attention_impl.h"
#include "worker/kernels/random_impl.h"

namespace thaw {
namespace {

constexpr int64_t kTileQueries = 64;  // of a block
constexpr int64_t kTileStrips = kTileQueries / 16;
constexpr float kLog2E = 1.44269504f;

// 2^x to 1e-7, 0 far below; NaN of NaN.
THAW_INLINE Floats Exp2(Floats x) {
  const __m512 all = reinterpret_cast<__m512>(x);
  const __m512 n = _mm512_roundscale_ps(all, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Floats r = x - reinterpret_cast<Floats>(n);
  Floats p = r * 0.0013276472f + 0.00967554133f;
  p = p * r + 0.0555071327f;
  p = p * r + 0.240221197f;
  p = p * r + 0.693146967f;
  p = p * r + 1.00000007f;
  return reinterpret_cast<Floats>(_mm512_scalef_ps(reinterpret_cast<__m512>(p), n));
}

// The numbers of `first` and `second` in pairs, rounded.
THAW_INLINE __m512i Pairs(Floats first, Floats second) {
  const Words low = reinterpret_cast<Words>(first) + 0x8000u;
  const Words high = reinterpret_cast<Words>(second) + 0x8000u;
  return reinterpret_cast<__m512i>((low >> 16) | (high & 0xffff0000u));
}

// What each of a strip's 16 queries sees: keys [first, end).
struct StripRange {
  Ints first, end;
  int64_t all_first, all_end;  // what all of them see
};
THAW_INLINE StripRange SeenByStrip(const AttentionShape& shape, const AttentionTask& task,
                                   int64_t query) {
  Ints position;
  for (int i = 0; i < 16; ++i) {
    position[i] = static_cast<int32_t>(query + i + task.keys - task.queries);
  }
  const int32_t keys = static_cast<int32_t>(task.keys);
  StripRange seen = {Ints{}, Ints{} + keys, 0, task.keys};
  if (shape.causal) {
    seen.end = position < keys ? position + 1 : Ints{} + keys;
    seen.all_end = seen.end[0];
  }
  if (shape.window > 0) {
    const Ints first = position - static_cast<int32_t>(shape.window - 1);
    seen.first = first > 0 ? first : Ints{};
    seen.all_first = seen.first[15];
  }
  return seen;
}

// Scores of the keys [first, end) that some of the strip's queries do not see become kUnseen there.
// Row 0 of `scores` is key `base`.
THAW_INLINE void HideUnseen(const StripRange& seen, int64_t base, int64_t first, int64_t end,
                            float* scores) {
  const auto hide = [&](int64_t begin, int64_t limit) {
    for (int64_t j = begin; j < limit; ++j) {
      const int32_t key = static_cast<int32_t>(j);
      float* row = scores + (j - base) * 16;
      Store(row, (seen.first <= key) & (seen.end > key) ? Load(row) : All(kUnseen));
    }
  };
  const int64_t until = Smaller(seen.all_first, end);
  hide(first, until);
  const int64_t from = seen.all_end < until ? until : seen.all_end;
  hide(from < first ? first : from, end);
}

// kept[j]: bit i is set where column j of 128 columns of `block` is kept for query `query` + i. As
// in dropout.h.
void DropoutMasks(const DropoutSite& site, int64_t query, int64_t head, int64_t block,
                  uint16_t* kept) {
  Words rows;
  for (int i = 0; i < 16; ++i) rows[i] = static_cast<uint32_t>(query + i);
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(site.threshold));
  for (int64_t c = 0; c < 16; ++c) {
    Words words[4];
    Philox(site, Words{} + static_cast<uint32_t>(block * 16 + c), rows,
           Words{} + static_cast<uint32_t>(head), words);
#pragma GCC unroll 4
    for (int64_t w = 0; w < 4; ++w) {
      kept[w * 16 + c] =
          _mm512_cmpge_epu32_mask(reinterpret_cast<__m512i>(words[w] & 0xffffu), limit);
      kept[64 + w * 16 + c] =
          _mm512_cmpge_epu32_mask(reinterpret_cast<__m512i>(words[w] >> 16), limit);
    }
  }
}
THAW_INLINE Floats KeptOnly(uint16_t kept, Floats x) {
  return reinterpret_cast<Floats>(_mm512_maskz_mov_ps(kept, reinterpret_cast<__m512>(x)));
}

// body(j, end, kept) over [first, end) in parts that one block of dropout's columns covers, kept
// [j - first of the block] being the masks of key j; null without dropout.
template <typename Body>
THAW_INLINE void OverDropoutBlocks(const AttentionShape& shape, int64_t query, int64_t head,
                                   int64_t first, int64_t end, Body body) {
  if (!shape.dropout.active()) return body(first, end, static_cast<const uint16_t*>(nullptr));
  uint16_t kept[kDropoutBlock];
  for (int64_t j = first; j < end;) {
    const int64_t block = j / kDropoutBlock;
    const int64_t limit = Smaller((block + 1) * kDropoutBlock, end);
    DropoutMasks(shape.dropout, query, head, block, kept);
    body(j, limit, static_cast<const uint16_t*>(kept + j - block * kDropoutBlock));
    j = limit;
  }
}

// Of the scores of a strip, keys [first, end), which begin on a step of 32: the dropped-out weights
// before they are divided by their sum, in pairs, and that sum and the largest score.
struct StripSums {
  Floats sum, largest;
};
THAW_INLINE StripSums SoftmaxStrip(const AttentionShape& shape, const AttentionTask& task,
                                   int64_t head, int64_t query, int64_t first, int64_t end,
                                   float* scores, Bf16* weights) {
  HideUnseen(SeenByStrip(shape, task, query), first, first, end, scores);
  const int64_t n = end - first;
  Floats tops[4] = {All(kUnseen), All(kUnseen), All(kUnseen), All(kUnseen)};
  for (int64_t j = 0; j < n; j += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) tops[i] = Larger(tops[i], Load(scores + (j + i) * 16));
  }
  const Floats largest = Larger(Larger(tops[0], tops[1]), Larger(tops[2], tops[3]));
  const float scale = shape.scale * kLog2E;
  const Floats shift = largest * scale;
  Floats sums[2] = {};
  OverDropoutBlocks(shape, task.q_first + query, head, first, end,
                    [&](int64_t begin, int64_t limit, const uint16_t* kept) {
                      for (int64_t j = begin - first; j < limit - first; j += 2) {
                        if (j % 64 == 0) KeepTilesAwake();
                        Floats a = Exp2(Load(scores + j * 16) * scale - shift);
                        Floats b = Exp2(Load(scores + j * 16 + 16) * scale - shift);
                        sums[0] += a;
                        sums[1] += b;
                        if (kept != nullptr) {
                          a = KeptOnly(kept[0], a);
                          b = KeptOnly(kept[1], b);
                          kept += 2;
                        }
                        _mm512_store_si512(weights + j * 16, Pairs(a, b));
                      }
                    });
  return {sums[0] + sums[1], largest};
}

// Scratch memory in parts, each a whole number of cache lines.
class ScratchParts {
 public:
  template <typename T>
  size_t Add(int64_t n) {
    const size_t offset = floats_;
    floats_ += (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 16;
    return offset;
  }
  void Allocate() { memory_ = ThreadScratch(floats_); }
  template <typename T>
  T* At(size_t offset) const {
    return reinterpret_cast<T*>(memory_ + offset);
  }

 private:
  size_t floats_ = 0;
  float* memory_ = nullptr;
};

void AttendTaskByTiles(const AttentionShape& shape, int64_t index, const Bf16* q, const Bf16* k,
                       const Bf16* v, Bf16* out, float* log_sums) {
  const AttentionTask task(shape, index);
  if (task.queries == 0) return;
  const int64_t key_steps = TilesOf(task.keys, 32), dim_steps = TilesOf(task.dim, 32);
  const int64_t dim_tiles = TilesOf(task.dim, 16);
  ScratchParts parts;
  const size_t keys_at = parts.Add<Bf16>(2 * key_steps * dim_steps * kTile);
  const size_t values_at = parts.Add<Bf16>(2 * dim_steps * key_steps * kTile);
  const size_t queries_at = parts.Add<Bf16>(kTileStrips * dim_steps * kTile);
  const size_t scores_at = parts.Add<float>(kTileStrips * key_steps * kTile);
  const size_t weights_at = parts.Add<Bf16>(kTileStrips * key_steps * kTile);
  const size_t results_at = parts.Add<float>(kTileStrips * dim_tiles * kSumTile);
  parts.Allocate();
  Bf16 *const keys = parts.At<Bf16>(keys_at), *const values_t = parts.At<Bf16>(values_at);
  Bf16 *const queries = parts.At<Bf16>(queries_at), *const weights = parts.At<Bf16>(weights_at);
  float *const scores = parts.At<float>(scores_at), *const results = parts.At<float>(results_at);
  PackLeft(task.keys, task.dim, k + task.kv_offset, shape.kv.row, keys);
  PackLeftTransposed(task.keys, task.dim, v + task.kv_offset, shape.kv.row, values_t);
  if (task.kv_head + 1 < shape.kv_heads) {
    for (const Bf16* strip : {k, v}) {
      PrefetchStrip(task.keys, task.dim, strip + task.kv_offset + shape.kv.head, shape.kv.row);
    }
  }

  for (int64_t head = task.kv_head * task.group; head < (task.kv_head + 1) * task.group; ++head) {
    const Bf16* head_q = q + task.q_first * shape.q.row + head * shape.q.head;
    Bf16* head_out = out + task.q_first * shape.out.row + head * shape.out.head;
    if (head + 1 < shape.heads) {
      PrefetchStrip(task.queries, task.dim, head_q + shape.q.head, shape.q.row);
    }
    for (int64_t first = 0; first < task.queries; first += kTileQueries) {
      const int64_t rows = Smaller(kTileQueries, task.queries - first), strips = TilesOf(rows, 16);
      const int64_t step = SeenKeys(shape, task, first).first / 32;
      const int64_t steps = TilesOf(SeenKeys(shape, task, first + rows - 1).end, 32) - step;
      PackRightTransposed(rows, task.dim, strips, head_q + first * shape.q.row, shape.q.row,
                          queries);
      TileMatmul(2 * steps, strips, dim_steps,
                 {keys + 2 * step * dim_steps * kTile, dim_steps * kTile},
                 {queries, dim_steps * kTile}, SumStrips(scores, steps * kTile), false);
      StripSums sums[kTileStrips];
      for (int64_t s = 0; s < strips; ++s) {
        sums[s] = SoftmaxStrip(shape, task, head, first + s * 16, step * 32, (step + steps) * 32,
                               scores + s * steps * kTile, weights + s * steps * kTile);
      }
      TileMatmul(dim_tiles, strips, steps, {values_t + step * kTile, key_steps * kTile},
                 {weights, steps * kTile}, SumStrips(results, dim_tiles * kSumTile), false);
      for (int64_t s = 0; s < strips; ++s) {
        const int64_t row = first + s * 16, columns = Smaller(16, rows - s * 16);
        UnpackTransposedStrip(task.dim, columns, results + s * dim_tiles * kSumTile,
                              shape.dropout.scale / sums[s].sum, head_out + row * shape.out.row,
                              shape.out.row);
        for (int64_t i = 0; i < columns; ++i) {
          log_sums[(task.q_first + row + i) * shape.heads + head] =
              sums[s].largest[i] * shape.scale + __builtin_logf(sums[s].sum[i]);
        }
      }
    }
  }
}

// What tiles do not serve goes the way of fp32.
THAW_INLINE bool GoesByTiles(const AttentionShape& shape, RowType type) {
  return type == RowType::kBf16 && shape.relative_bias == nullptr && shape.scale > 0;
}

void AttentionForwardByTiles(const AttentionShape& shape, ConstElements q, ConstElements k,
                             ConstElements v, Elements out, float* log_sums) {
  if (!GoesByTiles(shape, q.type)) return AttentionForward(shape, q, k, v, out, log_sums);
  ParallelForUneven(int64_t{shape.sequences} * shape.kv_heads, [=, &shape](int64_t task) {
    const TileRegisters registers;
    AttendTaskByTiles(shape, task, As<Bf16>(q), As<Bf16>(k), As<Bf16>(v), As<Bf16>(out), log_sums);
  });
}

}  // namespace
}  // namespace thaw
