#include "common/base/log.h"

#include <unistd.h>

#include <atomic>
#include <ctime>

#include "common/base/clock.h"
#include "common/base/id.h"

namespace thaw {
namespace {

std::atomic<LogLevel> lowest_logged{LogLevel::kInfo};

void AppendValue(absl::string_view value, std::string& line) {
  bool plain = !value.empty();
  for (const char c : value) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte <= ' ' || byte == '"' || byte == '=' || byte == 0x7f) plain = false;
  }
  if (plain) {
    line.append(value.data(), value.size());
    return;
  }
  line.push_back('"');
  for (const char c : value) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      line.push_back('\\');
      line.push_back(c);
    } else if (c == '\n') {
      line.append("\\n");
    } else if (byte < ' ' || byte == 0x7f) {
      absl::StrAppend(&line, "\\x", HexEncode(absl::string_view(&c, 1)));
    } else {
      line.push_back(c);
    }
  }
  line.push_back('"');
}

absl::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

}  // namespace

std::string FormatLogLine(int64_t wall_micros, LogLevel level, absl::string_view event,
                          std::initializer_list<LogField> fields) {
  const time_t seconds = static_cast<time_t>(wall_micros / 1'000'000);
  tm utc{};
  gmtime_r(&seconds, &utc);
  char time_text[32];
  const size_t length = strftime(time_text, sizeof(time_text), "%Y-%m-%dT%H:%M:%S", &utc);
  std::string line = absl::StrCat("t=", absl::string_view(time_text, length), ".",
                                  absl::Dec(wall_micros % 1'000'000 / 1'000, absl::kZeroPad3),
                                  "Z level=", LevelName(level), " event=", event);
  for (const LogField& field : fields) {
    absl::StrAppend(&line, " ", field.key, "=");
    AppendValue(field.value, line);
  }
  line.push_back('\n');
  return line;
}

void LogEvent(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields) {
  if (level < lowest_logged.load(std::memory_order_relaxed)) return;
  const std::string line = FormatLogLine(RealClock().WallMicros(), level, event, fields);
  // A log that cannot be written must not stop the work that it tells of.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

void SetLogLevel(LogLevel level) { lowest_logged.store(level, std::memory_order_relaxed); }

std::string LogIncident(absl::string_view where, absl::string_view detail) {
  const std::string incident = RandomId().substr(0, 12);
  THAW_LOG(kError, "incident", {"incident", incident}, {"where", where}, {"detail", detail});
  return incident;
}

}  // namespace thaw
