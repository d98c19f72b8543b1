#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/output.h"
#include "common/base/clean_text.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "google/protobuf/util/json_util.h"

namespace thaw {
namespace {

constexpr char kReceiptFile[] = "receipt.json";
constexpr int kReceiptVersion = 1;
constexpr int64_t kMaxReceiptBytes = 4 << 20;

// What two results of the same spec have in common.
struct Comparison {
  std::string what;
  bool same = false;
};

absl::StatusOr<nlohmann::json> ReadReceipt(const Session& session, const v1::Artifact& result) {
  const auto text = session.client->artifacts().ReadFile(result, kReceiptFile, kMaxReceiptBytes);
  if (absl::IsNotFound(text.status())) {
    return absl::FailedPreconditionError(absl::StrCat(
        result.id(), " has no receipt: it is of a Thaw before there were any, or no training's"));
  }
  THAW_RETURN_IF_ERROR(text.status());
  const auto receipt = ParseJson(*text);
  if (!receipt.ok() || !receipt->is_object()) {
    return absl::DataLossError(absl::StrCat(kReceiptFile, " of ", result.id(), " is no receipt"));
  }
  const auto version = receipt->value("format_version", nlohmann::json());
  if (version != kReceiptVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        kReceiptFile, " of ", result.id(), " has format version ", CleanText(version.dump(), 20),
        "; this thaw reads ", kReceiptVersion, ": use a newer one"));
  }
  return *receipt;
}

// The job once more, with all that was done to it while it ran and nothing left to the clock.
absl::StatusOr<v1::JobSpec> SpecOfRepetition(const v1::Job& job, const nlohmann::json& receipt) {
  v1::JobSpec spec = job.resolved_spec();
  const nlohmann::json replay = {{"replay", receipt.value("steered", nlohmann::json::array())}};
  v1::Training done;
  if (!google::protobuf::util::JsonStringToMessage(replay.dump(), &done).ok()) {
    return absl::DataLossError(absl::StrCat(kReceiptFile, " of ", job.result(),
                                            " does not say what was done while the job ran"));
  }
  *spec.mutable_training()->mutable_replay() = done.replay();
  spec.clear_max_runtime();
  (*spec.mutable_labels())["reproduces"] = job.id();
  return spec;
}

std::map<std::string, std::string> HashesOf(const v1::Artifact& result) {
  std::map<std::string, std::string> hashes;
  for (const v1::File& file : result.files()) {
    if (file.path() != kReceiptFile) hashes[file.path()] = file.sha256();
  }
  return hashes;
}

absl::StatusOr<std::vector<Comparison>> Compare(const Session& session, const v1::Artifact& first,
                                                const v1::Artifact& second) {
  THAW_ASSIGN_OR_RETURN(const nlohmann::json a, ReadReceipt(session, first));
  THAW_ASSIGN_OR_RETURN(const nlohmann::json b, ReadReceipt(session, second));
  std::vector<Comparison> all;
  for (const auto& [what, field] :
       {std::pair("contents of model, data and tokenizer", "inputs"),
        std::pair("versions, threads and instructions", "fingerprint"),
        std::pair("micro-steps after memory ran out", "micro_step_divisor"),
        std::pair("steering and ends by the clock", "steered"),
        std::pair("loss of every step, evaluations", "history_sha256")}) {
    all.push_back({what, a.value(field, nlohmann::json()) == b.value(field, nlohmann::json())});
  }
  std::map<std::string, std::string> hashes = HashesOf(first), others = HashesOf(second);
  for (const auto& [path, hash] : hashes) {
    all.push_back({absl::StrCat("file ", path), others[path] == hash});
  }
  for (const auto& [path, hash] : others) {
    if (hashes.count(path) == 0) all.push_back({absl::StrCat("file ", path), false});
  }
  return all;
}

}  // namespace

ExitCode RunReproduce(const Session& session, const std::string& name) {
  THAW_ASSIGN_OR_RETURN(const std::string id, FindJob(session, name));
  THAW_ASSIGN_OR_RETURN(const v1::Job job, session.client->jobs().GetJob(id));
  if (!job.resolved_spec().has_training() || job.result().empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        id, " is no training that has left a result: there is nothing to compare with"));
  }
  THAW_ASSIGN_OR_RETURN(const v1::Artifact first,
                        session.client->artifacts().GetArtifact(job.result()));
  THAW_ASSIGN_OR_RETURN(const nlohmann::json receipt, ReadReceipt(session, first));
  v1::CreateJobRequest request;
  THAW_ASSIGN_OR_RETURN(*request.mutable_spec(), SpecOfRepetition(job, receipt));
  THAW_ASSIGN_OR_RETURN(const v1::Job again, session.client->jobs().CreateJob(request));
  if (!session.json) session.console->Line(absl::StrCat(again.id(), " runs ", id, " again"));
  const absl::StatusOr<v1::Job> ended = AwaitJob(session, again.id());
  if (absl::IsCancelled(ended.status())) return kExitInterrupted;
  THAW_RETURN_IF_ERROR(ended.status());
  if (ended->result().empty()) {
    return absl::AbortedError(absl::StrCat(again.id(), " has ended ",
                                           v1::Job::State_Name(ended->state()), ": ",
                                           ended->state_reason()));
  }
  THAW_ASSIGN_OR_RETURN(const v1::Artifact second,
                        session.client->artifacts().GetArtifact(ended->result()));
  THAW_ASSIGN_OR_RETURN(const std::vector<Comparison> all, Compare(session, first, second));
  bool same = true;
  nlohmann::json shown = nlohmann::json::object();
  for (const Comparison& one : all) {
    same = same && one.same;
    shown[one.what] = one.same;
    if (!session.json) {
      Print("%-9s  %s\n", one.same ? "the same" : "DIFFERENT", Printable(one.what).c_str());
    }
  }
  if (session.json) {
    Print(
        "%s\n",
        nlohmann::json({{"job", again.id()}, {"same", same}, {"compared", shown}}).dump().c_str());
  }
  return same ? kExitOk : kExitJobFailed;
}

}  // namespace thaw
