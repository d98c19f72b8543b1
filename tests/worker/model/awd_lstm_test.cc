// Against fastai's AWD-LSTM: activations, losses, gradients and steps of the recorded model.
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

using ::testing::HasSubstr;
using torch::Tensor;

// The recorded files hold no config.json of ours.
std::string AwdLstmDirectory(const std::string& file, nlohmann::json changes = {}) {
  std::string directory = ::testing::TempDir() + "thaw_awd_lstm_XXXXXX";
  directory = mkdtemp(directory.data());
  const bool classifier = file == "classifier";
  nlohmann::json config = {
      {"model_type", "awd_lstm"},
      {"vocab_size", 197},
      {"hidden_size", 28},
      {"lstm_size", 44},
      {"num_hidden_layers", 3},
      {"head_hidden_size", 50},
      {"pad_token_id", 1},
      {"drop_mult", 0},
      {"head_dropout", 0},
      {"num_labels", 3},
      {"architectures", {classifier ? "AwdLstmForSequenceClassification" : "AwdLstmForCausalLM"}}};
  if (!changes.is_null()) config.update(changes);
  EXPECT_TRUE(WriteFileAtomically(directory + "/config.json", config.dump()).ok());
  if (file.empty()) return directory;
  const std::string bytes =
      ReadFile(FixtureDirectory("awd-lstm") + "/" + file + ".safetensors").value();
  EXPECT_TRUE(WriteFileAtomically(directory + "/model.safetensors", bytes).ok());
  return directory;
}

class AwdLstm : public ::testing::Test {
 protected:
  AwdLstm()
      : json_(ReadJsonFile(FixtureDirectory("awd-lstm") + "/expected.json").value()),
        inputs_(
            SafetensorsFile::Open(FixtureDirectory("awd-lstm") + "/inputs.safetensors").value()),
        expected_(
            SafetensorsFile::Open(FixtureDirectory("awd-lstm") + "/expected.safetensors").value()) {
  }

  Tensor Input(int batch, const char* name) const {
    const TensorInfo* info = inputs_->Find(absl::StrCat("batch", batch, ".", name));
    return ViewTensor(inputs_, *info).clone();
  }
  Tensor Expected(const char* name) const { return ViewTensor(expected_, *expected_->Find(name)); }

  FixtureBatch Batch(int index) const {
    FixtureBatch batch;
    const Tensor mask = Input(index, "attention_mask");
    batch.padded_index = mask.reshape({-1}).nonzero().squeeze(1);
    batch.packed.token_ids =
        Input(index, "input_ids").reshape({-1}).index_select(0, batch.padded_index);
    batch.packed.cu_seqlens = {0};
    for (int64_t s = 0; s < mask.size(0); ++s) {
      batch.packed.cu_seqlens.push_back(batch.packed.cu_seqlens.back() +
                                        mask[s].sum().item<int32_t>());
    }
    batch.labels = Input(index, "labels");
    batch.loss_units = static_cast<double>(batch.labels.size(0));
    return batch;
  }
  Tensor ExpectedRows(const char* name, const FixtureBatch& batch) const {
    return Expected(name).flatten(0, 1).index_select(0, batch.padded_index);
  }

  const nlohmann::json json_;
  std::shared_ptr<const SafetensorsFile> inputs_, expected_;
};

TEST_F(AwdLstm, ClassifierIsFastais) {
  auto model = LoadModel(AwdLstmDirectory("classifier"), std::nullopt).value();
  EXPECT_TRUE(model->warnings().empty());
  const FixtureBatch batch = Batch(0);
  torch::NoGradGuard no_grad;
  const Rows rows = RowsOf(*model, batch.packed);
  const double encoder = MaxDifference(rows.data, ExpectedRows("encoder_output", batch));
  const Tensor logits = model->Head(rows, {});
  const double difference = MaxDifference(logits, Expected("logits"));
  const double loss = CrossEntropySum(logits, batch.labels).item<double>() / batch.loss_units;
  const double loss_error = std::abs(loss / json_["eval_loss"].get<double>() - 1);
  std::printf(
      "[ FIGURE   ] awd-lstm: encoder output differs by at most %.2e, logits by %.2e, "
      "loss by %.1e (relative)\n",
      encoder, difference, loss_error);
  EXPECT_LT(encoder, 2e-5);
  EXPECT_LT(difference, 2e-5);
  EXPECT_LT(loss_error, 1e-6);
}

TEST_F(AwdLstm, LanguageModelIsFastais) {
  auto model = LoadModel(AwdLstmDirectory("lm"), std::nullopt).value();
  const FixtureBatch batch = Batch(0);
  torch::NoGradGuard no_grad;
  const double difference =
      MaxDifference(LogitsOf(*model, batch.packed), ExpectedRows("lm_logits", batch));
  std::printf("[ FIGURE   ] awd-lstm: language model's logits differ by at most %.2e\n",
              difference);
  EXPECT_LT(difference, 2e-5);
  // Read in pieces, the state going from one to the next, it sees what it sees at once.
  const Tensor whole = LogitsOf(*model, batch.packed);
  SequenceState state(model->blocks(), 4);
  std::vector<Tensor> pieces(4);
  std::vector<int32_t> done(4, 0);
  for (const int32_t step : {3, 1, 2}) {
    Packed piece;
    std::vector<Tensor> ids;
    piece.cu_seqlens = {0};
    for (size_t s = 0; s < 4; ++s) {
      const int32_t begin = batch.packed.cu_seqlens[s] + done[s];
      ids.push_back(batch.packed.token_ids.narrow(0, begin, step));
      piece.cu_seqlens.push_back(piece.cu_seqlens.back() + step);
      done[s] += step;
    }
    piece.token_ids = at::cat(ids);
    const Tensor logits = LogitsOf(*model, piece, {.state = &state});
    state.Advance(piece.cu_seqlens);
    for (size_t s = 0; s < 4; ++s) {
      const Tensor own = logits.narrow(0, piece.cu_seqlens[s], step);
      EXPECT_LT(
          MaxDifference(own, whole.narrow(0, batch.packed.cu_seqlens[s] + done[s] - step, step)),
          2e-5);
    }
  }
}

TEST_F(AwdLstm, LossAndGradientNormsAreFastais) {
  auto model = LoadModel(AwdLstmDirectory("classifier"), std::nullopt).value();
  MakeTrainable(*model);
  const Tensor loss = MeanLoss(*model, Batch(0), {.training = true});
  loss.backward();
  const double loss_error = std::abs(loss.item<double>() / json_["train_loss"].get<double>() - 1);
  double worst = 0;
  for (const Parameter& parameter : model->parameters().all()) {
    if (parameter.buffer) continue;
    const double norm = json_["grad_norms"].at(parameter.name);
    worst = std::max(worst, std::abs(parameter.tensor.grad().norm().item<double>() - norm) / norm);
  }
  std::printf(
      "[ FIGURE   ] awd-lstm: loss off by %.1e, gradient norms by at most %.1e (relative)\n",
      loss_error, worst);
  EXPECT_LT(loss_error, 1e-6);
  EXPECT_LT(worst, 1e-4);
}

// The recorded recipe: AdamW with betas 0.7 and 0.99, no decay, no clipping, slanted triangular
// rates of 20 steps of which ten are taken, each group at its upper neighbour's rate over 2.6.
TEST_F(AwdLstm, TenStepsAreFastais) {
  auto model = LoadModel(AwdLstmDirectory("classifier"), std::nullopt).value();
  MakeTrainable(*model);
  std::map<std::string, std::pair<Tensor, Tensor>> moments;
  double worst = 0;
  const auto losses = json_["train"]["losses"].get<std::vector<double>>();
  const auto rates = json_["train"]["eta"].get<std::vector<double>>();
  ASSERT_EQ(losses.size(), 10u);
  for (size_t t = 0; t < losses.size(); ++t) {
    const Tensor loss = MeanLoss(*model, Batch(static_cast<int>(t % 3)), {.training = true});
    const double error = std::abs(loss.item<double>() - losses[t]) / losses[t];
    EXPECT_LT(error, t < 4 ? 1e-5 : 1e-4) << "step " << t + 1;
    worst = std::max(worst, error);
    loss.backward();
    torch::NoGradGuard no_grad;
    for (const Parameter& parameter : model->parameters().all()) {
      if (parameter.buffer) continue;
      const Tensor &p = parameter.tensor, g = p.grad();
      auto& [first, second] = moments[parameter.name];
      if (!first.defined()) {
        first = at::zeros_like(p);
        second = at::zeros_like(p);
      }
      first.lerp_(g, 0.3);
      second.mul_(0.99).addcmul_(g, g, 0.01);
      const double n = static_cast<double>(t + 1);
      const double rate = rates[t] / std::pow(2.6, model->blocks() + 1 - parameter.group);
      const Tensor denominator = (second.sqrt() / std::sqrt(1 - std::pow(0.99, n))) + 1e-8;
      p.addcdiv_(first, denominator, -rate / (1 - std::pow(0.7, n)));
      p.mutable_grad().reset();
    }
  }
  double worst_sum = 0;
  for (const Parameter& parameter : model->parameters().all()) {
    if (parameter.tensor.dim() == 0) continue;
    const auto expected =
        json_["train"]["final_sum_abssum"].at(parameter.name).get<std::vector<double>>();
    const double sum = parameter.tensor.detach().to(torch::kFloat64).sum().item<double>();
    worst_sum = std::max(worst_sum, std::abs(sum - expected[0]) / expected[1]);
  }
  std::printf(
      "[ FIGURE   ] awd-lstm: ten steps: loss off by at most %.1e, sums of the weights and "
      "running statistics by %.1e (relative)\n",
      worst, worst_sum);
  // Batch norm over four texts that have much in common leaves few digits: one thread and two,
  // whose sums are ordered differently, are up to 4e-5 apart at the tenth step.
  EXPECT_LT(worst, 1e-4);
  EXPECT_LT(worst_sum, 1e-4);
}

TEST_F(AwdLstm, ALanguageModelBecomesAClassifierAndIsSavedUnderFastaisNames) {
  const HeadSpec head{{"a", "b"}, ProblemType::kSingleLabel, 3};
  auto model = LoadModel(AwdLstmDirectory("lm"), head).value();
  const std::string directory = AwdLstmDirectory("");
  ASSERT_TRUE(SaveModel(*model, directory).ok());
  const auto saved = SafetensorsFile::Open(directory + "/model.safetensors").value();
  const auto recorded =
      SafetensorsFile::Open(FixtureDirectory("awd-lstm") + "/classifier.safetensors").value();
  ASSERT_EQ(saved->tensors().size(), recorded->tensors().size());
  for (const TensorInfo& info : recorded->tensors()) {
    ASSERT_NE(saved->Find(info.name), nullptr) << info.name;
    EXPECT_EQ(saved->Find(info.name)->type, info.type) << info.name;
  }
  auto again = LoadModel(directory, std::nullopt).value();
  EXPECT_TRUE(at::equal(LogitsOf(*model, Batch(0).packed), LogitsOf(*again, Batch(0).packed)));
}

TEST_F(AwdLstm, AConfigurationAloneIsDrawnFromItsSeed) {
  HeadSpec head;
  head.kind = HeadKind::kLanguageModel;
  head.seed = 5;
  const std::string directory = AwdLstmDirectory("");
  auto model = LoadModel(directory, head).value(), same = LoadModel(directory, head).value();
  head.seed = 6;
  auto other = LoadModel(directory, head).value();
  const Tensor logits = LogitsOf(*model, Batch(0).packed);
  EXPECT_TRUE(at::equal(logits, LogitsOf(*same, Batch(0).packed)));
  EXPECT_GT(MaxDifference(logits, LogitsOf(*other, Batch(0).packed)), 1e-4);
  ASSERT_TRUE(SaveModel(*model, directory).ok());
  auto again = LoadModel(directory, std::nullopt).value();
  EXPECT_TRUE(at::equal(logits, LogitsOf(*again, Batch(0).packed)));
}

TEST_F(AwdLstm, NullPaddingIsNoPadding) {
  for (const nlohmann::json& padding : {nlohmann::json(1), nlohmann::json(nullptr)}) {
    auto model =
        LoadModel(AwdLstmDirectory("classifier", {{"pad_token_id", padding}}), std::nullopt)
            .value();
    MakeTrainable(*model);
    FixtureBatch batch = Batch(0);
    batch.packed.token_ids[2] = 1;
    MeanLoss(*model, batch, {.training = true}).backward();
    const Tensor gradient = model->parameters().Find("0.module.encoder.weight")->tensor.grad();
    EXPECT_EQ(gradient[1].norm().item<double>() > 0, padding.is_null()) << padding;
  }
  // Drawn, no row is set to nought then.
  HeadSpec head;
  head.kind = HeadKind::kLanguageModel;
  auto drawn = LoadModel(AwdLstmDirectory("", {{"pad_token_id", nullptr}}), head).value();
  const Tensor word = drawn->parameters().Find("0.encoder.weight")->tensor;
  EXPECT_GT(word.abs().sum(1).min().item<double>(), 0);
}

TEST_F(AwdLstm, LongTextsKeepTheirStateWhereTheGradientIsCut) {
  auto whole = LoadModel(AwdLstmDirectory("classifier"), std::nullopt).value();
  auto cut = LoadModel(AwdLstmDirectory("classifier", {{"bptt", 4}}), std::nullopt).value();
  MakeTrainable(*whole);
  MakeTrainable(*cut);
  const Tensor a = MeanLoss(*whole, Batch(0), {}), b = MeanLoss(*cut, Batch(0), {});
  EXPECT_LT(MaxDifference(a, b), 1e-6);
  a.backward();
  b.backward();
  const auto gradient = [](const std::unique_ptr<Model>& model) {
    return model->parameters().Find("0.module.rnns.0.weight_hh_l0_raw")->tensor.grad();
  };
  EXPECT_GT(MaxDifference(gradient(whole), gradient(cut)), 1e-6);
}

TEST_F(AwdLstm, EveryDropoutActsAndFollowsItsKey) {
  for (const char* which : {"output_p", "hidden_p", "input_p", "embed_p", "weight_p"}) {
    nlohmann::json none = {
        {"output_p", 0}, {"hidden_p", 0}, {"input_p", 0}, {"embed_p", 0}, {"weight_p", 0}};
    none[which] = 0.5;
    auto model =
        LoadModel(AwdLstmDirectory("classifier", {{"classifier_dropout", none}, {"drop_mult", 1}}),
                  std::nullopt)
            .value();
    const FixtureBatch batch = Batch(0);
    torch::NoGradGuard no_grad;
    // Groups train one at a time here: batch norm would hide what dropout does.
    const auto logits = [&](DropoutKey key) {
      const RunContext context{.training = true, .dropout = key};
      const Rows rows = RowsOf(*model, batch.packed, context);
      return std::string(which) == "output_p" ? model->Head(rows, context) : model->Head(rows, {});
    };
    const Tensor first = logits({1, 2, 3});
    EXPECT_TRUE(at::equal(first, logits({1, 2, 3}))) << which;
    EXPECT_GT(MaxDifference(first, logits({1, 2, 4})), 1e-4) << which;
  }
}

TEST_F(AwdLstm, RunsOnTheMetaDevice) {
  auto model =
      LoadModel(AwdLstmDirectory("classifier", {{"drop_mult", 0.5}}), std::nullopt).value();
  for (const Parameter& parameter : model->parameters().all()) {
    Tensor meta = parameter.tensor.to(torch::kMeta);
    if (!parameter.buffer) meta.set_requires_grad(true);
    ASSERT_TRUE(model->parameters().SetTensor(parameter.name, meta).ok());
  }
  Packed batch = Batch(0).packed;
  batch.token_ids = batch.token_ids.to(torch::kMeta);
  const Tensor logits = LogitsOf(*model, batch, {.training = true});
  EXPECT_TRUE(logits.is_meta());
  logits.sum().backward();
  for (const Parameter& parameter : model->parameters().all()) {
    if (parameter.buffer) continue;
    EXPECT_TRUE(parameter.tensor.grad().is_meta()) << parameter.name;
  }
}

TEST_F(AwdLstm, RefusesByNameWhatItCannotHonour) {
  const std::pair<nlohmann::json, const char*> cases[] = {
      {{{"bidirectional", true}}, "bidirectional"},
      {{{"tie_word_embeddings", false}}, "tie_word_embeddings"},
      {{{"classifier_dropout", {{"weight_p", 1.5}}}}, "weight_p"},
      {{{"classifier_dropout", {{"wieght_p", 0.5}}}}, "wieght_p"},
      {{{"qrnn", true}}, "qrnn"},
      {{{"lstm_size", 45}}, "expected floating point [180, 28]"}};
  for (const auto& [change, message] : cases) {
    EXPECT_THAT(LoadModel(AwdLstmDirectory("classifier", change), std::nullopt).status().ToString(),
                HasSubstr(message));
  }
}

}  // namespace
}  // namespace thaw
