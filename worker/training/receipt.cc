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
#include "worker/data/batch_plan.h"
#include "worker/training/checkpoint.h"
#include "worker/training/forward.h"
#include "worker/training/run_precision.h"

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
  return LinearLogProbabilities(PathFor(states), states, output.weight, output.bias, NextIds(batch),
                                output.half);
}

}  // namespace

absl::StatusOr<ProbeAnswers> AnswerProbes(Model* model, const TokenizedDataset& dataset,
                                          int64_t tokens) {
  std::vector<int64_t> rows(static_cast<size_t>(std::min(kProbes, dataset.rows())));
  std::iota(rows.begin(), rows.end(), 0);
  ProbeAnswers answers;
  answers.batch = Pack(dataset, CutByTokens(dataset, rows, tokens).front());
  answers.values = Answers(model, answers.batch).contiguous();
  if (answers.values.isfinite().all().item<bool>()) return answers;
  return WithReason(absl::InvalidArgumentError(
                        "the trained model's answers are not finite: lower the learning rate"),
                    "NON_FINITE_WEIGHTS");
}

absl::StatusOr<internal::ProbeCheck> CheckProbes(const ProbeAnswers& answers, Model* saved) {
  const torch::Tensor& values = answers.values;
  const double difference =
      (Answers(saved, answers.batch) - values).abs().max().to(torch::kFloat64).item<double>();
  const double greatest = values.abs().max().to(torch::kFloat64).item<double>();
  if (!(difference <= kExplained * std::max(greatest, 1.0))) {
    return absl::InternalError(
        absl::StrCat("the result's files give other answers than the trainer, by ", difference,
                     " of ", greatest, ": they cannot be trusted"));
  }
  internal::ProbeCheck check;
  check.set_rows(static_cast<int32_t>(answers.batch.sequences()));
  check.set_numbers(values.numel());
  check.set_sha256(Sha256Hex({static_cast<const char*>(values.const_data_ptr()), values.nbytes()}));
  check.set_greatest_difference(difference);
  return check;
}

absl::Status WriteReceipt(const internal::Run& run, internal::Receipt receipt,
                          const std::string& directory) {
  const v1::Assignment& assignment = run.assignment();
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
  *receipt.mutable_fingerprint() = CurrentFingerprint(ComputesInHalf(run));
  if (assignment.micro_step_divisor() > 1) {
    receipt.set_micro_step_divisor(assignment.micro_step_divisor());
  }
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
