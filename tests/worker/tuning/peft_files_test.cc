// Adapter directories: what is saved loads again, what does not fit is refused by name.
#include "worker/tuning/peft_files.h"

#include "common/base/files.h"
#include "common/base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/tuning/adapter_fixture.h"
#include "worker/tuning/added_part.h"

namespace thaw {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using torch::Tensor;

// A copy of a recorded adapter with its tensors and configuration changed.
struct AdapterVariant {
  std::string model = "llama", method = "lora-qv";
  nlohmann::json changes = nlohmann::json::object();
  std::function<void(std::map<std::string, Tensor>*)> edit = [](auto*) {};

  std::string Make() const {
    const std::string source = AdapterDirectory(model, method), directory = NewTestDirectory();
    auto config = ReadJsonFile(source + "/adapter_config.json").value();
    config.update(changes);
    EXPECT_TRUE(WriteFileAtomically(directory + "/adapter_config.json", config.dump()).ok());
    const auto file = SafetensorsFile::Open(source + "/adapter_model.safetensors").value();
    std::map<std::string, Tensor> tensors;
    for (const TensorInfo& info : file->tensors()) tensors[info.name] = ViewTensor(file, info);
    edit(&tensors);
    std::vector<TensorToWrite> list;
    for (const auto& [name, tensor] : tensors) list.push_back(ToWrite(name, tensor));
    EXPECT_TRUE(WriteSafetensors(directory + "/adapter_model.safetensors", std::move(list)).ok());
    return directory;
  }

  absl::Status Load() const {
    ModelFixture fixture(model, std::nullopt);
    return LoadAdapter(Make(), fixture.model.get()).status();
  }
};

TEST(PeftFiles, WhatIsSavedLoadsAgainWithTheSameBits) {
  for (const char* model : {"llama", "gpt2", "bert-cls", "t5"}) {
    for (const char* method : {"lora-all-linear", "lora-qv", "rslora-qv", "lora-bias", "dora-qv",
                               "ia3", "prompt-tuning", "prefix-tuning"}) {
      const std::string source = AdapterDirectory(model, method), saved = NewTestDirectory();
      ModelFixture first(model, std::nullopt), second(model, std::nullopt);
      const auto part = LoadAdapter(source, first.model.get());
      ASSERT_TRUE(part.ok()) << part.status();
      ASSERT_TRUE(SaveAdapter(*first.model, *part, "base", saved).ok());
      const auto again = LoadAdapter(saved, second.model.get());
      ASSERT_TRUE(again.ok()) << again.status();
      torch::NoGradGuard no_grad;
      const Packed packed = first.Batch(0).packed;
      EXPECT_TRUE(at::equal(LogitsOf(*first.model, packed), LogitsOf(*second.model, packed)));
      // The very tensors that PEFT wrote, by its names.
      const auto theirs = SafetensorsFile::Open(source + "/adapter_model.safetensors").value();
      const auto ours = SafetensorsFile::Open(saved + "/adapter_model.safetensors").value();
      EXPECT_EQ(theirs->tensors().size(), ours->tensors().size());
      for (const TensorInfo& info : theirs->tensors()) {
        const TensorInfo* other = ours->Find(info.name);
        ASSERT_NE(other, nullptr) << model << "/" << method << " " << info.name;
        EXPECT_TRUE(at::equal(ViewTensor(theirs, info), ViewTensor(ours, *other))) << info.name;
      }
      const auto config = ReadJsonFile(saved + "/adapter_config.json").value();
      const auto their_config = ReadJsonFile(source + "/adapter_config.json").value();
      for (const char* field :
           {"peft_type", "task_type", "r", "lora_alpha", "bias", "use_dora", "use_rslora",
            "fan_in_fan_out", "lora_dropout", "num_virtual_tokens", "num_transformer_submodules",
            "token_dim", "num_layers"}) {
        EXPECT_EQ(config.value(field, nlohmann::json()),
                  their_config.value(field, nlohmann::json()))
            << model << "/" << method << " " << field;
      }
    }
  }
}

TEST(PeftFiles, ModulesAreNamedWholeWhereTheirEndsAreNotEnough) {
  ModelFixture fixture("llama", std::nullopt);
  const auto part =
      PartOf(R"(lora { rank: 4 alpha: 8 target_modules: "q_proj" layers_to_transform: 1 })");
  ASSERT_TRUE(AddPart(part, 1, fixture.model.get()).ok());
  const std::string directory = NewTestDirectory();
  ASSERT_TRUE(SaveAdapter(*fixture.model, part, "base", directory).ok());
  EXPECT_THAT(ReadJsonFile(directory + "/adapter_config.json").value()["target_modules"],
              ElementsAre("model.layers.1.self_attn.q_proj"));
  ModelFixture again("llama", std::nullopt);
  EXPECT_TRUE(LoadAdapter(directory, again.model.get()).ok());
}

TEST(PeftFiles, AClassifierIsAlwaysStored) {
  ModelFixture fixture("bert-cls", std::nullopt);
  const auto part = PartOf(R"(lora { rank: 4 alpha: 8 target_modules: "query" })");
  ASSERT_TRUE(AddPart(part, 1, fixture.model.get()).ok());
  const std::string directory = NewTestDirectory();
  ASSERT_TRUE(SaveAdapter(*fixture.model, part, "base", directory).ok());
  const auto config = ReadJsonFile(directory + "/adapter_config.json").value();
  EXPECT_THAT(config["modules_to_save"], ElementsAre("classifier"));
  const auto file = SafetensorsFile::Open(directory + "/adapter_model.safetensors").value();
  EXPECT_NE(file->Find("base_model.model.classifier.weight"), nullptr);
  ModelFixture again("bert-cls", std::nullopt);
  EXPECT_TRUE(LoadAdapter(directory, again.model.get()).ok());
}

TEST(PeftFiles, HalfPrecisionBecomesFp32) {
  AdapterVariant variant;
  variant.edit = [](auto* tensors) {
    for (auto& [name, tensor] : *tensors) tensor = tensor.to(torch::kBFloat16);
  };
  ModelFixture fixture("llama", std::nullopt);
  const auto part = LoadAdapter(variant.Make(), fixture.model.get());
  ASSERT_TRUE(part.ok()) << part.status();
  const Tensor a =
      fixture.model->parameters().Find("model.layers.0.self_attn.q_proj.lora_A.weight")->tensor;
  EXPECT_EQ(a.scalar_type(), torch::kFloat32);
}

TEST(PeftFiles, NamesOfAModelWithoutAHead) {
  // As PEFT writes them for a base class: BertModel has no "bert.".
  AdapterVariant variant;
  variant.model = "bert-cls";
  variant.changes = {{"task_type", "FEATURE_EXTRACTION"}};
  variant.edit = [](auto* tensors) {
    std::map<std::string, Tensor> renamed;
    for (auto& [name, tensor] : *tensors) {
      const size_t at = name.find(".bert.");
      renamed[at == std::string::npos ? name : std::string(name).erase(at, 5)] = tensor;
    }
    *tensors = renamed;
  };
  EXPECT_TRUE(variant.Load().ok());
}

TEST(PeftFiles, WhatDoesNotFitIsRefusedByName) {
  const std::string q = "base_model.model.model.layers.0.self_attn.q_proj.";
  const struct {
    std::function<void(std::map<std::string, Tensor>*)> edit;
    nlohmann::json changes;
    std::string message;
  } cases[] = {
      {[&](auto* t) { t->erase(q + "lora_A.weight"); },
       {},
       "\"model.layers.0.self_attn.q_proj.lora_A.weight\" is missing"},
      {[&](auto* t) { (*t)[q + "lora_C.weight"] = at::zeros({4}); },
       {},
       "q_proj.lora_C.weight\" has no place"},
      {[&](auto* t) { (*t)["base_model.model.model.norm.weight"] = at::zeros({48}); },
       {},
       "model.norm.weight\" has no place"},
      {[&](auto* t) {
         (*t)[q + "lora_A.weight"] = at::zeros({5, 48});
       },
       {},
       "[4, 48]"},
      {[](auto*) {}, {{"r", 8}}, "expected Float [8, 48], found Float [4, 48]"},
      {[](auto*) {}, {{"target_modules", {"q_proj"}}}, "has no place"},
      {[](auto*) {}, {{"target_modules", {"q_proj", "v_proj", "k_proj"}}}, "is missing"},
      {[](auto*) {}, {{"target_modules", {"query"}}}, "matches no module"},
      {[](auto*) {}, {{"use_dora", true}}, "lora_magnitude_vector\" is missing"},
      {[](auto*) {}, {{"bias", "all"}, {"modules_to_save", {"lm_head"}}}, "is missing"},
      {[&](auto* t) {
         const Tensor a = (*t)[q + "lora_A.weight"];
         (*t)[q + "base_layer.lora_A.weight"] = a;
       },
       {},
       "two tensors stand for"},
  };
  for (const auto& [edit, changes, message] : cases) {
    AdapterVariant variant;
    variant.edit = edit;
    if (!changes.is_null()) variant.changes = changes;
    const absl::Status status = variant.Load();
    ASSERT_FALSE(status.ok()) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(PeftFiles, AdaptersAreKnownAndPicklesAreNot) {
  EXPECT_TRUE(IsAdapter(AdapterDirectory("llama", "lora-qv")));
  EXPECT_FALSE(IsAdapter(FixtureDirectory("llama")));
  const std::string directory = AdapterVariant().Make();
  ASSERT_TRUE(WriteFileAtomically(directory + "/adapter_model.bin", "x").ok());
  ASSERT_TRUE(RemoveTree(directory + "/adapter_model.safetensors").ok());
  ModelFixture fixture("llama", std::nullopt);
  EXPECT_THAT(std::string(LoadAdapter(directory, fixture.model.get()).status().message()),
              HasSubstr("pickle"));
}

}  // namespace
}  // namespace thaw
