// The kernels' path against the reference path, and what both promise about dropout, threads and
// devices.
#include <omp.h>

#include "ATen/Parallel.h"
#include "gtest/gtest.h"
#include "tests/worker/model/model_fixture.h"
#include "worker/model/ops.h"

namespace thaw {
namespace {

using torch::Tensor;

constexpr char kFixture[] = "bert-cls";

// The fixture was recorded without dropout; here it has some.
std::unique_ptr<Model> ModelWithDropout(const std::string& directory) {
  std::system(("cp -r " + FixtureDirectory(kFixture) + "/. " + directory).c_str());
  std::system(("sed -i 's/dropout_prob\": 0.0/dropout_prob\": 0.25/' " + directory + "/config.json")
                  .c_str());
  std::unique_ptr<Model> model = LoadModel(directory, std::nullopt).value();
  EXPECT_EQ(model->config().source["hidden_dropout_prob"], 0.25);
  MakeTrainable(*model);
  return model;
}

struct Outcome {
  Tensor logits;
  std::map<std::string, Tensor> gradients;
};

Outcome ForwardAndBackward(Model& model, const FixtureBatch& batch, const RunContext& context) {
  Outcome outcome;
  outcome.logits = LogitsOf(model, batch.packed, context);
  CrossEntropySum(outcome.logits, batch.labels).backward();
  for (const Parameter& parameter : model.parameters().all()) {
    outcome.gradients[parameter.name] = parameter.tensor.grad();
    parameter.tensor.mutable_grad().reset();
  }
  return outcome;
}

class Paths : public ::testing::Test {
 protected:
  Paths() : fixture_(kFixture, std::nullopt), batch_(fixture_.Batch(0)) {
    std::string directory = ::testing::TempDir() + "thaw_paths_XXXXXX";
    directory_ = mkdtemp(directory.data());
    model_ = ModelWithDropout(directory_);
  }

  ModelFixture fixture_;
  FixtureBatch batch_;
  std::string directory_;
  std::unique_ptr<Model> model_;
};

TEST_F(Paths, AgreeWithDropoutForwardAndBackward) {
  RunContext context{.training = true, .dropout = {7, 3, 1}, .all_rows = true};
  const Outcome kernels = ForwardAndBackward(*model_, batch_, context);
  context.reference = true;
  const Outcome reference = ForwardAndBackward(*model_, batch_, context);
  EXPECT_LT(MaxDifference(kernels.logits, reference.logits), 1e-5);
  for (const auto& [name, gradient] : reference.gradients) {
    const double size = gradient.abs().max().item<double>();
    EXPECT_LT(MaxDifference(kernels.gradients.at(name), gradient), 1e-4 * size + 1e-5) << name;
  }
}

TEST_F(Paths, GradientsAreAddedToThoseThatAreSet) {
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
    Tensor expected = gradient + 1;
    if (name == "bert.embeddings.word_embeddings.weight") expected[0].zero_();  // padding: none
    EXPECT_LT(MaxDifference(added.gradients.at(name), expected), 1e-6 * (1 + size)) << name;
  }
}

TEST_F(Paths, DropoutFollowsItsKeyAndNothingElse) {
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

TEST_F(Paths, HeadRowsAloneGiveTheSameAsAllRows) {
  const Outcome few = ForwardAndBackward(*model_, batch_, {});
  const Outcome all = ForwardAndBackward(*model_, batch_, {.all_rows = true});
  EXPECT_LT(MaxDifference(few.logits, all.logits), 1e-5);
  for (const auto& [name, gradient] : all.gradients) {
    const double size = gradient.abs().max().item<double>();
    EXPECT_LT(MaxDifference(few.gradients.at(name), gradient), 1e-4 * size + 1e-5) << name;
  }
}

TEST_F(Paths, KernelsGiveTheSameBitsOnAnyNumberOfThreads) {
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

TEST_F(Paths, OnlyWhatIsTrainedGetsAGradient) {
  for (const Parameter& parameter : model_->parameters().all()) {
    parameter.tensor.set_requires_grad(parameter.group + 2 >=
                                       static_cast<int>(model_->groups().size()));
  }
  Rows rows;
  {
    torch::NoGradGuard no_grad;
    rows = model_->Embed(batch_.packed, {});
    for (int i = 0; i + 1 < model_->blocks(); ++i) rows = model_->Block(i, rows, {});
  }
  rows = model_->Block(model_->blocks() - 1, rows, {.training = true});
  CrossEntropySum(model_->Head(rows, {.training = true}), batch_.labels).backward();
  for (const Parameter& parameter : model_->parameters().all()) {
    EXPECT_EQ(parameter.tensor.grad().defined(), parameter.tensor.requires_grad())
        << parameter.name;
  }
}

TEST_F(Paths, BiasesAloneTrain) {
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
TEST_F(Paths, NothingStraysFromTheModelsDevice) {
  for (const Parameter& parameter : model_->parameters().all()) {
    ASSERT_TRUE(model_->parameters()
                    .SetTensor(parameter.name,
                               parameter.tensor.detach().to(torch::kMeta).set_requires_grad(true))
                    .ok());
  }
  Packed batch = batch_.packed;
  batch.token_ids = batch.token_ids.to(torch::kMeta);
  batch.token_type_ids = batch.token_type_ids.to(torch::kMeta);
  const Tensor logits = LogitsOf(*model_, batch, {.training = true});
  EXPECT_TRUE(logits.is_meta());
  EXPECT_EQ(logits.sizes(), (std::vector<int64_t>{4, 3}));
  logits.sum().backward();
  for (const Parameter& parameter : model_->parameters().all()) {
    EXPECT_TRUE(parameter.tensor.grad().is_meta()) << parameter.name;
  }
}

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
