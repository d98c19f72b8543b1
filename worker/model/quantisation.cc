#include "worker/model/quantisation.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/config_fields.h"

namespace thaw {

using nlohmann::json;

absl::StatusOr<Nf4Config> ParseQuantisation(const json& source) {
  if (!source.is_object()) {
    return InvalidField("quantization_config",
                        absl::StrCat("config.json: expected an object, found ", ShownJson(source)));
  }
  ConfigFields fields(source, "quantization_config.", "config.json", "quantization_config");
  const std::string method = fields.Text("quant_method", "");
  if (method != "bitsandbytes") {
    fields.Fail("quant_method",
                absl::StrCat("\"", method,
                             "\" is not supported, only \"bitsandbytes\" with NF4: give the model "
                             "in fp32, fp16 or bf16"));
  }
  fields.Only("load_in_8bit", false);
  fields.Only("_load_in_8bit", false);
  fields.Only("_load_in_4bit", true);
  if (!fields.Flag("load_in_4bit", false)) {
    fields.Fail("load_in_4bit", "expected true: only weights in 4 bits are read");
  }
  if (fields.Text("bnb_4bit_quant_type", "fp4") != "nf4") {
    fields.Fail("bnb_4bit_quant_type", "expected \"nf4\"");
  }
  fields.Only("bnb_4bit_quant_storage", "uint8");
  Nf4Config config;
  config.nested = fields.Flag("bnb_4bit_use_double_quant", false);
  // Which layers are in 4 bits is what the files say; the rest is of 8 bits.
  fields.Ignore({"bnb_4bit_compute_dtype", "llm_int8_skip_modules", "llm_int8_threshold",
                 "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight"});
  fields.RefuseUnread();
  THAW_RETURN_IF_ERROR(fields.status());
  return config;
}

json QuantisationJson(const Nf4Config& config, const std::vector<std::string>& others) {
  return {{"_load_in_4bit", true},
          {"_load_in_8bit", false},
          {"bnb_4bit_compute_dtype", "float32"},
          {"bnb_4bit_quant_storage", "uint8"},
          {"bnb_4bit_quant_type", "nf4"},
          {"bnb_4bit_use_double_quant", config.nested},
          {"llm_int8_enable_fp32_cpu_offload", false},
          {"llm_int8_has_fp16_weight", false},
          {"llm_int8_skip_modules", others},
          {"llm_int8_threshold", 6.0},
          {"load_in_4bit", true},
          {"load_in_8bit", false},
          {"quant_method", "bitsandbytes"}};
}

}  // namespace thaw
