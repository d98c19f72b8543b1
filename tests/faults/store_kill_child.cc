// store_kill_child <data_dir> <first> <first> …: one thread per number, each submitting jobs with
// the request ids
// "<thread>-<number>" from its first number on, and writing "<thread> <number> <job>" to stdout
// after each answer. Runs until it is killed.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/jobs/job_table.h"
#include "server/jobs/store.h"

namespace thaw {
namespace {

void Submit(Store& store, int thread, int64_t first) {
  for (int64_t number = first;; ++number) {
    NewJob job;
    job.owner = job.visible_owner = "ann";
    job.request_id = absl::StrCat(thread, "-", number);
    job.spec.set_base_model("model-1");
    job.spec.mutable_training()->set_dataset("dataset-1");
    job.resolved_spec = job.spec;
    const auto created = store.Write([&](Transaction& t) { return CreateJob(t, job); });
    if (!created.ok()) std::abort();
    // One write, so that the reader never sees half a line of a thread that lived on.
    const std::string line = absl::StrCat(thread, " ", number, " ", created->id(), "\n");
    if (write(STDOUT_FILENO, line.data(), line.size()) != static_cast<ssize_t>(line.size())) return;
  }
}

int Main(int argc, char** argv) {
  StoreOptions options;
  options.data_dir = argv[1];
  auto store = Store::Open(options);
  if (!store.ok()) {
    std::fprintf(stderr, "%s\n", std::string(store.status().message()).c_str());
    return 1;
  }
  std::vector<std::thread> threads;
  for (int i = 2; i < argc; ++i) {
    threads.emplace_back([&, i] { Submit(**store, i - 2, std::atoll(argv[i])); });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

}  // namespace
}  // namespace thaw

int main(int argc, char** argv) { return thaw::Main(argc, argv); }
