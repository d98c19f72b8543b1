#include "client/cli/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdlib>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/format.h"

namespace thaw {
namespace {

constexpr int kUsualWidth = 100;

int WidthOf(std::FILE* out) {
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return kUsualWidth;
  return size.ws_col;
}

std::string PrintableLines(absl::string_view text) {
  return absl::StrJoin(absl::StrSplit(text, '\n'), "\n",
                       [](std::string* out, absl::string_view line) { *out += Printable(line); });
}

void WriteTo(std::FILE* out, const char* format, va_list arguments) {
  char* text = nullptr;
  const int size = vasprintf(&text, format, arguments);
  if (size < 0) return;
  const std::string clean = PrintableLines({text, static_cast<size_t>(size)});
  std::free(text);
  std::fwrite(clean.data(), 1, clean.size(), out);
}

}  // namespace

void Print(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  WriteTo(stdout, format, arguments);
  va_end(arguments);
}

void PrintError(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  WriteTo(stderr, format, arguments);
  va_end(arguments);
}

Console::Console(std::FILE* out) : Console(out, isatty(fileno(out)) != 0, WidthOf(out)) {}

Console::Console(std::FILE* out, bool terminal, int width)
    : out_(out), terminal_(terminal), width_(width) {}

Console::~Console() {
  if (!status_.empty()) std::fputc('\n', out_);
  std::fflush(out_);
}

void Console::Line(absl::string_view text) {
  const std::string status = status_;
  ClearStatus();
  std::fprintf(out_, "%s\n", PrintableLines(text).c_str());
  if (!status.empty()) Status(status);
  std::fflush(out_);
}

void Console::Status(absl::string_view text) {
  if (!terminal_) return;
  // One column is left free: many terminals wrap when the last one is written.
  status_ = Clip(Printable(text), width_ - 1);
  std::fprintf(out_, "\r\x1b[K%s", status_.c_str());
  std::fflush(out_);
}

void Console::ClearStatus() {
  if (status_.empty()) return;
  std::fputs("\r\x1b[K", out_);
  std::fflush(out_);
  status_.clear();
}

}  // namespace thaw
