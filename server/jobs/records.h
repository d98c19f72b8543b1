// Plain rows that the store takes and gives. Times are microseconds since 1970 unless they say
// otherwise.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "thaw/v1/artifact.pb.h"
#include "thaw/v1/artifact_service.pb.h"
#include "thaw/v1/job.pb.h"
#include "thaw/v1/job_spec.pb.h"
#include "thaw/v1/worker_service.pb.h"

namespace thaw {

// A job to be accepted. The specs have been validated and resolved by the caller.
struct NewJob {
  std::string owner;  // never empty
  std::string
      visible_owner;       // whose artifacts the spec may name; empty: anybody's (an admin submits)
  std::string request_id;  // empty: none
  v1::JobSpec spec;
  v1::JobSpec resolved_spec;
};

struct JobFilter {
  std::string owner = {};                          // empty: everybody's
  std::vector<v1::Job::State> states = {};         // empty: all
  std::map<std::string, std::string> labels = {};  // all of them
};

template <typename T>
struct Page {
  std::vector<T> items;
  std::string next_page_token;  // empty after the last page
};

// What scheduling needs of a job; handed to the job observer after every commit that changed it.
struct JobView {
  int64_t number = 0;  // order of submission
  std::string id;
  std::string owner;
  v1::Job::State state = v1::Job::STATE_UNSPECIFIED;
  int32_t priority = 0;
  v1::Resources resources;
  int64_t create_micros = 0;
  int64_t not_before_micros = 0;  // QUEUED: no attempt before this wall time
  std::string reason;             // Job.state_reason as stored
  int32_t attempt = 0;            // number of the latest attempt
  std::string attempt_id;         // the live attempt; empty if none
  std::string worker;             // of the latest attempt
  // With a live attempt: what none has told of as applied, in order.
  std::vector<v1::SteeringRecord> steerings = {};
};

// OFFERED -> ACCEPTED -> ENDED | LOST. Only a LOST one comes back to ACCEPTED.
enum class AttemptState { kOffered = 1, kAccepted = 2, kEnded = 3, kLost = 4 };

struct AttemptRecord {
  std::string id;  // the fence
  std::string job;
  std::string owner;  // of the job
  int32_t number = 0;
  std::string worker;
  AttemptState state = AttemptState::kOffered;
  std::string incarnation;      // of the worker that accepted it
  int64_t accepted_number = 0;  // number of the Sync that first reported it
  int64_t acknowledged = 0;     // worker events up to this sequence are in the store
  v1::Job::State job_state = v1::Job::STATE_UNSPECIFIED;
};

// A checkpoint about to be committed. `artifact` has id, files, size, digest; owner and job are
// filled in.
struct NewCheckpoint {
  v1::Artifact artifact;
  int64_t step = 0;
  int32_t phase = 0;
  bool best = false;
};

struct UploadRecord {
  std::string id;
  std::string owner;
  v1::CreateUploadRequest request;
  int64_t expire_micros = 0;
  std::string artifact;  // once finished: the artifact that it became
};

struct WorkerRecord {
  std::string name;
  std::string incarnation;
  std::vector<std::string> retired;  // earlier incarnations, newest first, at most 16
  v1::WorkerOffer offer;
  bool draining = false;  // by DrainWorker
  int64_t seen_micros = 0;
};

// A snapshot for metrics.
struct StoreStats {
  std::map<v1::Job::State, int64_t> jobs;  // by state, every state present
  int64_t write_queue = 0;                 // requests that wait for the writer
  int64_t commits = 0;                     // transactions since start
  int64_t committed_requests = 0;          // requests in them
  int64_t fenced_writes = 0;               // refused for a stale attempt id, since start
  int64_t attempts_lost = 0;               // since start
  int64_t database_bytes = 0;              // file and log
};

}  // namespace thaw
