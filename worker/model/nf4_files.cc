#include "worker/model/nf4_files.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "worker/model/config_fields.h"
#include "worker/model/tensor_view.h"

namespace thaw {
namespace {

constexpr char kNf4State[] = ".quant_state.bitsandbytes__nf4";
constexpr int64_t kMaxStateBytes = 4096;

// Fills in what ".quant_state" says of the matrix.
absl::Status ReadState(absl::string_view text, Nf4Matrix* matrix) {
  THAW_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text));
  if (!json.is_object()) return absl::InvalidArgumentError("expected an object");
  ConfigFields fields(json, "", "", "quant_state");
  fields.Only("quant_type", "nf4");
  if (fields.Find("quant_type") == nullptr) fields.Fail("quant_type", "is missing");
  matrix->block_size = fields.Size("blocksize", 32, {}, 4096);
  if ((matrix->block_size & (matrix->block_size - 1)) != 0) {
    fields.Fail("blocksize", absl::StrCat("expected a power of 2, found ", matrix->block_size));
  }
  matrix->element_type = fields.Text("dtype", "");
  if (matrix->element_type != "float32" && matrix->element_type != "float16" &&
      matrix->element_type != "bfloat16") {
    fields.Fail("dtype", absl::StrCat("expected float32, float16 or bfloat16, found \"",
                                      matrix->element_type, "\""));
  }
  const nlohmann::json shape = {matrix->rows, matrix->columns};
  if (const nlohmann::json* found = fields.Find("shape"); found == nullptr || *found != shape) {
    fields.Fail("shape", absl::StrCat("expected ", shape.dump(), " by config.json, found ",
                                      found == nullptr ? "none" : ShownJson(*found)));
  }
  if (matrix->nested()) {
    matrix->nested_block_size = fields.Size("nested_blocksize", 1, {}, 1 << 20);
    fields.Only("nested_dtype", "float32");
    const nlohmann::json* offset = fields.Find("nested_offset");
    if (offset == nullptr || !offset->is_number()) {
      fields.Fail("nested_offset", "expected a number");
    } else {
      matrix->offset = offset->get<float>();
      if (!std::isfinite(matrix->offset)) fields.Fail("nested_offset", "is not finite");
    }
  }
  fields.RefuseUnread();
  return fields.status();
}

bool AllFinite(const torch::Tensor& tensor) {
  const float* const values = tensor.const_data_ptr<float>();
  return std::all_of(values, values + tensor.numel(), [](float x) { return std::isfinite(x); });
}

std::string StateText(const Nf4Matrix& matrix) {
  std::string text = absl::StrCat("{\"quant_type\": \"nf4\", \"blocksize\": ", matrix.block_size,
                                  ", \"dtype\": \"", matrix.element_type, "\", \"shape\": [",
                                  matrix.rows, ", ", matrix.columns, "]");
  if (matrix.nested()) {
    absl::StrAppend(&text, ", \"nested_blocksize\": ", matrix.nested_block_size,
                    ", \"nested_dtype\": \"float32\", \"nested_offset\": ",
                    nlohmann::json(double{matrix.offset}).dump());
  }
  return text + "}";
}

}  // namespace

bool HoldsNf4(const Weights& weights, const std::string& name) {
  return weights.Has(name + kNf4State);
}

absl::StatusOr<TensorSource> TakeNf4(Weights* weights, const std::string& name,
                                     const std::vector<int64_t>& shape, bool input_major) {
  const auto wrong = [&](const std::string& part, absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(weights->directory(), ": tensor \"", name, part, "\": ", what));
  };
  auto matrix = std::make_shared<Nf4Matrix>();
  matrix->rows = shape[input_major ? 1 : 0];
  matrix->columns = shape[input_major ? 0 : 1];
  matrix->input_major = input_major;
  const TensorInfo* const state_info = weights->Info(name + kNf4State);
  if (state_info->shape.size() != 1 || state_info->shape[0] > kMaxStateBytes) {
    return wrong(kNf4State, absl::StrCat("expected at most ", kMaxStateBytes, " bytes, found [",
                                         absl::StrJoin(state_info->shape, ", "), "]"));
  }
  THAW_ASSIGN_OR_RETURN(const TensorSource state,
                        weights->TakeAs(name + kNf4State, state_info->shape, torch::kUInt8));
  if (weights->Has(name + ".nested_quant_map")) {
    THAW_ASSIGN_OR_RETURN(const TensorSource map,
                          weights->TakeAs(name + ".nested_quant_map", {256}, torch::kFloat32));
    // One for all matrices, where it is the usual one.
    matrix->nested_map = at::equal(map.loaded, DynamicMap()) ? DynamicMap() : map.loaded.clone();
    if (!AllFinite(map.loaded)) return wrong(".nested_quant_map", "holds what is not finite");
  }
  const absl::string_view text(static_cast<const char*>(state.loaded.const_data_ptr()),
                               state.loaded.nbytes());
  if (const absl::Status read = ReadState(text, matrix.get()); !read.ok()) {
    return wrong(kNf4State, read.message());
  }
  THAW_ASSIGN_OR_RETURN(TensorSource source,
                        weights->TakeAs(name, {(matrix->numbers() + 1) / 2, 1}, torch::kUInt8));
  matrix->codes = source.loaded.flatten();
  THAW_ASSIGN_OR_RETURN(const TensorSource map,
                        weights->TakeAs(name + ".quant_map", {16}, torch::kFloat32));
  if (std::memcmp(map.loaded.const_data_ptr(), kNf4Table.data(), sizeof(kNf4Table)) != 0) {
    return wrong(".quant_map", "holds other numbers than NF4's");
  }
  const int64_t blocks = matrix->blocks();
  THAW_ASSIGN_OR_RETURN(const TensorSource scales,
                        weights->TakeAs(name + ".absmax", {blocks},
                                        matrix->nested() ? torch::kUInt8 : torch::kFloat32));
  matrix->scales = scales.loaded;
  torch::Tensor finite = scales.loaded;
  if (matrix->nested()) {
    THAW_ASSIGN_OR_RETURN(
        const TensorSource nested,
        weights->TakeAs(name + ".nested_absmax",
                        {(blocks + matrix->nested_block_size - 1) / matrix->nested_block_size},
                        torch::kFloat32));
    matrix->nested_scales = finite = nested.loaded;
  }
  if (!AllFinite(finite)) {
    return wrong(matrix->nested() ? ".nested_absmax" : ".absmax", "holds what is not finite");
  }
  source.loaded = Nf4Tensor(std::move(matrix));
  return source;
}

std::vector<TensorToWrite> Nf4ToWrite(const std::string& name, const Nf4Matrix& matrix,
                                      std::vector<torch::Tensor>* kept) {
  std::vector<TensorToWrite> tensors;
  const auto add = [&](const std::string& part, const torch::Tensor& tensor) {
    tensors.push_back(ToWrite(name + part, tensor));
  };
  const auto own = [&](torch::Tensor tensor) -> const torch::Tensor& {
    return kept->emplace_back(std::move(tensor));
  };
  add("", own(matrix.codes.view({-1, 1})));
  add(".absmax", matrix.scales);
  add(".quant_map", own(torch::tensor(at::ArrayRef<float>(kNf4Table.data(), kNf4Table.size()))));
  const std::string text = StateText(matrix);
  const torch::Tensor state = own(at::empty({static_cast<int64_t>(text.size())}, torch::kUInt8));
  std::memcpy(state.data_ptr(), text.data(), text.size());
  add(kNf4State, state);
  if (matrix.nested()) {
    add(".nested_absmax", matrix.nested_scales);
    add(".nested_quant_map", matrix.nested_map);
  }
  return tensors;
}

}  // namespace thaw
