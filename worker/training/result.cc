#include "worker/training/result.h"

#include "common/base/files.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"
#include "worker/tuning/peft_files.h"

namespace thaw {
namespace {

constexpr const char* kTokenizerFiles[] = {"tokenizer.json",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "added_tokens.json",
                                           "vocab.txt",
                                           "vocab.json",
                                           "merges.txt",
                                           "tokenizer.model",
                                           "spiece.model",
                                           "sentencepiece.bpe.model",
                                           "chat_template.jinja",
                                           "chat_template.json",
                                           "generation_config.json"};

absl::Status CopyIfThere(const std::string& from, const std::string& to, const std::string& name) {
  if (!Exists(from + "/" + name)) return absl::OkStatus();
  THAW_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(from + "/" + name));
  return WriteFileAtomically(to + "/" + name, bytes);
}

}  // namespace

absl::Status WriteResult(const Model& model, const std::string& base_directory,
                         const std::string& directory) {
  THAW_RETURN_IF_ERROR(MakeDirectories(directory));
  THAW_RETURN_IF_ERROR(SaveModel(model, directory));
  THAW_RETURN_IF_ERROR(CopyLicence(base_directory, directory));
  return CopyTokenizerFiles(base_directory, directory);
}

absl::Status WriteAdapterResult(const Model& model, const v1::AddedPart& part,
                                const std::string& base_model, const std::string& base_directory,
                                const std::string& directory) {
  THAW_RETURN_IF_ERROR(MakeDirectories(directory));
  THAW_RETURN_IF_ERROR(SaveAdapter(model, part, base_model, directory));
  THAW_RETURN_IF_ERROR(
      WriteFileAtomically(directory + "/config.json", ResultConfigJson(model.config(), "")));
  THAW_RETURN_IF_ERROR(CopyLicence(base_directory, directory));
  return CopyTokenizerFiles(base_directory, directory);
}

absl::Status WriteDeltaResult(const Model& model, const std::string& base_directory,
                              const std::string& weights_directory, const std::string& base_digest,
                              const std::string& directory) {
  THAW_RETURN_IF_ERROR(MakeDirectories(directory));
  THAW_RETURN_IF_ERROR(SaveDelta(model, weights_directory, base_digest, directory));
  THAW_RETURN_IF_ERROR(CopyLicence(base_directory, directory));
  return CopyTokenizerFiles(base_directory, directory);
}

absl::Status WriteEvaluation(const EvaluatedWeights& weights, const EvaluationFigures& figures,
                             const std::string& directory) {
  nlohmann::ordered_json json = {
      {"step", weights.step}, {"metric", weights.metric}, {"values", figures.values}};
  if (!figures.confusion.empty()) {
    const auto classes = static_cast<std::ptrdiff_t>(weights.labels.size());
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (auto row = figures.confusion.begin(); row != figures.confusion.end(); row += classes) {
      rows.push_back(std::vector<int64_t>(row, row + classes));
    }
    json["confusion"] = {{"labels", weights.labels}, {"counts", std::move(rows)}};
  }
  return WriteFileAtomically(directory + "/evaluation.json", json.dump(2) + "\n");
}

absl::Status CopyTokenizerFiles(const std::string& from, const std::string& to) {
  for (const char* name : kTokenizerFiles) THAW_RETURN_IF_ERROR(CopyIfThere(from, to, name));
  return absl::OkStatus();
}

absl::Status CopyLicence(const std::string& from, const std::string& to) {
  return CopyIfThere(from, to, "LICENSE");
}

}  // namespace thaw
