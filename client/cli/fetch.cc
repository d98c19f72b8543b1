#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/output.h"
#include "common/base/files.h"
#include "common/base/status.h"

namespace thaw {

ExitCode RunFetch(const Session& session, const FetchOptions& options) {
  THAW_ASSIGN_OR_RETURN(const v1::Artifact found, FindModel(session, options.job_or_result));
  THAW_ASSIGN_OR_RETURN(const v1::Artifact artifact,
                        session.client->artifacts().GetArtifact(found.id()));
  // The server's word alone must not choose where files are written.
  if (options.directory.empty() &&
      (!IsSafeRelativePath(artifact.id()) || absl::StrContains(artifact.id(), '/'))) {
    return absl::DataLossError(absl::StrCat("the server names an unsafe id: ", artifact.id()));
  }
  const std::string directory = options.directory.empty() ? artifact.id() : options.directory;
  const auto progress = ShowTransfer(session.console, absl::StrCat("fetching ", artifact.id()));
  ArtifactClient& artifacts = session.client->artifacts();
  const absl::Status status = options.as == "full"
                                  ? artifacts.FetchFull(artifact, directory, progress)
                                  : artifacts.Fetch(artifact, directory, progress);
  session.console->ClearStatus();
  THAW_RETURN_IF_ERROR(status);
  if (session.json) {
    Print("%s\n", JsonLine(artifact).c_str());
    return kExitOk;
  }
  if (options.as == "full" && artifact.form() == v1::Artifact::DELTA) {
    Print("%s with the weights of %s, every byte checked, now in %s\n", artifact.id().c_str(),
          artifact.base_model().c_str(), directory.c_str());
    return kExitOk;
  }
  Print("%s  %s in %d files, every byte checked, now in %s\n", artifact.id().c_str(),
        FormatBytes(artifact.size_bytes()).c_str(), artifact.files_size(), directory.c_str());
  if (artifact.form() == v1::Artifact::DELTA) {
    Print("It holds what differs from %s; --as full gives all weights.\n",
          artifact.base_model().c_str());
  }
  return kExitOk;
}

}  // namespace thaw
