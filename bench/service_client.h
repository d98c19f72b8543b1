// What the load programs share: calls to a thawd that nothing else uses, inputs for jobs that no
// trainer runs, and figures on paper.
#pragma once

#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/rpc/channel.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "thaw/v1/artifact_service.grpc.pb.h"
#include "thaw/v1/fine_tune_service.grpc.pb.h"
#include "thaw/v1/worker_service.grpc.pb.h"

namespace thaw::bench {

// Both access tokens of the server with that data_dir; ends the program if they cannot be read.
struct Tokens {
  std::string admin;
  std::string worker;
};
Tokens ReadTokens(const std::string& data_dir);

// A connection of its own: channels of equal arguments would share one.
std::shared_ptr<grpc::Channel> Connect(const std::string& server);

// Prints what went wrong and ends the program.
[[noreturn]] void Die(const std::string& what);

// One call; ends the program unless it succeeds.
template <typename Stub, typename Request, typename Response>
Response CallOrDie(Stub& stub,
                   grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                   const std::string& token, const Request& request) {
  grpc::ClientContext context;
  AddAccessToken(token, &context);
  Response response;
  const grpc::Status status = (stub.*method)(&context, request, &response);
  if (!status.ok()) Die(status.error_message());
  return response;
}

// Uploads files that fit into a message each; waits until a dataset has been read through.
std::string Publish(v1::ArtifactService::Stub& stub, const std::string& token,
                    v1::Artifact::Kind kind,
                    const std::vector<std::pair<std::string, std::string>>& files);

// config.json, model.safetensors and tokenizer.json of a model whose weights are `bytes` long, a
// multiple of 4. Only the server takes it for one.
std::vector<std::pair<std::string, std::string>> ModelFiles(size_t bytes);

// A training that the server accepts; its model and dataset are uploaded first.
v1::JobSpec MakeSpec(v1::ArtifactService::Stub& stub, const std::string& token);

// A worker with a CPU and one slot, as it greets the server.
v1::SyncRequest NewWorker(const std::string& name);
// Its report that an attempt has failed through the user's fault, after which nothing follows.
void ReportFailed(const v1::Assignment& assignment, v1::AttemptReport* report);

// "what: median … ms, 99th percentile … ms, most … ms (of n)".
void PrintLatencies(const char* what, std::vector<double> seconds);
// Seconds of processor that this process has used so far.
double CpuSeconds();
// The machine's load average of the last minute.
double Load();

}  // namespace thaw::bench
