// The commands of `thaw`. Each takes what main.cc read from the command line and gives back the
// exit code, or an error for main.cc to print. Results go to stdout, progress to the console.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/console.h"
#include "client/cli/interrupts.h"
#include "client/thaw_client.h"

namespace thaw {

// Exit codes.
inline constexpr int kExitOk = 0;
inline constexpr int kExitJobFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitUnreachable = 3;
inline constexpr int kExitInterrupted = 130;  // Ctrl-C, as shells have it

struct Session {
  ThawClient* client = nullptr;
  Console* console = nullptr;
  Interrupts* interrupts = nullptr;
  bool json = false;
};
using ExitCode = absl::StatusOr<int>;

struct ImportOptions {
  v1::Artifact::Kind kind = v1::Artifact::MODEL;
  std::string path;
  std::string name;
  std::string task;            // empty: classification
  std::string format;          // empty: by the file's ending
  v1::DatasetColumns columns;  // without task and format
  std::string base;            // of an adapter or a delta: id or name of its model
};
ExitCode RunImport(const Session& session, const ImportOptions& options);

struct ArtifactsOptions {
  v1::Artifact::Kind kind = v1::Artifact::MODEL;
  std::string artifact;  // id or name
};
ExitCode RunListArtifacts(const Session& session, const ArtifactsOptions& options);
ExitCode RunShowArtifact(const Session& session, const ArtifactsOptions& options);
ExitCode RunDeleteArtifact(const Session& session, const ArtifactsOptions& options);

// Zeros and empty strings: not given.
struct SubmitOptions {
  std::string spec_file;
  std::string model;
  std::string data;
  std::string task;  // empty: what the dataset was imported as
  std::string method;
  std::string tokenizer;
  bool per_document = false;
  std::string validation;
  double validation_fraction = -1;
  double epochs = 0;
  double epochs_per_phase = 0;
  double learning_rate = 0;
  int last_blocks = 0;
  // Of the method features.
  std::string pooling;
  int layer = -1;
  std::string solver;
  int hidden = 0;
  bool export_features = false;
  int batch = 0;
  int max_length = 0;
  int64_t seed = -1;
  std::string precision;
  std::string metric;
  std::string name;
  int priority = 0;
  std::string device;
  std::map<std::string, std::string> labels;
  std::string request_id;
  bool validate_only = false;
  bool watch = false;
};
// What they ask for, with ids in the place of names.
absl::StatusOr<v1::JobSpec> SpecOf(const Session& session, const SubmitOptions& options);
ExitCode RunSubmit(const Session& session, const SubmitOptions& options);
// Submits a plan of that training, waits for it and shows what it says.
ExitCode RunPlan(const Session& session, const SubmitOptions& options);

ExitCode RunWatch(const Session& session, const std::string& job);

struct ListOptions {
  std::vector<std::string> states;
  std::map<std::string, std::string> labels;
  int limit = 20;
};
ExitCode RunList(const Session& session, const ListOptions& options);
ExitCode RunGet(const Session& session, const std::string& job);
ExitCode RunEvents(const Session& session, const std::string& job, int64_t after_sequence);
ExitCode RunCancel(const Session& session, const std::string& job);
ExitCode RunPause(const Session& session, const std::string& job);
ExitCode RunResume(const Session& session, const std::string& job);

struct SteerOptions {
  std::string job;
  std::string action;  // a field of v1::Steering
  double amount = 0;   // 0: not given
};
ExitCode RunSteer(const Session& session, const SteerOptions& options);
ExitCode RunLogs(const Session& session, const std::string& job, int attempt);

struct MetricsOptions {
  std::string job;
  std::vector<std::string> names;  // empty: loss
  int max_points = 1000;
};
ExitCode RunMetrics(const Session& session, const MetricsOptions& options);

struct FetchOptions {
  std::string job_or_result;
  std::string directory;      // empty: the result's id
  std::string as = "stored";  // or "full": with all weights
};
ExitCode RunFetch(const Session& session, const FetchOptions& options);

// Runs a training again and compares the two results.
ExitCode RunReproduce(const Session& session, const std::string& job);

struct PredictOptions {
  std::string model;  // a job, a result, a model
  std::vector<std::string> texts;
  std::string file;  // a text a line, or JSONL
  std::string data;  // a dataset
  std::string out;   // empty: stdout
  std::string text_column;
  std::string label_column;
  int max_length = 0;
  std::string precision;
  std::string weights;
  // At most one; otherwise what the model is made for.
  bool embed = false;
  bool score = false;
  bool generate = false;
  std::vector<std::string> average_with;
  std::string pooling;
  bool no_normalize = false;
  std::string completion;
  bool per_token = false;
  bool chat = false;
  int max_new_tokens = 0;
  double temperature = -1;
  int top_k = 0;
  double top_p = -1;
  double min_p = 0;
  double repetition_penalty = 0;
  std::vector<std::string> stop;
  int64_t seed = -1;
  bool ignore_end = false;
};
ExitCode RunPredict(const Session& session, const PredictOptions& options);

ExitCode RunWorkers(const Session& session);
ExitCode RunDrain(const Session& session, const std::string& worker);

struct UpOptions {
  std::string data_dir;
  std::string listen = "127.0.0.1:7433";
  std::string metrics_listen = "127.0.0.1:7434";
};
// Needs no session: it starts the server.
ExitCode RunUp(const UpOptions& options, Interrupts* interrupts);

}  // namespace thaw
