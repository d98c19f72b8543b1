// Who may call what: one table, asked in the first line of every handler; what is not in it is
// refused.
//
// Who calls is seen anew in every call: the bearer token in its metadata (`authorization: Bearer
// …`), or, with none, the certificate of the connection if mutual TLS verified one that carries the
// URI name thaw://admin, thaw://worker or thaw://owner/NAME. Certificates without such a name only
// encrypt.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/server_context.h"
#include "server/jobs/store.h"
#include "server/rpc/access_tokens.h"
#include "server/rpc/call_threads.h"

namespace thaw {

// What a call is about, where that decides who may make it.
struct CallObject {
  enum Kind { kNone, kUpload, kNewUpload, kArtifact } kind = kNone;
  std::string id;  // of the upload or artifact; kNewUpload: of the attempt, empty without one

  static CallObject Upload(std::string id) { return {kUpload, std::move(id)}; }
  static CallObject NewUpload(std::string attempt) { return {kNewUpload, std::move(attempt)}; }
  static CallObject Artifact(std::string id) { return {kArtifact, std::move(id)}; }
};

struct Caller {
  Identity identity;
  std::string owner;  // of what this call makes
  std::string scope;  // whose objects it may see; empty: everybody's
};

// Thread-safe. What it is given outlives it.
class Authorizer {
 public:
  Authorizer(const AccessTokens& tokens, Store& store, CallThreads& threads)
      : tokens_(tokens), store_(store), threads_(threads) {}

  // UNAUTHENTICATED without a valid credential, PERMISSION_DENIED with one that may not make this
  // call, RESOURCE_EXHAUSTED while its other calls hold their share of the threads. `rpc` is the
  // method's name. A worker names its attempt in the metadata thaw-attempt when the object is an
  // upload or artifact: the upload must be that attempt's, the artifact one of its inputs, and the
  // attempt live. A foreign upload is NOT_FOUND; other foreign objects are found out by passing
  // `scope` on. Reads the store if there is an object.
  absl::StatusOr<Caller> Authorize(const grpc::ServerContextBase& context, absl::string_view rpc,
                                   const CallObject& object = {}) const;

  // The methods that have a rule.
  static std::vector<std::string> Rpcs();

 private:
  absl::StatusOr<Identity> Identify(const grpc::ServerContextBase& context) const;
  absl::Status AllowWorker(const std::string& attempt, const CallObject& object,
                           Caller* caller) const;

  const AccessTokens& tokens_;
  Store& store_;
  CallThreads& threads_;
};

}  // namespace thaw
