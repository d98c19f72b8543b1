// A large model up to a running thawd and down again over loopback, as a client does it: hashed
// before it is sent, checked by the server before it is published, checked again when it is here.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "bench/service_client.h"
#include "common/base/files.h"
#include "common/rpc/artifact_transfer.h"

namespace thaw::bench {
namespace {

struct TransferFlags {
  std::string server = kDefaultServer;
  std::string data_dir;
  std::string dir;
  int64_t megabytes = 1000;
  int rounds = 3;
};

class Stage {
 public:
  Stage(const char* what, double megabytes) : what_(what), megabytes_(megabytes) {}
  ~Stage() {
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    std::printf("  %-28s %6.2f s %7.0f MB/s, the client's CPU %.2f s\n", what_, seconds,
                megabytes_ / seconds, CpuSeconds() - cpu_);
  }

 private:
  const char* const what_;
  const double megabytes_;
  const double cpu_ = CpuSeconds();
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

template <typename T>
T Must(absl::StatusOr<T> result) {
  if (!result.ok()) Die(std::string(result.status().message()));
  return *std::move(result);
}

void Must(const absl::Status& status) {
  if (!status.ok()) Die(std::string(status.message()));
}

int RunTransfers(const TransferFlags& flags) {
  const Tokens tokens = ReadTokens(flags.data_dir);
  const auto stub = v1::ArtifactService::NewStub(Connect(flags.server));
  const std::string source = flags.dir + "/source";
  Must(MakeDirectories(source));
  std::vector<std::string> names, paths;
  for (const auto& [name, bytes] : ModelFiles(static_cast<size_t>(flags.megabytes) * 1'000'000)) {
    names.push_back(name);
    paths.push_back(absl::StrCat(source, "/", name));
    Must(WriteFileAtomically(paths.back(), bytes));
  }
  TransferOptions options;
  options.prepare = [&](grpc::ClientContext* context) { AddAccessToken(tokens.admin, context); };
  const auto megabytes = static_cast<double>(flags.megabytes);
  for (int round = 1; round <= flags.rounds; ++round) {
    std::printf("round %d of %d, %.0f MB, load %.1f\n", round, flags.rounds, megabytes, Load());
    v1::Artifact artifact;
    {
      const Stage whole("up, hashed by both ends", megabytes);
      v1::CreateUploadRequest create;
      create.set_kind(v1::Artifact::MODEL);
      {
        const Stage hash("  hashing before", megabytes);
        for (size_t i = 0; i < names.size(); ++i) {
          *create.add_files() = Must(DescribeFile(paths[i], names[i]));
        }
      }
      artifact = Must(UploadArtifact(stub.get(), create, paths, {}, options));
    }
    const std::string target = flags.dir + "/target";
    {
      const Stage whole("down, checked", megabytes);
      Must(DownloadArtifact(stub.get(), artifact, target, options));
    }
    Must(RemoveTree(target));
    v1::DeleteArtifactRequest remove;
    remove.set_id(artifact.id());
    CallOrDie(*stub, &v1::ArtifactService::Stub::DeleteArtifact, tokens.admin, remove);
  }
  Must(RemoveTree(source));
  return 0;
}

}  // namespace
}  // namespace thaw::bench

int main(int argc, char** argv) {
  thaw::bench::TransferFlags flags;
  CLI::App app{"thaw-bench-transfer: a model up to a thawd on this machine and down again"};
  app.add_option("--server", flags.server, "its address")->capture_default_str();
  app.add_option("--data_dir", flags.data_dir, "its data_dir, for the tokens")->required();
  app.add_option("--dir", flags.dir, "for the files; room for twice --megabytes")->required();
  app.add_option("--megabytes", flags.megabytes, "of the model")
      ->check(CLI::Range(1, 4000))
      ->capture_default_str();
  app.add_option("--rounds", flags.rounds, "one after the other")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return thaw::bench::RunTransfers(flags);
}
