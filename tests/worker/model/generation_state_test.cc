// RunContext::state: sequences that come in pieces, are dropped and doubled, give what they give as
// a whole; greedy decoding gives what transformers generates.
#include <algorithm>
#include <numeric>

#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

using torch::Tensor;
using Tokens = std::vector<int64_t>;

constexpr const char* kFixtures[] = {"gpt2",   "gpt2-scaled",     "bloom-4heads",    "bloom-5heads",
                                     "llama",  "llama-tied-bias", "llama-rope-yarn", "mistral",
                                     "qwen2",  "qwen2-window",    "qwen3",           "t5",
                                     "t5-v1.1"};

// The same numbers come out of matrices of other shapes: their sums are rounded differently.
constexpr double kTolerance = 2e-5;

class GenerationState : public ::testing::TestWithParam<std::tuple<const char*, bool>> {
 protected:
  GenerationState() : fixture_(std::get<0>(GetParam()), std::nullopt), model_(*fixture_.model) {}

  bool reference() const { return std::get<1>(GetParam()); }
  bool encodes() const { return model_.config().encoder_decoder; }

  // What each sequence generates from: the tokens, or the target's.
  std::vector<Tokens> Sequences(const Packed& batch) const {
    const Tensor& ids = encodes() ? batch.target_ids : batch.token_ids;
    const std::vector<int32_t>& bounds = encodes() ? batch.target_bounds : batch.cu_seqlens;
    std::vector<Tokens> sequences;
    for (size_t s = 0; s + 1 < bounds.size(); ++s) {
      const int64_t* const id = ids.const_data_ptr<int64_t>();
      sequences.emplace_back(id + bounds[s], id + bounds[s + 1]);
    }
    return sequences;
  }

  // Logits of these pieces, one a sequence. The first call of a sequence to sequence model gets
  // `encoder`'s sequences too, the others nullptr.
  std::vector<Tensor> Feed(const std::vector<Tokens>& pieces, const Packed* encoder,
                           SequenceState* state) {
    std::vector<int32_t> bounds = {0};
    Tokens all;
    for (const Tokens& piece : pieces) {
      all.insert(all.end(), piece.begin(), piece.end());
      bounds.push_back(static_cast<int32_t>(all.size()));
    }
    Packed packed;
    if (encodes()) {
      if (encoder != nullptr) {
        packed.token_ids = encoder->token_ids;
        packed.cu_seqlens = encoder->cu_seqlens;
      }
      packed.target_ids = torch::tensor(all, torch::kInt64);
      packed.target_bounds = bounds;
    } else {
      packed.token_ids = torch::tensor(all, torch::kInt64);
      packed.cu_seqlens = bounds;
    }
    const RunContext context{.reference = reference(), .state = state};
    const torch::NoGradGuard no_grad;
    Rows rows = model_.Embed(packed, context);
    for (int i = encoder == nullptr ? model_.first_decoder_block() : 0; i < model_.blocks(); ++i) {
      rows = model_.Block(i, rows, context);
    }
    const OutputLayer output = model_.output_layer();
    const Tensor logits =
        at::linear(model_.OutputStates(rows, Tensor(), context), output.weight, output.bias);
    state->Advance(bounds);
    std::vector<Tensor> results;
    for (size_t s = 0; s < pieces.size(); ++s) {
      results.push_back(logits.slice(0, bounds[s], bounds[s + 1]));
    }
    return results;
  }

  ModelFixture fixture_;
  Model& model_;
};

TEST_P(GenerationState, PiecesGiveWhatTheWholeGives) {
  const Packed batch = fixture_.Batch(0).packed;
  const std::vector<Tokens> sequences = Sequences(batch);
  const torch::NoGradGuard no_grad;
  const Tensor whole = LogitsOf(model_, batch, {.reference = reference()});
  std::vector<std::vector<Tensor>> found(sequences.size());

  SequenceState state(model_.blocks(), static_cast<int64_t>(sequences.size()));
  std::vector<size_t> alive(sequences.size()), done(sequences.size(), 0);
  std::iota(alive.begin(), alive.end(), size_t{0});
  const int sizes[] = {5, 1, 1, 3, 2, 7};
  for (size_t call = 0; !alive.empty(); ++call) {
    std::vector<Tokens> pieces;
    for (const size_t s : alive) {
      // Every sequence has a step of its own.
      const auto size = static_cast<size_t>(sizes[call == 0 ? 0 : (call + s) % std::size(sizes)]);
      const size_t end = std::min(sequences[s].size(), done[s] + size);
      pieces.emplace_back(sequences[s].begin() + static_cast<int64_t>(done[s]),
                          sequences[s].begin() + static_cast<int64_t>(end));
      done[s] = end;
    }
    const std::vector<Tensor> logits = Feed(pieces, call == 0 ? &batch : nullptr, &state);
    std::vector<size_t> still;
    std::vector<int64_t> kept;
    for (size_t i = 0; i < alive.size(); ++i) {
      found[alive[i]].push_back(logits[i]);
      if (done[alive[i]] == sequences[alive[i]].size()) continue;
      still.push_back(alive[i]);
      kept.push_back(static_cast<int64_t>(i));
    }
    // Those that have ended leave: their places are taken by the next.
    if (kept.size() < alive.size()) state.Keep(kept);
    alive = still;
  }
  std::vector<Tensor> joined;
  for (const auto& parts : found) joined.push_back(at::cat(parts));
  EXPECT_LT(MaxDifference(at::cat(joined), whole), kTolerance);
}

TEST_P(GenerationState, DoubledSequencesGoTheirOwnWays) {
  const Packed batch = fixture_.Batch(0).packed;
  std::vector<Tokens> sequences = Sequences(batch);
  SequenceState state(model_.blocks(), static_cast<int64_t>(sequences.size()));
  std::vector<Tokens> begun;
  for (const Tokens& sequence : sequences)
    begun.emplace_back(sequence.begin(), sequence.begin() + 2);
  Feed(begun, &batch, &state);
  const std::vector<int64_t> order = {2, 0, 2, 2};
  state.Keep(order);
  std::vector<Tokens> ends, whole;
  for (size_t i = 0; i < order.size(); ++i) {
    ends.push_back({static_cast<int64_t>(10 + i), static_cast<int64_t>(20 + 3 * i), 7});
    whole.push_back(begun[static_cast<size_t>(order[i])]);
    whole.back().insert(whole.back().end(), ends.back().begin(), ends.back().end());
  }
  const std::vector<Tensor> pieces = Feed(ends, nullptr, &state);

  Packed encoder;  // the encoder's sequences in the new order
  if (encodes()) {
    std::vector<Tensor> ids;
    encoder.cu_seqlens = {0};
    for (const int64_t s : order) {
      const auto i = static_cast<size_t>(s);
      ids.push_back(batch.token_ids.slice(0, batch.cu_seqlens[i], batch.cu_seqlens[i + 1]));
      encoder.cu_seqlens.push_back(encoder.cu_seqlens.back() +
                                   static_cast<int32_t>(ids.back().size(0)));
    }
    encoder.token_ids = at::cat(ids);
  }
  SequenceState fresh(model_.blocks(), static_cast<int64_t>(order.size()));
  const std::vector<Tensor> expected = Feed(whole, &encoder, &fresh);
  for (size_t i = 0; i < order.size(); ++i) {
    EXPECT_LT(MaxDifference(pieces[i], expected[i].slice(0, 2)), kTolerance) << i;
  }
}

TEST_P(GenerationState, GreedyDecodingIsTransformers) {
  const nlohmann::json& greedy = fixture_.json["greedy"];
  const auto prompt = greedy["prompt"].get<Tokens>(), output = greedy["output"].get<Tokens>();
  const nlohmann::json& source = model_.config().source;
  Packed encoder;
  if (encodes()) {
    encoder.token_ids = torch::tensor(prompt, torch::kInt64);
    encoder.cu_seqlens = {0, static_cast<int32_t>(prompt.size())};
  }
  Tokens found = encodes() ? Tokens{source["decoder_start_token_id"].get<int64_t>()} : prompt;
  SequenceState state(model_.blocks(), 1);
  Tokens piece = found;
  for (int i = 0; i < 8; ++i) {
    Tensor logits = Feed({piece}, i == 0 ? &encoder : nullptr, &state)[0][-1];
    logits[source["eos_token_id"].get<int64_t>()] = -1e30;
    piece = {logits.argmax().item<int64_t>()};
    found.push_back(piece[0]);
  }
  EXPECT_EQ(found, output);
}

// transformers pads prompts on the left and counts positions from the first real token, so that
// they are those of the sequence alone.
TEST_P(GenerationState, LeftPaddedBatchesAreTransformers) {
  if (encodes()) return;  // recorded for decoders alone
  const Tensor mask = fixture_.Expected("left.attention_mask");
  const Tensor index = mask.reshape({-1}).nonzero().squeeze(1);
  Packed batch;
  batch.token_ids = fixture_.Expected("left.input_ids").reshape({-1}).index_select(0, index);
  batch.cu_seqlens = {0};
  for (int64_t s = 0; s < mask.size(0); ++s) {
    batch.cu_seqlens.push_back(batch.cu_seqlens.back() +
                               static_cast<int32_t>(mask[s].sum().item<int64_t>()));
  }
  const torch::NoGradGuard no_grad;
  const Tensor expected = fixture_.Expected("left.logits").flatten(0, 1).index_select(0, index);
  EXPECT_LT(MaxDifference(LogitsOf(model_, batch, {.reference = reference()}), expected),
            kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GenerationState,
                         ::testing::Combine(::testing::ValuesIn(kFixtures), ::testing::Bool()),
                         [](const auto& info) {
                           return FixtureTestName(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "_reference" : "_kernels");
                         });

}  // namespace
}  // namespace thaw
