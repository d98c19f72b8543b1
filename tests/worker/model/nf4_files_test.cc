// Damaged NF4 files are refused, naming what is wrong.
#include <cstring>
#include <filesystem>

#include "common/base/files.h"
#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/worker/model/model_fixture.h"

namespace thaw {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using torch::Tensor;
using TensorsByFileName = std::map<std::string, Tensor>;

constexpr char kLayer[] = "model.layers.1.mlp.up_proj.weight";
const std::string kState = std::string(kLayer) + ".quant_state.bitsandbytes__nf4";

// tests/data/nf4/llama with its tensors and config.json changed; gives what loading it says.
std::string Loading(
    const std::function<void(TensorsByFileName&)>& change,
    const std::function<void(json&)>& configure = [](json&) {}) {
  const std::string from = FixtureDirectory("../nf4/llama"), to = NewTestDirectory();
  const auto file = SafetensorsFile::Open(from + "/model.safetensors").value();
  TensorsByFileName tensors;
  for (const TensorInfo& tensor : file->tensors()) {
    tensors[tensor.name] = ViewTensor(file, tensor).clone();
  }
  change(tensors);
  std::vector<TensorToWrite> to_write;
  for (const auto& [name, tensor] : tensors) to_write.push_back(ToWrite(name, tensor));
  EXPECT_TRUE(WriteSafetensors(to + "/model.safetensors", std::move(to_write)).ok());
  json config = json::parse(ReadFile(from + "/config.json").value());
  configure(config["quantization_config"]);
  EXPECT_TRUE(WriteFileAtomically(to + "/config.json", config.dump()).ok());
  return LoadModel(to, std::nullopt).status().ToString();
}

Tensor Bytes(const std::string& text) {
  const Tensor bytes = at::empty({static_cast<int64_t>(text.size())}, torch::kUInt8);
  std::memcpy(bytes.data_ptr(), text.data(), text.size());
  return bytes;
}

TEST(Nf4FilesTest, TensorsOfOtherShapesAndTypesAreRefused) {
  EXPECT_EQ(Loading([](TensorsByFileName&) {}), "OK");
  const std::string layer = kLayer;
  struct {
    std::string part;
    Tensor tensor;  // undefined: taken out
    std::string says;
  } const cases[] = {
      {"", at::zeros({100, 1}, torch::kUInt8), kLayer},
      {"", at::zeros({2208, 1}, torch::kFloat32), kLayer},
      {".absmax", at::zeros({68}, torch::kUInt8), ".absmax"},
      {".absmax", at::zeros({69}, torch::kFloat32), ".absmax"},
      {".absmax", Tensor(), ".absmax"},
      {".quant_map", at::zeros({16}), "other numbers"},
      {".quant_map", at::zeros({15}), ".quant_map"},
      {".nested_absmax", at::zeros({2}), ".nested_absmax"},
      {".nested_absmax", at::full({1}, NAN), "not finite"},
      {".nested_absmax", Tensor(), ".nested_absmax"},
      {".nested_quant_map", at::zeros({255}), ".nested_quant_map"},
      {".nested_quant_map", at::full({256}, INFINITY), "not finite"},
      {".nested_quant_map", Tensor(), ""},
      {".quant_state.bitsandbytes__nf4", at::zeros({2, 2}, torch::kUInt8), "quant_state"},
      {".quant_state.bitsandbytes__nf4", at::zeros({5000}, torch::kUInt8), "at most 4096"},
      {".quant_state.bitsandbytes__nf4", at::zeros({8}), "quant_state"},
      {".quant_state.bitsandbytes__nf4", Tensor(), "expected floating point [92, 48]"},
      {".extra", at::zeros({1}), "has no place for"},
  };
  for (const auto& [part, tensor, says] : cases) {
    const std::string status = Loading([&](TensorsByFileName& tensors) {
      if (tensor.defined()) {
        tensors[layer + part] = tensor;
      } else {
        tensors.erase(layer + part);
      }
    });
    EXPECT_THAT(status, HasSubstr("INVALID_ARGUMENT")) << part;
    EXPECT_THAT(status, HasSubstr(says)) << part;
  }
}

TEST(Nf4FilesTest, StatesThatSaySomethingElseAreRefused) {
  const json right = {{"quant_type", "nf4"},     {"blocksize", 64},
                      {"dtype", "float32"},      {"shape", {92, 48}},
                      {"nested_blocksize", 256}, {"nested_dtype", "float32"},
                      {"nested_offset", 0.01}};
  struct {
    json change;
    std::string says;
  } const cases[] = {
      {{{"quant_type", "fp4"}}, "quant_type"},
      {{{"quant_type", nullptr}}, "quant_type"},
      {{{"blocksize", 48}}, "power of 2"},
      {{{"blocksize", 128}}, ".absmax"},  // which has too many
      {{{"blocksize", 8192}}, "blocksize"},
      {{{"blocksize", "64"}}, "blocksize"},
      {{{"dtype", "int8"}}, "dtype"},
      {{{"shape", {48, 92}}}, "shape"},
      {{{"shape", nullptr}}, "shape"},
      {{{"nested_blocksize", 0}}, "nested_blocksize"},
      {{{"nested_dtype", "float16"}}, "nested_dtype"},
      {{{"nested_offset", "x"}}, "nested_offset"},
      {{{"nested_offset", 1e300}}, "finite"},
      {{{"zero_point", 3}}, "zero_point"},
  };
  const auto loading = [&](const std::string& text) {
    return Loading([&](TensorsByFileName& tensors) { tensors[kState] = Bytes(text); });
  };
  EXPECT_EQ(loading(right.dump()), "OK");
  for (const auto& [change, says] : cases) {
    json state = right;
    state.update(change);
    const std::string status = loading(state.dump());
    EXPECT_THAT(status, HasSubstr("INVALID_ARGUMENT")) << change;
    EXPECT_THAT(status, HasSubstr(kLayer)) << change;
    EXPECT_THAT(status, HasSubstr(says)) << change;
  }
  for (const std::string text : {"", "{", "[]", "{\"blocksize\": 64, \"blocksize\": 64}", "\xff"}) {
    EXPECT_THAT(loading(text), HasSubstr(kLayer)) << text;
  }
}

TEST(Nf4FilesTest, OtherQuantisationIsRefusedByName) {
  struct {
    json change;
    std::string says;
  } const cases[] = {
      {{{"quant_method", "gptq"}}, "quant_method"},
      {{{"load_in_8bit", true}}, "load_in_8bit"},
      {{{"load_in_4bit", false}}, "load_in_4bit"},
      {{{"bnb_4bit_quant_type", "fp4"}}, "bnb_4bit_quant_type"},
      {{{"bnb_4bit_quant_storage", "bfloat16"}}, "bnb_4bit_quant_storage"},
      {{{"bnb_4bit_use_double_quant", "yes"}}, "bnb_4bit_use_double_quant"},
      {{{"group_size", 128}}, "group_size"},
  };
  for (const auto& [change, says] : cases) {
    const json& by_name = change;
    EXPECT_THAT(Loading([](TensorsByFileName&) {}, [&](json& config) { config.update(by_name); }),
                HasSubstr("quantization_config." + says));
  }
  // In which type others compute, and which layers they leave out, does not matter.
  EXPECT_EQ(Loading([](TensorsByFileName&) {},
                    [](json& config) {
                      config.update({{"bnb_4bit_compute_dtype", "bfloat16"},
                                     {"llm_int8_skip_modules", {"lm_head"}}});
                    }),
            "OK");
}

}  // namespace
}  // namespace thaw
