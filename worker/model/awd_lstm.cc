// AWD-LSTM (arXiv 1708.02182) as ULMFiT uses it (arXiv 1801.06146): tensors are named as fastai 2
// names them; docs/awd_lstm_format.md describes config.json.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "worker/model/family.h"
#include "worker/model/fresh_tensor.h"
#include "worker/model/lstm_rows.h"
#include "worker/model/model_loader.h"
#include "worker/model/ops.h"
#include "worker/model/packed_rows.h"

namespace thaw {
namespace {

using torch::Tensor;

constexpr const char* kAwdLstmTokenTables[] = {"encoder.weight", "emb.weight", "embed.weight",
                                               "decoder.weight", "decoder.bias"};
constexpr int32_t kAwdLstmPadding = 1;

// fastai's five dropouts. output: of what leaves the last LSTM for the head; hidden: between LSTMs;
// input: of the embedded rows; embed: of whole words of the vocabulary; weight: of the matrices
// from one step's hidden state to the next.
struct LstmDropouts {
  double output, hidden, input, embed, weight;
};

struct AwdLstmConfig {
  int64_t lstm_size = 0;  // of all LSTMs but the last, whose output is as wide as the embeddings
  int64_t head_hidden_size = 0;
  int64_t pad_token_id = kAwdLstmPadding;  // -1: none
  int64_t chunk = 0;  // tokens of a text after which a classifier cuts the gradient, not the state
  LstmDropouts language_model = {}, classifier = {};
  double head_dropout = 0;
};

LstmDropouts ReadDropouts(ConfigFields& fields, const char* field, const LstmDropouts& defaults,
                          double scale) {
  LstmDropouts read = defaults;
  const nlohmann::json* source = fields.Find(field);
  const nlohmann::json none = nlohmann::json::object();
  ConfigFields own(source == nullptr ? none : *source);
  if (source != nullptr && !source->is_object()) {
    fields.Fail(field, absl::StrCat("expected an object, found ", ShownJson(*source)));
    return read;
  }
  read.output = scale * own.Real("output_p", 0, 1, defaults.output);
  read.hidden = scale * own.Real("hidden_p", 0, 1, defaults.hidden);
  read.input = scale * own.Real("input_p", 0, 1, defaults.input);
  read.embed = scale * own.Real("embed_p", 0, 1, defaults.embed);
  read.weight = scale * own.Real("weight_p", 0, 1, defaults.weight);
  own.RefuseUnread();
  if (!own.status().ok()) {
    fields.Fail(field, absl::StrCat("in \"", field, "\": ", own.status().message()));
  }
  for (const double p : {read.output, read.hidden, read.input, read.embed, read.weight}) {
    if (p >= 1) fields.Fail("drop_mult", "a dropout times drop_mult is 1 or more");
  }
  return read;
}

AwdLstmConfig ReadAwdLstm(ConfigFields& fields, ModelConfig* config) {
  AwdLstmConfig lstm;
  config->causal = true;
  config->carries_state = true;
  config->vocab_size = fields.Size("vocab_size", 1);
  config->hidden_size = fields.Size("hidden_size", 1);
  config->num_layers = fields.Size("num_hidden_layers", 1);
  config->reads_backward = fields.Flag("reads_backward", false);
  lstm.lstm_size = fields.Size("lstm_size", 1);
  lstm.head_hidden_size = fields.Size("head_hidden_size", 1, 50);
  lstm.pad_token_id = fields.TokenId("pad_token_id", kAwdLstmPadding);
  lstm.chunk = fields.Size("bptt", 1, 72);
  const double scale = fields.Real("drop_mult", 0, 100, 1);
  // The defaults are those of fastai's awd_lstm_lm_config and awd_lstm_clas_config.
  lstm.language_model =
      ReadDropouts(fields, "language_model_dropout", {0.1, 0.15, 0.25, 0.02, 0.2}, scale);
  lstm.classifier = ReadDropouts(fields, "classifier_dropout", {0.4, 0.3, 0.4, 0.05, 0.5}, scale);
  lstm.head_dropout = fields.Real("head_dropout", 0, 1, 0.1);
  fields.Only("tie_word_embeddings", true);
  fields.Only("bidirectional", false);
  return lstm;
}

// The batch norm, dropout, linear and ReLU that a classifier's head is twice.
struct HeadLayer {
  WeightPair norm;
  const Parameter *mean = nullptr, *variance = nullptr, *batches = nullptr;
  WeightPair linear;
};

struct AwdLstmPlace {
  enum : uint32_t { kEmbed, kInput, kWeight, kHidden, kOutput, kHeadOutput };
};

// Names of all versions of fastai, as `encoder` ("0." or "0.module.") + what fastai 2 calls it.
std::string AwdLstmName(const std::string& encoder, const std::string& name) {
  absl::string_view stem = name;
  if (absl::StartsWith(stem, "1.") || absl::StartsWith(stem, kPooledHeadScope)) return name;
  absl::ConsumePrefix(&stem, "0.");
  absl::ConsumePrefix(&stem, "module.");
  if (stem == "encoder_with_dropout.embed.weight") stem = "encoder_dp.emb.weight";
  std::string result(stem);
  const std::string old = ".module.weight_hh_l0_raw";
  if (absl::EndsWith(result, old)) {
    result = result.substr(0, result.size() - old.size()) + ".weight_hh_l0_raw";
  }
  return encoder + result;
}

class AwdLstmModel : public Model {
 public:
  AwdLstmModel(ModelConfig config, AwdLstmConfig lstm) : Model(std::move(config)), lstm_(lstm) {}

  absl::Status Load(const std::string& directory, const std::optional<HeadSpec>& head);

  Rows Embed(const Packed& batch, const RunContext& context) override;
  Rows Block(int block, const Rows& rows, const RunContext& context) override;
  Tensor Hidden(const Rows& rows, const RunContext& context) override { return rows.data; }
  Tensor Head(const Rows& rows, const RunContext& context) override;
  Tensor OutputStates(const Rows& rows, const Tensor& selected, const RunContext& context) override;
  OutputLayer output_layer() const override {
    return {output_->tensor, output_bias_->tensor, Tensor()};
  }

 private:
  bool fresh() const { return !weights_there_; }
  void LoadLstm(ModelLoader& loader, int64_t index);
  HeadLayer LoadHeadLayer(ModelLoader& loader, int index, int64_t in, int64_t out, bool keeps);
  Tensor RunHeadLayer(const HeadLayer& layer, const Tensor& x, uint32_t place, double dropout,
                      const RunContext& context);
  const LstmDropouts& dropouts() const {
    return config_.head == HeadKind::kClassifier ? lstm_.classifier : lstm_.language_model;
  }

  const AwdLstmConfig lstm_;
  std::string encoder_;  // what the names of the encoder's tensors begin with
  bool weights_there_ = true;
  uint64_t seed_ = 0;
  const Parameter* word_ = nullptr;
  std::vector<LstmWeights> lstms_;
  HeadLayer first_, second_;
  const Parameter *output_ = nullptr, *output_bias_ = nullptr;
};

void AwdLstmModel::LoadLstm(ModelLoader& loader, int64_t index) {
  const int64_t in = index == 0 ? config_.hidden_size : lstm_.lstm_size;
  const int64_t out = index + 1 == config_.num_layers ? config_.hidden_size : lstm_.lstm_size;
  loader.StartGroup(absl::StrCat("block.", index));
  loader.StartKind(ParameterKind::kFeedForward);
  const std::string scope = absl::StrCat(encoder_, "rnns.", index, ".");
  uint64_t stream = 16 + 4 * static_cast<uint64_t>(index);
  const auto tensor = [&](const std::string& name, std::vector<int64_t> shape) {
    if (!fresh()) return loader.Tensor(scope + name, shape);
    // torch.nn.LSTM's own.
    return loader.Fresh(scope + name, UniformTensor(shape, 1 / std::sqrt(static_cast<double>(out)),
                                                    seed_, stream++));
  };
  const auto bias = [&](const std::string& name) { return loader.AsBias(tensor(name, {4 * out})); };
  LstmWeights lstm;
  lstm.input = tensor("module.weight_ih_l0", {4 * out, in});
  lstm.hidden = tensor("weight_hh_l0_raw", {4 * out, out});
  lstm.input_bias = bias("module.bias_ih_l0");
  lstm.hidden_bias = bias("module.bias_hh_l0");
  lstms_.push_back(lstm);
}

HeadLayer AwdLstmModel::LoadHeadLayer(ModelLoader& loader, int index, int64_t in, int64_t out,
                                      bool keeps) {
  HeadLayer layer;
  const std::string norm = absl::StrCat("1.layers.", index, ".0");
  const std::string linear = absl::StrCat("1.layers.", index, ".2");
  if (keeps) {
    layer.norm = loader.Norm(norm, in);
    layer.mean = loader.Buffer(norm + ".running_mean", {in}, torch::kFloat32);
    layer.variance = loader.Buffer(norm + ".running_var", {in}, torch::kFloat32);
    layer.batches = loader.Buffer(norm + ".num_batches_tracked", {}, torch::kInt64);
    layer.linear = loader.Linear(linear, out, in, false);
    return layer;
  }
  layer.norm = loader.FreshNorm(norm, in);
  layer.mean = loader.FreshBuffer(norm + ".running_mean", at::zeros({in}));
  layer.variance = loader.FreshBuffer(norm + ".running_var", at::ones({in}));
  layer.batches = loader.FreshBuffer(norm + ".num_batches_tracked", at::zeros({}, torch::kInt64));
  // fastai's LinBnDrop keeps torch.nn.Linear's: uniform within 1 / sqrt(in).
  layer.linear.weight = loader.Fresh(
      linear + ".weight", UniformTensor({out, in}, 1 / std::sqrt(static_cast<double>(in)), seed_,
                                        static_cast<uint64_t>(index) + 2));
  layer.linear = loader.AsLinear(linear, layer.linear);
  return layer;
}

absl::Status AwdLstmModel::Load(const std::string& directory, const std::optional<HeadSpec>& head) {
  const bool keeps = ChooseHead(head) && Weights::AreIn(directory);
  seed_ = head ? head->seed : 0;
  encoder_ = config_.head == HeadKind::kClassifier ? "0.module." : "0.";
  weights_there_ = Weights::AreIn(directory);
  Weights weights;
  if (weights_there_) {
    THAW_ASSIGN_OR_RETURN(weights, Weights::Open(directory, [this](const std::string& name) {
                            return AwdLstmName(encoder_, name);
                          }));
  } else {
    keeps_layout_ = false;
    warnings_.push_back("the base model is a configuration without weights: all are drawn anew");
  }
  ModelLoader loader(&weights, this);
  const int64_t d = config_.hidden_size, labels = static_cast<int64_t>(config_.labels.size());
  loader.StartGroup("embeddings");
  loader.StartKind(ParameterKind::kEmbedding);
  const std::string word = encoder_ + "encoder.weight";
  if (fresh()) {
    Tensor table = UniformTensor({config_.vocab_size, d}, 0.1, seed_, 1);
    if (lstm_.pad_token_id >= 0 && lstm_.pad_token_id < config_.vocab_size) {
      table[lstm_.pad_token_id].zero_();
    }
    word_ = loader.Fresh(word, table);
  } else {
    word_ = loader.Tensor(word, {config_.vocab_size, d});
  }
  if (loader.ok()) loader.Alias(word_, encoder_ + "encoder_dp.emb.weight");
  for (int64_t i = 0; i < config_.num_layers; ++i) LoadLstm(loader, i);
  loader.StartGroup("head");
  switch (config_.head) {
    case HeadKind::kClassifier:
      first_ = LoadHeadLayer(loader, 0, 3 * d, lstm_.head_hidden_size, keeps);
      second_ = LoadHeadLayer(loader, 1, lstm_.head_hidden_size, labels, keeps);
      break;
    case HeadKind::kLanguageModel:
      output_bias_ =
          loader.AsBias(loader.Has("1.decoder.bias")
                            ? loader.Tensor("1.decoder.bias", {config_.vocab_size})
                            : loader.Fresh("1.decoder.bias", at::zeros({config_.vocab_size})));
      output_ = loader.TiedOutput("1.decoder.weight", word_);
      if (loader.ok() && output_ != word_) {
        return absl::InvalidArgumentError(
            absl::StrCat(directory,
                         ": 1.decoder.weight differs from the embeddings: only tied ones are "
                         "supported"));
      }
      if (loader.ok()) loader.Alias(word_, "1.decoder.weight");
      break;
    case HeadKind::kNone:
      break;
  }
  return loader.Finish({"1."}, {".module.weight_hh_l0"});
}

Rows AwdLstmModel::Embed(const Packed& batch, const RunContext& context) {
  const Path path = PathOf(context, batch.token_ids);
  CheckIds(batch.token_ids, config_.vocab_size, "token id");
  EmbeddingInputs inputs;
  inputs.ids = batch.token_ids;
  inputs.padding_id = lstm_.pad_token_id < config_.vocab_size ? lstm_.pad_token_id : -1;
  Rows rows;
  rows.cu_seqlens = batch.cu_seqlens;
  rows.data = Embedding(path, inputs, word_->tensor, Tensor(), DropoutSite());
  // Whole words, not numbers of them.
  if (const DropoutSite site = Site(context, 0, AwdLstmPlace::kEmbed, dropouts().embed);
      site.active()) {
    const Tensor words = at::ones({config_.vocab_size, 1}, rows.data.options());
    rows.data = rows.data * GatherRows(Dropout(path, words, site), batch.token_ids);
  }
  rows.data = SequenceDropout(path, rows.data, rows.cu_seqlens,
                              Site(context, 0, AwdLstmPlace::kInput, dropouts().input));
  return rows;
}

Rows AwdLstmModel::Block(int index, const Rows& rows, const RunContext& context) {
  const LstmWeights& lstm = lstms_[static_cast<size_t>(index)];
  const Path path = PathOf(context, rows.data);
  const bool last = index + 1 == blocks();
  LstmRun run;
  run.hidden_weight = Dropout(path, lstm.hidden->tensor,
                              Site(context, index + 1, AwdLstmPlace::kWeight, dropouts().weight));
  run.chunk = config_.head == HeadKind::kClassifier ? lstm_.chunk : 0;
  run.state = context.state == nullptr ? nullptr : &context.state->block(index);
  Rows out;
  out.cu_seqlens = rows.cu_seqlens;
  out.data = RunLstm(lstm, run, rows.data, rows.cu_seqlens);
  if (!last) {
    out.data = SequenceDropout(path, out.data, out.cu_seqlens,
                               Site(context, index + 1, AwdLstmPlace::kHidden, dropouts().hidden));
  }
  return out;
}

Tensor AwdLstmModel::RunHeadLayer(const HeadLayer& layer, const Tensor& x, uint32_t place,
                                  double dropout, const RunContext& context) {
  const Path path = PathOf(context, x);
  // One example has no variance: it is normalised by what has been learnt so far.
  const bool learns = context.training && !context.frozen && x.size(0) > 1;
  Tensor mean = layer.mean->tensor, variance = layer.variance->tensor;
  if (learns) {
    mean = mean.clone();
    variance = variance.clone();
  }
  const Tensor normed = BatchNorm(x, layer.norm.w(), layer.norm.b(), mean, variance, learns);
  if (learns) {
    for (const auto& [buffer, tensor] : {std::pair(layer.mean, mean),
                                         {layer.variance, variance},
                                         {layer.batches, layer.batches->tensor + 1}}) {
      TORCH_CHECK(parameters_.SetTensor(buffer->name, tensor).ok());
    }
  }
  return Linear(path, Dropout(path, normed, Site(context, blocks() + 1, place, dropout)),
                layer.linear.Both(context));
}

Tensor AwdLstmModel::Head(const Rows& rows, const RunContext& context) {
  const Tensor pooled = ConcatPool(rows.data, rows.cu_seqlens);
  const Tensor hidden =
      Activate(PathOf(context, pooled), ActivationKind::kRelu,
               RunHeadLayer(first_, pooled, AwdLstmPlace::kOutput, dropouts().output, context));
  return RunHeadLayer(second_, hidden, AwdLstmPlace::kHeadOutput, lstm_.head_dropout, context);
}

Tensor AwdLstmModel::OutputStates(const Rows& rows, const Tensor& selected,
                                  const RunContext& context) {
  const Tensor dropped =
      SequenceDropout(PathOf(context, rows.data), rows.data, rows.cu_seqlens,
                      Site(context, blocks() + 1, AwdLstmPlace::kOutput, dropouts().output));
  return selected.defined() ? GatherRows(dropped, selected) : dropped;
}

absl::StatusOr<std::unique_ptr<Model>> LoadAwdLstm(ModelConfig config, const std::string& directory,
                                                   const std::optional<HeadSpec>& head) {
  ConfigFields fields(config.source);
  const AwdLstmConfig lstm = ReadAwdLstm(fields, &config);
  auto model = std::make_unique<AwdLstmModel>(std::move(config), lstm);
  THAW_RETURN_IF_ERROR(model->Load(directory, head));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace

const Family kAwdLstmFamily = {
    "awd_lstm",
    "AwdLstmForSequenceClassification",
    "AwdLstmForCausalLM",
    [](ConfigFields& fields, ModelConfig* config) { ReadAwdLstm(fields, config); },
    LoadAwdLstm,
    kAwdLstmTokenTables,
    kAwdLstmPadding,
    /*positions_follow_padding=*/false,
    /*draws_weights=*/true};

}  // namespace thaw
