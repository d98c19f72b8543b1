// SQLite behind a small, strict face. A Connection and its Statements belong to one thread at a
// time.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

struct sqlite3;
struct sqlite3_stmt;

namespace thaw {

// A prepared statement in use. Parameters are bound in order; columns are read in order from 0.
//   Statement s = connection.Prepare("SELECT id FROM jobs WHERE owner = ?");
//   s.Text(owner);
//   while (s.Step()) Use(s.GetText(0));
//   THAW_RETURN_IF_ERROR(s.status());
// It goes back to the connection's cache when it goes; the SQL text must be a literal or live as
// long.
class Statement {
 public:
  Statement(sqlite3* database, sqlite3_stmt* statement, absl::Status status)
      : database_(database), statement_(statement), status_(std::move(status)) {}
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement();

  Statement& Int(int64_t value);
  Statement& Text(absl::string_view value);
  Statement& Blob(absl::string_view value);

  // True while there is a row. False at the end and on an error: see status().
  bool Step();
  // For statements without rows.
  absl::Status Run();
  const absl::Status& status() const { return status_; }

  int64_t GetInt(int column) const;
  // Valid until the next Step.
  absl::string_view GetText(int column) const;
  absl::string_view GetBlob(int column) const;

 private:
  sqlite3* database_;
  sqlite3_stmt* statement_;
  absl::Status status_;
  int bound_ = 0;
};

class Connection {
 public:
  Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  // The one writer: creates the file, sets WAL and synchronous=FULL and reads both back.
  absl::Status OpenForWriting(const std::string& path);
  absl::Status OpenForReading(const std::string& path);

  // A statement from the cache, keyed by the text; at most one use of the same text at a time.
  Statement Prepare(const char* sql);
  // Statements without parameters or rows; several may be joined by semicolons.
  absl::Status Execute(const std::string& sql);
  // First column of the first row, or "".
  std::string Pragma(const std::string& text);

  int64_t last_insert_rowid() const;
  // Rows that the last statement changed.
  int changes() const;
  // True between BEGIN and its end, unless an error has rolled back already.
  bool in_transaction() const;
  sqlite3* handle() const { return database_; }

 private:
  absl::Status Open(const std::string& path, int flags);

  sqlite3* database_ = nullptr;
  std::unordered_map<std::string, sqlite3_stmt*> statements_;
};

// The error of the last call on `database`. A full disk: RESOURCE_EXHAUSTED. An I/O error or a
// damaged file ends the process: what was written before cannot be trusted to be on disk.
absl::Status SqliteStatus(sqlite3* database, int code, absl::string_view what);

}  // namespace thaw
