#include "worker/training/receipt.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "google/protobuf/util/json_util.h"
#include "worker/data/packed_batch.h"
#include "worker/training/checkpoint.h"
#include "worker/training/forward.h"

namespace thaw {
namespace {

constexpr int64_t kProbes = 4;
// Of the greatest answer. The files hold the very bits, so only kernels that look at where memory
// lies could make any difference.
constexpr double kExplained = 1e-4;

// Logits, or the log-probability of every token that carries loss.
torch::Tensor Answers(Model* model, const PackedBatch& batch) {
  const torch::NoGradGuard no_grad;
  if (model->config().head != HeadKind::kLanguageModel) {
    return Logits(model, batch, TrainedGroups(), DropoutKey());
  }
  const torch::Tensor states = LossStates(model, batch, TrainedGroups(), DropoutKey());
  const OutputLayer output = model->output_layer();
  return LinearLogProbabilities(PathFor(states), states, output.weight, output.bias,
                                NextIds(batch));
}

}  // namespace

absl::StatusOr<internal::ProbeCheck> CheckProbes(Model* model, const TokenizedDataset& dataset,
                                                 const std::string& saved_directory) {
  std::vector<int64_t> rows(static_cast<size_t>(std::min(kProbes, dataset.rows())));
  std::iota(rows.begin(), rows.end(), 0);
  const PackedBatch batch = Pack(dataset, rows);
  const torch::Tensor answers = Answers(model, batch).contiguous();
  THAW_ASSIGN_OR_RETURN(const auto saved, LoadModel(saved_directory, std::nullopt));
  const double difference =
      (Answers(saved.get(), batch) - answers).abs().max().to(torch::kFloat64).item<double>();
  const double greatest = answers.abs().max().to(torch::kFloat64).item<double>();
  if (!(difference <= kExplained * std::max(greatest, 1.0))) {
    return absl::InternalError(
        absl::StrCat("the result's files give other answers than the trainer, by ", difference,
                     " of ", greatest, ": they cannot be trusted"));
  }
  internal::ProbeCheck check;
  check.set_rows(static_cast<int32_t>(rows.size()));
  check.set_numbers(answers.numel());
  check.set_sha256(
      Sha256Hex({static_cast<const char*>(answers.const_data_ptr()), answers.nbytes()}));
  check.set_greatest_difference(difference);
  return check;
}

absl::Status WriteReceipt(const internal::Run& run, const std::string& history_sha256,
                          const internal::ProbeCheck& probes, const std::string& directory) {
  const v1::Assignment& assignment = run.assignment();
  internal::Receipt receipt;
  receipt.set_format_version(1);
  receipt.set_job(assignment.job());
  receipt.set_attempt(assignment.attempt());
  *receipt.mutable_resolved_spec() = assignment.spec();
  const auto add = [&](const char* field, const v1::Artifact& artifact) {
    if (artifact.id().empty()) return;
    internal::InputDigest* input = receipt.add_inputs();
    input->set_field(field);
    input->set_id(artifact.id());
    input->set_digest(artifact.digest());
  };
  add("spec.base_model", assignment.model());
  add("spec.base_model", assignment.base());
  add("spec.training.dataset", assignment.dataset());
  add("spec.training.validation_dataset", assignment.validation_dataset());
  add("spec.training.tokenizer", assignment.tokenizer());
  receipt.set_version(THAW_VERSION);
  *receipt.mutable_fingerprint() = CurrentFingerprint();
  receipt.set_history_sha256(history_sha256);
  *receipt.mutable_probes() = probes;
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(receipt, &json, options).ok()) {
    return absl::InternalError("a receipt cannot be written as JSON");
  }
  return WriteFileAtomically(directory + "/receipt.json", json);
}

}  // namespace thaw
