#include "worker/training/model_directory.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/delta/delta.h"
#include "worker/model/weights.h"
#include "worker/training/result.h"
#include "worker/training/vocabulary_change.h"
#include "worker/tuning/peft_files.h"

namespace thaw {
namespace {

absl::Status Link(const std::string& target, const std::string& path) {
  std::error_code error;
  std::filesystem::create_directory_symlink(std::filesystem::absolute(target), path, error);
  return error ? absl::InternalError(absl::StrCat("linking ", path, ": ", error.message()))
               : absl::OkStatus();
}

// Weights are mapped where they lie; the small files are copied.
absl::Status JoinWithBase(const std::string& delta, const std::string& base,
                          const std::string& directory) {
  THAW_RETURN_IF_ERROR(MakeDirectories(directory));
  THAW_RETURN_IF_ERROR(Link(delta, absl::StrCat(directory, "/", kDeltaPart)));
  THAW_RETURN_IF_ERROR(Link(base, absl::StrCat(directory, "/", kBasePart)));
  THAW_ASSIGN_OR_RETURN(const std::string config, ReadFile(delta + "/config.json"));
  THAW_RETURN_IF_ERROR(WriteFileAtomically(directory + "/config.json", config));
  THAW_RETURN_IF_ERROR(CopyLicence(delta, directory));
  return CopyTokenizerFiles(delta, directory);
}

}  // namespace

absl::StatusOr<std::string> ModelDirectory(const internal::Run& run) {
  std::string directory = run.model_dir();
  if (IsAdapter(directory)) {
    if (!run.tokenizer_dir().empty()) {
      return InvalidField(
          "tokenizer",
          "an adapter knows its base's vocabulary alone: leave it out, or merge the "
          "adapter first");
    }
    if (run.base_dir().empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat(directory, " is an adapter, and its base model is not there"));
    }
    return run.base_dir();
  }
  if (HoldsDelta(run.model_dir())) {
    directory = run.work_dir() + "/joined";
    THAW_RETURN_IF_ERROR(JoinWithBase(run.model_dir(), run.base_dir(), directory));
  }
  if (!run.tokenizer_dir().empty()) {
    const std::string changed = run.work_dir() + "/model";
    THAW_RETURN_IF_ERROR(ChangeVocabulary(directory, run.tokenizer_dir(), changed));
    directory = changed;
  }
  return directory;
}

const std::string& TokenizerDirectory(const internal::Run& run) {
  if (!run.tokenizer_dir().empty()) return run.tokenizer_dir();
  return IsAdapter(run.model_dir()) ? run.base_dir() : run.model_dir();
}

const std::string& BaseWeightsDirectory(const internal::Run& run) {
  return run.base_dir().empty() ? run.model_dir() : run.base_dir();
}

const std::string& BaseDigest(const internal::Run& run) {
  const v1::Assignment& assignment = run.assignment();
  return assignment.has_base() ? assignment.base().digest() : assignment.model().digest();
}

}  // namespace thaw
