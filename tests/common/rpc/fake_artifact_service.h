// An artifact server in this process that can be told to break off, lie and lose.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "grpcpp/server.h"
#include "thaw/v1/artifact_service.grpc.pb.h"

namespace thaw {

// Thread-safe. Keeps everything in memory.
class FakeArtifactService final : public v1::ArtifactService::Service {
 public:
  // What goes wrong from now on; counters count down to 0.
  struct Faults {
    int break_reads = 0;   // streams that end with UNAVAILABLE after `break_after` bytes
    int break_writes = 0;  // likewise; what came before is kept
    int64_t break_after = 300'000;
    int end_reads_early = 0;  // streams that end with OK too early
    int corrupt_reads = 0;    // streams whose first byte is another
    int extra_bytes = 0;      // bytes sent after the file's end, every time
    int refuse_creates = 0;   // CreateUpload calls that are UNAVAILABLE after having worked
    grpc::StatusCode read_code = grpc::StatusCode::OK;  // of every Read, at once
  };

  FakeArtifactService();
  ~FakeArtifactService() override;

  std::unique_ptr<v1::ArtifactService::Stub> Stub();
  void SetFaults(const Faults& faults);
  // A file that Read gives out.
  void AddFile(const std::string& artifact, const std::string& path, const std::string& bytes);
  // What was uploaded as `path`.
  std::string Uploaded(const std::string& path);
  int uploads();
  int reads();
  // Bytes that Read has sent in all.
  int64_t bytes_read();
  // Metadata "authorization" of the last call.
  std::string last_authorization();

  grpc::Status CreateUpload(grpc::ServerContext* context, const v1::CreateUploadRequest* request,
                            v1::Upload* upload) override;
  grpc::Status Write(grpc::ServerContext* context, grpc::ServerReader<v1::WriteRequest>* reader,
                     v1::WriteResponse* response) override;
  grpc::Status QueryWrite(grpc::ServerContext* context, const v1::QueryWriteRequest* request,
                          v1::Upload* upload) override;
  grpc::Status FinishUpload(grpc::ServerContext* context, const v1::FinishUploadRequest* request,
                            v1::Artifact* artifact) override;
  grpc::Status Read(grpc::ServerContext* context, const v1::ReadRequest* request,
                    grpc::ServerWriter<v1::ReadResponse>* writer) override;

 private:
  v1::Upload UploadLocked() const;

  std::mutex mutex_;
  Faults faults_;
  v1::CreateUploadRequest announced_;
  std::map<std::string, std::string> staged_;  // by path
  std::map<std::string, std::string> files_;   // by "<artifact>/<path>"
  int uploads_ = 0;
  int reads_ = 0;
  int64_t bytes_read_ = 0;
  std::string last_authorization_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace thaw
