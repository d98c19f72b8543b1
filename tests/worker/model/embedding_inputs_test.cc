// How RoBERTa counts positions (RobertaEmbeddings.create_position_ids_from_input_ids), seen through
// tables whose rows tell them; and token types, which only BERT's tokenizers tell of.
#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

using torch::Tensor;

// The positions of a batch: with all other embeddings 0 and a table of positions whose row p has a
// direction of its own, the rows of Embed tell p.
std::vector<int64_t> PositionsOf(const std::vector<int64_t>& ids, std::vector<int32_t> bounds) {
  ModelFixture fixture("roberta", std::nullopt);
  Parameters& parameters = fixture.model->parameters();
  const auto zero = [&](const std::string& name) {
    const Tensor& tensor = parameters.Find("roberta.embeddings." + name)->tensor;
    EXPECT_TRUE(parameters.SetTensor("roberta.embeddings." + name, at::zeros_like(tensor)).ok());
  };
  for (const char* name :
       {"word_embeddings.weight", "token_type_embeddings.weight", "LayerNorm.bias"}) {
    zero(name);
  }
  const std::string table = "roberta.embeddings.position_embeddings.weight";
  EXPECT_TRUE(parameters.SetTensor(table, at::eye(42, 48)).ok());
  EXPECT_TRUE(parameters.SetTensor("roberta.embeddings.LayerNorm.weight", at::ones({48})).ok());
  const Packed batch{.token_ids = torch::tensor(ids, torch::kInt64), .cu_seqlens = bounds};
  const Tensor positions = fixture.model->Embed(batch, {}).data.argmax(1);
  return {positions.const_data_ptr<int64_t>(), positions.const_data_ptr<int64_t>() + ids.size()};
}

TEST(RobertaPositions, BeginBehindThePaddingIdInEverySequence) {
  EXPECT_EQ(PositionsOf({0, 10, 11, 2, 0, 12, 2}, {0, 4, 7}),
            (std::vector<int64_t>{2, 3, 4, 5, 2, 3, 4}));
}

// The padding id is 1 here.
TEST(RobertaPositions, PaddingInTheTextHasItsOwnAndDoesNotCount) {
  EXPECT_EQ(PositionsOf({0, 1, 11, 1, 1, 2, 1, 5}, {0, 6, 8}),
            (std::vector<int64_t>{2, 1, 3, 1, 1, 4, 1, 2}));
}

TEST(RobertaPositions, ThePaddingsRowIsNotTrained) {
  ModelFixture fixture("roberta", std::nullopt);
  MakeTrainable(*fixture.model);
  const Packed batch{.token_ids = torch::tensor({0, 1, 11, 2}, torch::kInt64),
                     .cu_seqlens = {0, 4}};
  for (const bool reference : {false, true}) {
    LogitsOf(*fixture.model, batch, {.reference = reference}).square().sum().backward();
    const Parameter* const table =
        fixture.model->parameters().Find("roberta.embeddings.position_embeddings.weight");
    const Tensor norms = table->tensor.grad().norm(2, {1});
    EXPECT_EQ(norms[1].item<float>(), 0);
    for (const int64_t row : {2, 3, 4}) EXPECT_GT(norms[row].item<float>(), 1e-3) << row;
    table->tensor.mutable_grad().reset();
  }
}

TEST(RobertaPositions, TheLongestSequenceFillsTheTable) {
  ModelFixture fixture("roberta", std::nullopt);
  EXPECT_EQ(fixture.model->max_positions(), 40);
  for (const int32_t length : {40, 41}) {
    const Packed batch{.token_ids = at::full({length}, 7, torch::kInt64),
                       .cu_seqlens = {0, length}};
    if (length == 40) {
      EXPECT_EQ(LogitsOf(*fixture.model, batch).size(0), 40);
    } else {
      EXPECT_THROW(LogitsOf(*fixture.model, batch), c10::IndexError);
    }
  }
}

// Types are words in GPT-2: two tables' rows are added to a token's.
TEST(Gpt2TokenTypes, IndexTheWords) {
  ModelFixture fixture("gpt2", std::nullopt);
  Parameters& parameters = fixture.model->parameters();
  Packed batch{.token_ids = torch::tensor({5, 6, 7}, torch::kInt64), .cu_seqlens = {0, 3}};
  const Tensor without = fixture.model->Embed(batch, {}).data;
  batch.token_type_ids = torch::tensor({8, 0, 9}, torch::kInt64);
  const Tensor words = parameters.Find("transformer.wte.weight")->tensor;
  for (const bool reference : {false, true}) {
    EXPECT_LT(MaxDifference(fixture.model->Embed(batch, {.reference = reference}).data,
                            without + words.index_select(0, batch.token_type_ids)),
              1e-6);
  }
  batch.token_type_ids[1] = 197;
  EXPECT_THROW(fixture.model->Embed(batch, {}), c10::IndexError);
}

// The embedding of the padding is not trained, but where an output layer is tied to it, as a word
// to be predicted it is: many models pad with the token that ends a text. Gradients are added to
// the trainables' own buffers, which must keep what the output layer has given.
TEST(TiedPadding, LearnsAsAnOutputAndNotAsAnInput) {
  ModelFixture fixture("llama-tied-bias", std::nullopt);
  Model& model = *fixture.model;
  MakeTrainable(model);
  FixtureBatch batch = fixture.Batch(0);
  const auto padding = model.config().source["pad_token_id"].get<int64_t>();
  batch.packed.token_ids[3] = batch.labels[2] = padding;
  const Parameter* const word = model.parameters().Find("model.embed_tokens.weight");
  Tensor reference;
  for (const bool plain : {true, false}) {
    MeanLoss(model, batch, {.training = true, .reference = plain}).backward();
    const Tensor fresh = word->tensor.grad().clone();
    if (plain) reference = fresh;
    EXPECT_LT(MaxDifference(fresh, reference), 1e-5);
    EXPECT_GT(fresh[padding].norm().item<double>(), 1e-3);
    for (const Parameter& parameter : model.parameters().all()) {
      parameter.tensor.mutable_grad() = at::zeros_like(parameter.tensor);
    }
    MeanLoss(model, batch, {.training = true, .reference = plain}).backward();
    EXPECT_LT(MaxDifference(word->tensor.grad(), reference), 1e-5) << "added, " << plain;
    for (const Parameter& parameter : model.parameters().all()) {
      parameter.tensor.mutable_grad().reset();
    }
  }
}

}  // namespace
}  // namespace thaw
