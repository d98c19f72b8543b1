// The kernels' path against the reference path, and what both promise about dropout, threads and
// devices.
#include <unistd.h>

#include <map>

#include "ATen/Parallel.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"
#include "worker/model/ops.h"

namespace thaw {
namespace {

using torch::Tensor;

// A fixture, recorded without dropout, and the fields of config.json that switch it on.
struct PathsCase {
  const char* fixture;
  std::vector<const char*> dropouts;
};
const std::vector<const char*> kBertDropouts = {"hidden_dropout_prob",
                                                "attention_probs_dropout_prob"};
const std::vector<const char*> kGpt2Dropouts = {"embd_pdrop", "attn_pdrop", "resid_pdrop"};
const PathsCase kPathsCases[] = {
    {"bert", kBertDropouts},
    {"bert-cls", kBertDropouts},
    {"roberta", kBertDropouts},
    {"roberta-cls", kBertDropouts},
    {"distilbert", {"dropout", "attention_dropout"}},
    {"distilbert-multilabel", {"dropout", "attention_dropout", "seq_classif_dropout"}},
    {"gpt2", kGpt2Dropouts},
    {"gpt2-cls", kGpt2Dropouts},
    {"bloom-5heads", {"hidden_dropout", "attention_dropout"}},
    {"llama-tied-bias", {"attention_dropout"}},
    {"llama-cls", {"attention_dropout"}},
    {"mistral", {"attention_dropout"}},
    {"qwen2-window", {"attention_dropout"}},
    {"qwen3", {"attention_dropout"}},
    {"t5", {"dropout_rate"}},
    {"t5-v1.1", {"dropout_rate"}},
};
void PrintTo(const PathsCase& paths, std::ostream* out) { *out << paths.fixture; }

std::unique_ptr<Model> ModelWithDropout(const PathsCase& paths) {
  std::string directory = ::testing::TempDir() + "thaw_paths_XXXXXX";
  directory = mkdtemp(directory.data());
  const std::string source = FixtureDirectory(paths.fixture);
  auto config = ReadJsonFile(source + "/config.json").value();
  for (const char* field : paths.dropouts) {
    EXPECT_EQ(config.at(field), 0.0) << field;
    config[field] = 0.25;
  }
  EXPECT_TRUE(WriteFileAtomically(directory + "/config.json", config.dump()).ok());
  EXPECT_EQ(
      symlink((source + "/model.safetensors").c_str(), (directory + "/model.safetensors").c_str()),
      0);
  std::unique_ptr<Model> model = LoadModel(directory, std::nullopt).value();
  MakeTrainable(*model);
  return model;
}

struct Outcome {
  Tensor logits;
  std::map<std::string, Tensor> gradients;
};

// The gradients of the loss, undefined where the model does not read a parameter.
Outcome ForwardAndBackward(Model& model, const FixtureBatch& batch, const RunContext& context) {
  Outcome outcome;
  MeanLoss(model, batch, context).backward();
  for (const Parameter& parameter : model.parameters().all()) {
    outcome.gradients[parameter.name] = parameter.tensor.grad();
    parameter.tensor.mutable_grad().reset();
  }
  const torch::NoGradGuard no_grad;
  outcome.logits = LogitsOf(model, batch.packed, context);
  return outcome;
}

// Gradients relative to the largest of each tensor; logits in the tens have fewer digits left.
void ExpectClose(const Outcome& a, const Outcome& b) {
  const double tolerance = b.logits.abs().max().item<double>() > 10 ? 1e-4 : 2e-5;
  EXPECT_LT(MaxDifference(a.logits, b.logits), tolerance);
  for (const auto& [name, gradient] : b.gradients) {
    const double size = gradient.abs().max().item<double>();
    EXPECT_LT(MaxDifference(a.gradients.at(name), gradient), 1e-4 * size + 1e-6) << name;
  }
}

class Paths : public ::testing::TestWithParam<PathsCase> {
 protected:
  Paths()
      : fixture_(GetParam().fixture, std::nullopt),
        batch_(fixture_.Batch(0)),
        model_(ModelWithDropout(GetParam())) {}

  ModelFixture fixture_;
  FixtureBatch batch_;
  std::unique_ptr<Model> model_;
};

TEST_P(Paths, AgreeWithDropoutForwardAndBackward) {
  RunContext context{.training = true, .dropout = {7, 3, 1}, .all_rows = true};
  const Outcome kernels = ForwardAndBackward(*model_, batch_, context);
  context.reference = true;
  const Outcome reference = ForwardAndBackward(*model_, batch_, context);
  ExpectClose(kernels, reference);
}

TEST_P(Paths, GradientsAreAddedToThoseThatAreSet) {
  const RunContext context{.training = true, .dropout = {7, 3, 1}};
  const Outcome fresh = ForwardAndBackward(*model_, batch_, context);
  std::map<std::string, void*> memory;
  for (const Parameter& parameter : model_->parameters().all()) {
    parameter.tensor.mutable_grad() = at::ones_like(parameter.tensor);
    memory[parameter.name] = parameter.tensor.grad().data_ptr();
  }
  const Outcome added = ForwardAndBackward(*model_, batch_, context);
  for (const auto& [name, gradient] : fresh.gradients) {
    EXPECT_EQ(added.gradients.at(name).data_ptr(), memory[name]) << name;
    const double size = gradient.abs().max().item<double>();
    EXPECT_LT(MaxDifference(added.gradients.at(name), gradient + 1), 2e-6 * (1 + size)) << name;
  }
}

TEST_P(Paths, DropoutFollowsItsKeyAndNothingElse) {
  const RunContext context{.training = true, .dropout = {7, 3, 1}};
  const Outcome first = ForwardAndBackward(*model_, batch_, context);
  const Outcome again = ForwardAndBackward(*model_, batch_, context);
  EXPECT_TRUE(at::equal(first.logits, again.logits));
  for (const auto& [name, gradient] : first.gradients) {
    EXPECT_TRUE(at::equal(gradient, again.gradients.at(name))) << name;
  }
  for (const DropoutKey& other : {DropoutKey{8, 3, 1}, DropoutKey{7, 4, 1}, DropoutKey{7, 3, 2}}) {
    RunContext changed = context;
    changed.dropout = other;
    EXPECT_GT(MaxDifference(LogitsOf(*model_, batch_.packed, changed), first.logits), 1e-3);
  }
}

TEST_P(Paths, EveryDropoutActs) {
  const torch::NoGradGuard no_grad;
  const Tensor without = LogitsOf(*fixture_.model, batch_.packed);
  for (const char* field : GetParam().dropouts) {
    const auto model = ModelWithDropout({GetParam().fixture, {field}});
    const RunContext context{.training = true, .dropout = {7, 3, 1}};
    EXPECT_GT(MaxDifference(LogitsOf(*model, batch_.packed, context), without), 1e-3) << field;
    EXPECT_LT(MaxDifference(LogitsOf(*model, batch_.packed), without), 1e-6) << field;
  }
}

TEST_P(Paths, HeadRowsAloneGiveTheSameAsAllRows) {
  ExpectClose(ForwardAndBackward(*model_, batch_, {}),
              ForwardAndBackward(*model_, batch_, {.all_rows = true}));
}

TEST_P(Paths, KernelsGiveTheSameBitsOnAnyNumberOfThreads) {
  const RunContext context{.training = true, .dropout = {7, 3, 1}};
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Outcome one = ForwardAndBackward(*model_, batch_, context);
  at::set_num_threads(2);
  const Outcome two = ForwardAndBackward(*model_, batch_, context);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(one.logits, two.logits));
  for (const auto& [name, gradient] : one.gradients) {
    EXPECT_TRUE(at::equal(gradient, two.gradients.at(name))) << name;
  }
}

TEST_P(Paths, OnlyWhatIsTrainedGetsAGradient) {
  for (const Parameter& parameter : model_->parameters().all()) {
    parameter.tensor.set_requires_grad(parameter.group + 2 >=
                                       static_cast<int>(model_->groups().size()));
  }
  const Outcome outcome = ForwardAndBackward(*model_, batch_, {.training = true});
  for (const Parameter& parameter : model_->parameters().all()) {
    EXPECT_EQ(outcome.gradients.at(parameter.name).defined(), parameter.tensor.requires_grad())
        << parameter.name;
  }
}

TEST_P(Paths, BiasesAloneTrain) {
  const Outcome full = ForwardAndBackward(*model_, batch_, {});
  for (const Parameter& parameter : model_->parameters().all()) {
    parameter.tensor.set_requires_grad(parameter.tensor.dim() == 1);
  }
  const Outcome biases = ForwardAndBackward(*model_, batch_, {});
  for (const Parameter& parameter : model_->parameters().all()) {
    if (!parameter.tensor.requires_grad()) {
      EXPECT_FALSE(biases.gradients.at(parameter.name).defined()) << parameter.name;
    } else {
      EXPECT_TRUE(at::equal(biases.gradients.at(parameter.name), full.gradients.at(parameter.name)))
          << parameter.name;
    }
  }
}

// A tensor made on the CPU by mistake would meet meta tensors and throw.
TEST_P(Paths, NothingStraysFromTheModelsDevice) {
  const Tensor expected = LogitsOf(*model_, batch_.packed, {.training = true});
  for (const Parameter& parameter : model_->parameters().all()) {
    ASSERT_TRUE(model_->parameters()
                    .SetTensor(parameter.name,
                               parameter.tensor.detach().to(torch::kMeta).set_requires_grad(true))
                    .ok());
  }
  Packed batch = batch_.packed;
  for (Tensor* ids : {&batch.token_ids, &batch.token_type_ids, &batch.target_ids}) {
    if (ids->defined()) *ids = ids->to(torch::kMeta);
  }
  const Tensor logits = LogitsOf(*model_, batch, {.training = true});
  EXPECT_TRUE(logits.is_meta());
  EXPECT_EQ(logits.sizes(), expected.sizes());
  logits.sum().backward();
  for (const Parameter& parameter : model_->parameters().all()) {
    EXPECT_TRUE(parameter.tensor.grad().is_meta()) << parameter.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Paths, ::testing::ValuesIn(kPathsCases),
                         [](const ::testing::TestParamInfo<PathsCase>& info) {
                           return FixtureTestName(info.param.fixture);
                         });

TEST(CrossEntropySum, RefusesLabelsThatAreNone) {
  const Tensor logits = at::zeros({2, 3});
  for (int64_t label : {3, -1, 1000}) {
    EXPECT_THROW(CrossEntropySum(logits, torch::tensor(std::vector<int64_t>{0, label})),
                 c10::Error);
  }
  EXPECT_NEAR(CrossEntropySum(logits, torch::tensor(std::vector<int64_t>{0, -100})).item<double>(),
              std::log(3.0), 1e-6);
}

}  // namespace
}  // namespace thaw
