#include "server/jobs/database.h"

#include <sqlite3.h>

#include <cerrno>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace thaw {
namespace {

absl::Status DiskFull() {
  return WithReason(
      absl::ResourceExhaustedError("the server's disk is full: free space below its data_dir"),
      "DISK_FULL");
}

}  // namespace

absl::Status SqliteStatus(sqlite3* database, int code, absl::string_view what) {
  const char* text = database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(code);
  const std::string message = absl::StrCat("job store: ", what, ": ", text);
  switch (code & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
      return absl::OkStatus();
    case SQLITE_FULL:
      return DiskFull();
    case SQLITE_IOERR:
      // Growing a file fails like this on a full disk; a failed fsync may have lost pages, full or
      // not.
      if (database != nullptr && sqlite3_system_errno(database) == ENOSPC &&
          sqlite3_extended_errcode(database) != SQLITE_IOERR_FSYNC) {
        return DiskFull();
      }
      [[fallthrough]];
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      THAW_LOG(kError, "store_broken", {"what", what}, {"error", text},
               {"code", database != nullptr ? sqlite3_extended_errcode(database) : code});
      std::abort();
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::UnavailableError(message);
    case SQLITE_CONSTRAINT:
      return absl::AlreadyExistsError(message);
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return absl::PermissionDeniedError(message);
    default:
      return absl::InternalError(message);
  }
}

Statement::~Statement() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

Statement& Statement::Int(int64_t value) {
  if (status_.ok()) {
    status_ =
        SqliteStatus(database_, sqlite3_bind_int64(statement_, ++bound_, value), "bind a number");
  }
  return *this;
}

Statement& Statement::Text(absl::string_view value) {
  if (status_.ok()) {
    status_ = SqliteStatus(database_,
                           sqlite3_bind_text64(statement_, ++bound_, value.data(), value.size(),
                                               SQLITE_TRANSIENT, SQLITE_UTF8),
                           "bind text");
  }
  return *this;
}

Statement& Statement::Blob(absl::string_view value) {
  if (status_.ok()) {
    // A null pointer would bind NULL.
    const char* data = value.empty() ? "" : value.data();
    status_ = SqliteStatus(
        database_, sqlite3_bind_blob64(statement_, ++bound_, data, value.size(), SQLITE_TRANSIENT),
        "bind bytes");
  }
  return *this;
}

bool Statement::Step() {
  if (!status_.ok()) return false;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) status_ = SqliteStatus(database_, code, sqlite3_sql(statement_));
  return false;
}

absl::Status Statement::Run() {
  while (Step()) {
  }
  return status_;
}

int64_t Statement::GetInt(int column) const { return sqlite3_column_int64(statement_, column); }

absl::string_view Statement::GetText(int column) const {
  const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
  return absl::string_view(text, sqlite3_column_bytes(statement_, column));
}

absl::string_view Statement::GetBlob(int column) const {
  const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement_, column));
  return absl::string_view(bytes, sqlite3_column_bytes(statement_, column));
}

Connection::~Connection() {
  for (const auto& [text, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(database_);
}

absl::Status Connection::Open(const std::string& path, int flags) {
  const int code = sqlite3_open_v2(path.c_str(), &database_,
                                   flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, nullptr);
  if (code != SQLITE_OK) return SqliteStatus(database_, code, absl::StrCat("open ", path));
  sqlite3_extended_result_codes(database_, 1);
  sqlite3_busy_timeout(database_, 5'000);
  return absl::OkStatus();
}

absl::Status Connection::OpenForWriting(const std::string& path) {
  THAW_RETURN_IF_ERROR(Open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE));
  THAW_RETURN_IF_ERROR(
      Execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
              // Half of the journal's size, so that pages which many commits write are copied once.
              "PRAGMA journal_size_limit=67108864; PRAGMA wal_autocheckpoint=8000;"
              "PRAGMA cache_size=-65536; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY"));
  const struct {
    const char* pragma;
    const char* expected;
  } settings[] = {{"journal_mode", "wal"}, {"synchronous", "2"}, {"foreign_keys", "1"}};
  for (const auto& setting : settings) {
    const std::string actual = Pragma(setting.pragma);
    if (actual != setting.expected) {
      return absl::FailedPreconditionError(absl::StrCat(
          path, ": SQLite's ", setting.pragma, " is \"", actual, "\" and cannot be set to \"",
          setting.expected, "\": data_dir must be on a local disk"));
    }
  }
  return absl::OkStatus();
}

absl::Status Connection::OpenForReading(const std::string& path) {
  THAW_RETURN_IF_ERROR(Open(path, SQLITE_OPEN_READONLY));
  return Execute("PRAGMA query_only=ON; PRAGMA wal_autocheckpoint=0; PRAGMA mmap_size=0");
}

Statement Connection::Prepare(const char* sql) {
  sqlite3_stmt*& statement = statements_[sql];
  if (statement == nullptr) {
    const int code =
        sqlite3_prepare_v3(database_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
    if (code != SQLITE_OK) {
      absl::Status status = SqliteStatus(database_, code, sql);
      return Statement(database_, nullptr, std::move(status));
    }
  }
  THAW_CHECK(!sqlite3_stmt_busy(statement));
  return Statement(database_, statement, absl::OkStatus());
}

absl::Status Connection::Execute(const std::string& sql) {
  return SqliteStatus(database_, sqlite3_exec(database_, sql.c_str(), nullptr, nullptr, nullptr),
                      sql);
}

std::string Connection::Pragma(const std::string& text) {
  sqlite3_stmt* statement = nullptr;
  std::string value;
  if (sqlite3_prepare_v2(database_, absl::StrCat("PRAGMA ", text).c_str(), -1, &statement,
                         nullptr) == SQLITE_OK &&
      sqlite3_step(statement) == SQLITE_ROW && sqlite3_column_text(statement, 0) != nullptr) {
    value = reinterpret_cast<const char*>(sqlite3_column_text(statement, 0));
  }
  sqlite3_finalize(statement);
  return value;
}

int64_t Connection::last_insert_rowid() const { return sqlite3_last_insert_rowid(database_); }
int Connection::changes() const { return sqlite3_changes(database_); }
bool Connection::in_transaction() const { return sqlite3_get_autocommit(database_) == 0; }

}  // namespace thaw
