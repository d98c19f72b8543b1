#include "server/artifacts/based_model.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/clean_text.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/delta/delta.h"
#include "common/safetensors/safetensors.h"
#include "server/artifacts/model_summary.h"
#include "server/jobs/artifact_table.h"
#include "server/jobs/attempt_table.h"
#include "server/jobs/job_row.h"

namespace thaw {
namespace {

using v1::Artifact;

constexpr char kAdapterConfigFile[] = "adapter_config.json";
constexpr char kAdapterWeightsFile[] = "adapter_model.safetensors";

bool HasFile(const Artifact& artifact, absl::string_view path) {
  return std::any_of(artifact.files().begin(), artifact.files().end(),
                     [&](const v1::File& file) { return file.path() == path; });
}

bool HasAllWeights(const Artifact& artifact) { return artifact.base_model().empty(); }

// What a reader says of a file of the directory, without the directory.
absl::Status Refused(const std::string& directory, absl::string_view file,
                     const absl::Status& status) {
  std::string why = CleanText(status.message(), 400);
  absl::StrReplaceAll({{directory + "/", ""}}, &why);
  return InvalidField("files", absl::StrCat("hold a ", file, " that cannot be used: ", why));
}

// An adapter without a config.json of its own answers as its base does, but for a classifier that
// it brings along: of that it knows the number of labels and not their names.
absl::Status SummarizeBareAdapter(const std::string& directory, v1::ModelSummary* summary) {
  const auto file = SafetensorsFile::Open(absl::StrCat(directory, "/", kAdapterWeightsFile));
  if (!file.ok()) return Refused(directory, kAdapterWeightsFile, file.status());
  int64_t numbers = 0;
  for (const TensorInfo& tensor : (*file)->tensors()) {
    numbers += (tensor.end - tensor.begin) / ElementBytes(tensor.type);
  }
  summary->set_parameters(numbers);
  for (const TensorInfo& tensor : (*file)->tensors()) {
    const bool classifies = absl::EndsWith(tensor.name, "classifier.weight") ||
                            absl::EndsWith(tensor.name, "classifier.out_proj.weight") ||
                            absl::EndsWith(tensor.name, ".score.weight");
    if (!classifies || tensor.shape.size() != 2) continue;
    const int64_t labels = tensor.shape[0];
    if (labels < 1 || labels > 10'000) {
      return InvalidField("files", absl::StrCat("hold a ", kAdapterWeightsFile,
                                                " with a classifier of ", labels, " labels"));
    }
    if (summary->labels_size() == labels) return absl::OkStatus();
    summary->set_head(v1::ModelSummary::CLASSIFIER);
    summary->clear_labels();
    for (int64_t i = 0; i < labels; ++i) summary->add_labels(absl::StrCat("LABEL_", i));
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

// Those of a prompt or a prefix, which take positions; 0 for other parts. What else the file says
// is the trainer's.
absl::StatusOr<int32_t> VirtualTokensOfAdapter(const std::string& directory) {
  const auto config = ReadJsonFile(absl::StrCat(directory, "/", kAdapterConfigFile));
  if (!config.ok()) return Refused(directory, kAdapterConfigFile, config.status());
  if (!config->is_object() || !config->contains("num_virtual_tokens")) return 0;
  const nlohmann::json& count = (*config)["num_virtual_tokens"];
  if (count.is_null()) return 0;
  constexpr int64_t kMost = 1024;
  if (!count.is_number_integer() || count < 1 || count > kMost) {
    return InvalidField(
        "files", absl::StrCat("hold an ", kAdapterConfigFile, " with ", CleanText(count.dump(), 40),
                              " as num_virtual_tokens; give 1 to ", kMost));
  }
  return count.get<int32_t>();
}

}  // namespace

Artifact::Form FormOf(const Artifact& artifact) {
  if (artifact.kind() != Artifact::MODEL && artifact.kind() != Artifact::RESULT) {
    return Artifact::FORM_UNSPECIFIED;
  }
  if (HasFile(artifact, kDeltaFile)) return Artifact::DELTA;
  if (HasFile(artifact, kAdapterConfigFile)) return Artifact::ADAPTER;
  return HasFile(artifact, "config.json") ? Artifact::FULL : Artifact::FORM_UNSPECIFIED;
}

absl::Status CheckUploadBase(Reader& reader, const std::string& owner,
                             const v1::CreateUploadRequest& request) {
  if (request.base_model().empty()) return absl::OkStatus();
  const auto refuse = [&](absl::string_view why) {
    return InvalidField("base_model", absl::StrCat("\"", request.base_model(), "\" ", why));
  };
  const auto base = GetArtifact(reader, owner, request.base_model());
  if (absl::IsNotFound(base.status())) return refuse("does not exist; give the id of a model");
  THAW_RETURN_IF_ERROR(base.status());
  if (FormOf(*base) == Artifact::FORM_UNSPECIFIED) {
    return refuse("is no model; give the id of the model that this was made for");
  }
  if (!HasAllWeights(*base)) {
    return refuse(absl::StrCat("builds on ", base->base_model(),
                               " itself; give the id of a model "
                               "with all weights"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Artifact> BaseOfUpload(Reader& reader, const UploadRecord& upload) {
  std::string id = upload.request.base_model();
  if (!upload.request.attempt_id().empty()) {
    THAW_ASSIGN_OR_RETURN(const AttemptRecord attempt,
                          GetAttempt(reader, upload.request.attempt_id()));
    THAW_ASSIGN_OR_RETURN(const JobRow row, LoadJob(reader, "", attempt.job));
    THAW_ASSIGN_OR_RETURN(const JobSpecs specs, LoadSpecs(reader, row.number));
    id = specs.resolved_spec.base_model();
  }
  THAW_ASSIGN_OR_RETURN(Artifact base, GetArtifact(reader, "", id));
  if (HasAllWeights(base)) return base;
  return GetArtifact(reader, "", base.base_model());
}

absl::Status DescribeOnBase(const std::string& directory, const Artifact& base,
                            Artifact* artifact) {
  const bool delta = artifact->form() == Artifact::DELTA;
  if (delta) {
    const auto digest = DeltaBaseDigest(directory);
    if (!digest.ok()) return Refused(directory, kDeltaFile, digest.status());
    if (*digest != base.digest()) {
      return InvalidField("base_model",
                          absl::StrCat("\"", base.id(), "\" has the digest ", base.digest(),
                                       ", the delta was made for the model with the digest ",
                                       CleanText(*digest, 80), "; give that one"));
    }
  }
  artifact->set_base_model(base.id());
  int32_t virtual_tokens = 0;
  if (HasFile(*artifact, kAdapterConfigFile)) {
    THAW_ASSIGN_OR_RETURN(virtual_tokens, VirtualTokensOfAdapter(directory));
  }
  v1::ModelSummary* summary = artifact->mutable_model();
  if (HasFile(*artifact, "config.json")) {
    THAW_ASSIGN_OR_RETURN(*summary, SummarizeModel(directory, *artifact));
    // An adapter reads its base's text.
    if (!delta) summary->set_chat_template(base.model().chat_template());
  } else {
    *summary = base.model();
    THAW_RETURN_IF_ERROR(SummarizeBareAdapter(directory, summary));
  }
  // Of a bounded number prompts and prefixes leave the rest.
  if (virtual_tokens > 0 && summary->max_positions() > 0) {
    if (virtual_tokens >= summary->max_positions()) {
      return InvalidField(
          "files", absl::StrCat("hold an ", kAdapterConfigFile, " with ", virtual_tokens,
                                " num_virtual_tokens; the base has ", summary->max_positions(),
                                " positions"));
    }
    summary->set_max_positions(summary->max_positions() - virtual_tokens);
  }
  // A delta has some of the base's tensors again, an adapter none.
  const int64_t of_base = base.model().parameters();
  int64_t parameters = std::max(of_base, summary->parameters());
  if (!delta && __builtin_add_overflow(of_base, summary->parameters(), &parameters)) {
    return InvalidField("files", "and the base together have more numbers than fit into 63 bits");
  }
  summary->set_parameters(parameters);
  return absl::OkStatus();
}

}  // namespace thaw
