#include "server/rpc/authorizer.h"

#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "grpc/grpc_security_constants.h"
#include "server/jobs/artifact_table.h"
#include "server/jobs/attempt_table.h"

namespace thaw {
namespace {

enum class Rule {
  kUsers,             // owners and admins
  kAdmins,            // admins
  kWorkers,           // workers
  kUsersAndAttempts,  // owners, admins, and workers for their live attempts
};

const std::map<std::string, Rule, std::less<>>& Rules() {
  static const auto* const rules = new std::map<std::string, Rule, std::less<>>{
      {"CreateJob", Rule::kUsers},
      {"GetJob", Rule::kUsers},
      {"ListJobs", Rule::kUsers},
      {"CancelJob", Rule::kUsers},
      {"PauseJob", Rule::kUsers},
      {"ResumeJob", Rule::kUsers},
      {"UpdateJob", Rule::kUsers},
      {"SteerJob", Rule::kUsers},
      {"WatchJob", Rule::kUsers},
      {"ListJobEvents", Rule::kUsers},
      {"ReadJobLog", Rule::kUsers},
      {"QueryMetrics", Rule::kUsers},
      {"CreateUpload", Rule::kUsersAndAttempts},
      {"Write", Rule::kUsersAndAttempts},
      {"QueryWrite", Rule::kUsersAndAttempts},
      {"FinishUpload", Rule::kUsersAndAttempts},
      {"GetArtifact", Rule::kUsersAndAttempts},
      {"Read", Rule::kUsersAndAttempts},
      {"ListArtifacts", Rule::kUsers},
      {"DeleteArtifact", Rule::kUsers},
      {"GetDatasetReport", Rule::kUsers},
      {"Sync", Rule::kWorkers},
      {"ListWorkers", Rule::kAdmins},
      {"DrainWorker", Rule::kAdmins},
  };
  return *rules;
}

// The one value of a metadata key; nothing if it is missing or repeated.
std::optional<std::string> Metadata(const grpc::ServerContextBase& context, const char* key) {
  const auto [begin, end] = context.client_metadata().equal_range(key);
  if (begin == end || std::next(begin) != end) return std::nullopt;
  return std::string(begin->second.data(), begin->second.size());
}

std::optional<Identity> IdentityOfCertificate(const grpc::AuthContext& connection) {
  if (!connection.IsPeerAuthenticated()) return std::nullopt;
  std::optional<Identity> identity;
  for (const auto& property : connection.FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME)) {
    absl::string_view name(property.data(), property.size());
    if (!absl::ConsumePrefix(&name, "thaw://")) continue;
    if (identity) return std::nullopt;  // two roles in one certificate: neither
    if (name == "admin") {
      identity = Identity{Role::kAdmin, "admin"};
    } else if (name == "worker") {
      identity = Identity{Role::kWorker, "worker"};
    } else if (absl::ConsumePrefix(&name, "owner/") && IsOwnerName(name)) {
      identity = Identity{Role::kOwner, std::string(name)};
    }
  }
  return identity;
}

bool Allows(Rule rule, Role role) {
  switch (rule) {
    case Rule::kUsers:
      return role != Role::kWorker;
    case Rule::kAdmins:
      return role == Role::kAdmin;
    case Rule::kWorkers:
      return role == Role::kWorker;
    case Rule::kUsersAndAttempts:
      return true;
  }
  return false;
}

absl::Status Denied(absl::string_view what) {
  return WithReason(absl::PermissionDeniedError(what), "NOT_ALLOWED");
}

}  // namespace

std::vector<std::string> Authorizer::Rpcs() {
  std::vector<std::string> names;
  for (const auto& [name, rule] : Rules()) names.push_back(name);
  return names;
}

absl::StatusOr<Identity> Authorizer::Identify(const grpc::ServerContextBase& context) const {
  if (context.client_metadata().count("authorization") > 0) {
    const std::optional<std::string> header = Metadata(context, "authorization");
    absl::string_view token = header ? absl::string_view(*header) : "";
    if (absl::ConsumePrefix(&token, "Bearer ")) {
      if (const auto identity = tokens_.Identify(token)) return *identity;
    }
    return WithReason(absl::UnauthenticatedError("the access token is not one of this server's"),
                      "BAD_ACCESS_TOKEN");
  }
  if (const auto identity = IdentityOfCertificate(*context.auth_context())) return *identity;
  return WithReason(
      absl::UnauthenticatedError("no access token came with the call: send the one of the server's "
                                 "data_dir/access_token as metadata authorization: Bearer …"),
      "NO_ACCESS_TOKEN");
}

absl::StatusOr<Caller> Authorizer::Authorize(const grpc::ServerContextBase& context,
                                             absl::string_view rpc,
                                             const CallObject& object) const {
  THAW_ASSIGN_OR_RETURN(const Identity identity, Identify(context));
  THAW_RETURN_IF_ERROR(threads_.Attribute(context, identity.name));
  const auto rule = Rules().find(std::string(rpc));
  if (rule == Rules().end() || !Allows(rule->second, identity.role)) {
    return Denied(absl::StrCat("the credential of ", identity.name, " may not call ", rpc));
  }
  Caller caller{.identity = identity, .owner = identity.name, .scope = identity.name};
  if (identity.role == Role::kAdmin) caller.scope.clear();
  if (identity.role == Role::kWorker) {
    caller.scope.clear();
    if (rule->second == Rule::kUsersAndAttempts) {
      THAW_RETURN_IF_ERROR(
          AllowWorker(Metadata(context, "thaw-attempt").value_or(""), object, &caller));
    }
    return caller;
  }
  if (object.kind == CallObject::kNewUpload && !object.id.empty()) {
    return Denied("only a worker uploads what an attempt leaves");
  }
  if (object.kind == CallObject::kUpload) {
    THAW_ASSIGN_OR_RETURN(const UploadRecord upload, store_.Read([&](Reader& reader) {
      return GetUpload(reader, caller.scope, object.id);
    }));
    if (!upload.request.attempt_id().empty()) return Denied("the upload is an attempt's");
  }
  return caller;
}

absl::Status Authorizer::AllowWorker(const std::string& attempt, const CallObject& object,
                                     Caller* caller) const {
  if (attempt.empty()) return Denied("a worker names its attempt in the metadata thaw-attempt");
  return store_.Read([&](Reader& reader) -> absl::Status {
    if (object.kind == CallObject::kUpload) {
      const auto upload = GetUpload(reader, "", object.id);
      if (!upload.ok()) return upload.status();
      if (upload->request.attempt_id() != attempt)
        return Denied("the upload is not this attempt's");
      // Its attempt may have ended with it: the answer to a repeated FinishUpload.
      if (!upload->artifact.empty()) return absl::OkStatus();
    }
    THAW_ASSIGN_OR_RETURN(const AttemptRecord live, GetLiveAttempt(reader, attempt));
    caller->owner = live.owner;
    if (object.kind == CallObject::kNewUpload && object.id != attempt) {
      return Denied("attempt_id is not the attempt of the metadata thaw-attempt");
    }
    if (object.kind != CallObject::kArtifact) return absl::OkStatus();
    THAW_ASSIGN_OR_RETURN(const v1::Assignment assignment, BuildAssignment(reader, attempt));
    std::vector<const v1::Artifact*> inputs = {
        &assignment.model(),      &assignment.dataset(),   &assignment.validation_dataset(),
        &assignment.checkpoint(), &assignment.tokenizer(), &assignment.base()};
    for (const v1::Artifact& model : assignment.average_with()) inputs.push_back(&model);
    for (const v1::Artifact* input : inputs) {
      if (!object.id.empty() && input->id() == object.id) return absl::OkStatus();
    }
    return Denied(absl::StrCat(object.id, " is no input of this attempt"));
  });
}

}  // namespace thaw
