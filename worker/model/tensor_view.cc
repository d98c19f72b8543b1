#include "worker/model/tensor_view.h"

#include <utility>

namespace thaw {
namespace {

constexpr std::pair<ElementType, torch::ScalarType> kTypePairs[] = {
    {ElementType::kBool, torch::kBool},     {ElementType::kU8, torch::kUInt8},
    {ElementType::kI8, torch::kInt8},       {ElementType::kI16, torch::kInt16},
    {ElementType::kU16, torch::kUInt16},    {ElementType::kF16, torch::kFloat16},
    {ElementType::kBF16, torch::kBFloat16}, {ElementType::kI32, torch::kInt32},
    {ElementType::kU32, torch::kUInt32},    {ElementType::kF32, torch::kFloat32},
    {ElementType::kF64, torch::kFloat64},   {ElementType::kI64, torch::kInt64},
    {ElementType::kU64, torch::kUInt64},
};

}  // namespace

torch::ScalarType ScalarTypeOf(ElementType type) {
  return kTypePairs[static_cast<int>(type)].second;
}

torch::Tensor ViewTensor(std::shared_ptr<const SafetensorsFile> file, const TensorInfo& tensor) {
  void* data = const_cast<void*>(file->Data(tensor));
  const auto options = torch::TensorOptions().dtype(ScalarTypeOf(tensor.type));
  const bool aligned =
      reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(ElementBytes(tensor.type)) == 0;
  torch::Tensor view = torch::from_blob(
      data, tensor.shape, [file = std::move(file)](void*) {}, options);
  return aligned ? view : view.clone();
}

TensorToWrite ToWrite(std::string name, const torch::Tensor& tensor) {
  TORCH_CHECK(tensor.is_contiguous() && tensor.is_cpu(), name, " is not contiguous on the CPU");
  for (const auto& [type, scalar] : kTypePairs) {
    if (tensor.scalar_type() == scalar) {
      return {std::move(name), type, tensor.sizes().vec(), tensor.data_ptr()};
    }
  }
  TORCH_CHECK(false, name, ": safetensors has no element type ", tensor.scalar_type());
}

}  // namespace thaw
