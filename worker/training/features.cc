#include "worker/training/features.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/safetensors/safetensors.h"
#include "worker/data/batch_plan.h"
#include "worker/data/packed_batch.h"
#include "worker/model/tensor_view.h"
#include "worker/training/forward.h"

namespace thaw {
namespace {

// NPY, version 1.0 (numpy.lib.format): magic, version, length of the header, header, rows.
absl::Status WriteNpy(const std::string& path, const torch::Tensor& rows) {
  constexpr size_t kBeforeHeader = 10, kAlignment = 64;
  std::string header = absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (",
                                    rows.size(0), ", ", rows.size(1), "), }");
  const size_t unpadded = kBeforeHeader + header.size() + 1;
  header.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  header += '\n';
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size() & 0xff);
  bytes += static_cast<char>(header.size() >> 8);
  bytes += header;
  bytes.append(static_cast<const char*>(rows.const_data_ptr()), rows.nbytes());
  return WriteFileAtomically(path, bytes);
}

}  // namespace

std::optional<torch::Tensor> AllFeatures(Model* model, const TokenizedDataset& dataset,
                                         int64_t tokens_per_batch,
                                         const std::function<bool(int64_t rows_done)>& go_on) {
  const int64_t width = model->hidden_size();
  torch::Tensor result = at::empty({dataset.rows(), width}, torch::kFloat32);
  auto* out = result.mutable_data_ptr<float>();
  int64_t done = 0;
  for (const std::vector<int64_t>& rows : EvaluationBatches(dataset, tokens_per_batch)) {
    if (!go_on(done)) return std::nullopt;
    const PackedBatch batch = Pack(dataset, rows);
    const torch::Tensor vectors = PooledVectors(model, batch).cpu().contiguous();
    const auto* in = vectors.const_data_ptr<float>();
    for (int64_t i = 0; i < batch.sequences(); ++i) {
      std::copy_n(in + i * width, width, out + batch.rows[i] * width);
    }
    done += batch.sequences();
  }
  return result;
}

torch::Tensor TargetsOf(const TokenizedDataset& dataset) {
  if (!dataset.numbers.empty()) {
    return torch::tensor(dataset.numbers, torch::kFloat32).unsqueeze(1);
  }
  if (dataset.label_sets.empty()) {
    return torch::tensor(dataset.labels, torch::kInt32).to(torch::kInt64);
  }
  torch::Tensor sets = at::zeros({dataset.rows(), dataset.classes}, torch::kFloat32);
  auto* out = sets.mutable_data_ptr<float>();
  for (int64_t row = 0; row < dataset.rows(); ++row) {
    for (const int32_t label : dataset.label_sets[row]) out[row * dataset.classes + label] = 1;
  }
  return sets;
}

absl::Status WriteFeatures(const FeatureRows& training, const FeatureRows& validation,
                           const std::string& directory) {
  std::vector<torch::Tensor> kept, features;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, rows] : {std::pair("training", training), {"validation", validation}}) {
    if (!rows.features.defined()) continue;
    features.push_back(rows.features);
    kept.push_back(torch::tensor(rows.dataset->lines, torch::kInt64));
    kept.push_back(TargetsOf(*rows.dataset));
    tensors.push_back(ToWrite(name, rows.features));
    tensors.push_back(ToWrite(absl::StrCat(name, "_rows"), kept[kept.size() - 2]));
    tensors.push_back(ToWrite(absl::StrCat(name, "_targets"), kept.back()));
  }
  THAW_RETURN_IF_ERROR(WriteSafetensors(directory + "/features.safetensors", std::move(tensors)));
  return WriteNpy(directory + "/features.npy", at::cat(features).contiguous());
}

}  // namespace thaw
