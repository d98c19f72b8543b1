// One line per event on stderr: time, level, event and key=value pairs, so that grep and log
// shippers both can read it.
//   THAW_LOG(kInfo, "job_started", {"job", id}, {"worker", name});
#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace thaw {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// A value is quoted when it holds a space, a quote or a control character; control characters are
// escaped.
struct LogField {
  LogField(absl::string_view key, const absl::AlphaNum& value) : key(key), value(value.Piece()) {}
  absl::string_view key;
  std::string value;
};

// Thread-safe; one write(2) a line. Lines below the level set by SetLogLevel are dropped.
void LogEvent(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields);
void SetLogLevel(LogLevel level);

// "t=… level=info event=… key=value\n": what LogEvent writes.
std::string FormatLogLine(int64_t wall_micros, LogLevel level, absl::string_view event,
                          std::initializer_list<LogField> fields);

// Logs `detail` under a fresh incident id and gives that id back, to be named to the user instead
// of the detail.
std::string LogIncident(absl::string_view where, absl::string_view detail);

}  // namespace thaw

#define THAW_LOG(level, event, ...) ::thaw::LogEvent(::thaw::LogLevel::level, event, {__VA_ARGS__})

// For what can only be a mistake in this program: logs and aborts.
#define THAW_CHECK(condition)                                                                \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      ::thaw::LogEvent(::thaw::LogLevel::kError, "check_failed",                             \
                       {{"condition", #condition}, {"file", __FILE__}, {"line", __LINE__}}); \
      __builtin_trap();                                                                      \
    }                                                                                        \
  } while (false)
