// What of a packed batch reaches a model.
#include "worker/training/forward.h"

#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

// A batch always has token types, all 0 where the tokenizer tells of none. transformers' GPT-2 is
// given none either, and would add the word of id 0 to every token if it were.
TEST(Logits, TokenTypesReachOnlyModelsWhoseTokenizersTellThem) {
  for (const char* name : {"gpt2-cls", "roberta-cls", "distilbert-cls", "bert-cls"}) {
    ModelFixture fixture(name, std::nullopt);
    Packed packed = fixture.Batch(0).packed;
    packed.token_type_ids = torch::Tensor();
    PackedBatch batch;
    const int64_t* const ids = packed.token_ids.const_data_ptr<int64_t>();
    batch.token_ids.assign(ids, ids + packed.token_ids.size(0));
    batch.token_type_ids.assign(batch.token_ids.size(), 0);
    batch.cu_seqlens = packed.cu_seqlens;
    const torch::NoGradGuard no_grad;
    const TrainedGroups nothing(*fixture.model, {});
    const torch::Tensor expected = LogitsOf(*fixture.model, packed);
    EXPECT_TRUE(at::equal(Logits(fixture.model.get(), batch, nothing, {}), expected)) << name;
    batch.token_type_ids.back() = 1;
    const double difference =
        MaxDifference(Logits(fixture.model.get(), batch, nothing, {}), expected);
    EXPECT_EQ(difference > 0, fixture.model->config().token_types) << name;
  }
}

}  // namespace
}  // namespace thaw
