#include "worker/training/result.h"

#include "common/base/files.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr const char* kCopiedFiles[] = {"tokenizer.json",
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
                                        "generation_config.json",
                                        "LICENSE"};

}  // namespace

absl::Status WriteResult(const Model& model, const std::string& base_directory,
                         const std::string& directory) {
  THAW_RETURN_IF_ERROR(MakeDirectories(directory));
  THAW_RETURN_IF_ERROR(SaveModel(model, directory));
  for (const char* name : kCopiedFiles) {
    const std::string from = base_directory + "/" + name;
    if (!Exists(from)) continue;
    THAW_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(from));
    THAW_RETURN_IF_ERROR(WriteFileAtomically(directory + "/" + name, bytes));
  }
  return absl::OkStatus();
}

}  // namespace thaw
