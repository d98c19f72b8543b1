#include "server/jobs/worker_table.h"

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "server/jobs/database.h"

namespace thaw {

absl::Status PutWorker(Transaction& transaction, const WorkerRecord& worker) {
  return transaction.connection()
      .Prepare(
          "INSERT OR REPLACE INTO workers(name, incarnation, retired, draining, seen, offer) "
          "VALUES(?, ?, ?, ?, ?, ?)")
      .Text(worker.name)
      .Text(worker.incarnation)
      .Text(absl::StrJoin(worker.retired, ","))
      .Int(worker.draining ? 1 : 0)
      .Int(worker.seen_micros)
      .Blob(worker.offer.SerializeAsString())
      .Run();
}

absl::Status DeleteWorker(Transaction& transaction, const std::string& name) {
  return transaction.connection().Prepare("DELETE FROM workers WHERE name = ?").Text(name).Run();
}

absl::StatusOr<std::vector<WorkerRecord>> AllWorkers(Reader& reader) {
  std::vector<WorkerRecord> workers;
  Statement rows = reader.connection().Prepare(
      "SELECT name, incarnation, retired, draining, seen, offer FROM workers ORDER BY name");
  while (rows.Step()) {
    WorkerRecord worker;
    worker.name = std::string(rows.GetText(0));
    worker.incarnation = std::string(rows.GetText(1));
    worker.retired = absl::StrSplit(rows.GetText(2), ',', absl::SkipEmpty());
    worker.draining = rows.GetInt(3) != 0;
    worker.seen_micros = rows.GetInt(4);
    const absl::string_view offer = rows.GetBlob(5);
    worker.offer.ParseFromArray(offer.data(), static_cast<int>(offer.size()));
    workers.push_back(std::move(worker));
  }
  THAW_RETURN_IF_ERROR(rows.status());
  return workers;
}

}  // namespace thaw
