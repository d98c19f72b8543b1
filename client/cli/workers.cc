#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/output.h"
#include "common/base/status.h"

namespace thaw {
namespace {

std::string Devices(const v1::WorkerOffer& offer) {
  std::vector<std::string> devices;
  for (const v1::Device& device : offer.devices()) {
    devices.push_back(
        absl::StrCat(v1::Resources::DeviceKind_Name(device.kind()),
                     device.cores() > 0 ? absl::StrCat(" × ", device.cores(), " cores") : "", " ",
                     FormatBytes(device.memory_bytes()), " ", Printable(device.name())));
  }
  return absl::StrJoin(devices, "; ");
}

std::string Condition(const v1::WorkerStatus& worker) {
  if (!worker.connected()) return "lost";
  return worker.draining() ? "draining" : "connected";
}

}  // namespace

ExitCode RunWorkers(const Session& session) {
  THAW_ASSIGN_OR_RETURN(const std::vector<v1::WorkerStatus> workers,
                        session.client->jobs().ListWorkers());
  std::vector<std::vector<std::string>> rows = {
      {"worker", "is", ">slots", "jobs", "last heard", "devices"}};
  for (const v1::WorkerStatus& worker : workers) {
    if (session.json) Print("%s\n", JsonLine(worker).c_str());
    rows.push_back({Printable(worker.worker()), Condition(worker),
                    absl::StrCat(worker.offer().slots()), absl::StrJoin(worker.jobs(), " "),
                    FormatTime(worker.last_sync_time()), Devices(worker.offer())});
  }
  if (!session.json) Print("%s\n", rows.size() == 1 ? "no workers" : Table(rows).c_str());
  return kExitOk;
}

ExitCode RunDrain(const Session& session, const std::string& worker) {
  THAW_ASSIGN_OR_RETURN(const v1::WorkerStatus status, session.client->jobs().DrainWorker(worker));
  if (session.json) {
    Print("%s\n", JsonLine(status).c_str());
  } else {
    Print("%s  %s\n", Printable(status.worker()).c_str(), Condition(status).c_str());
  }
  return kExitOk;
}

}  // namespace thaw
