#include "client/cli/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include "client/cli/format.h"

namespace thaw {
namespace {

constexpr int kUsualWidth = 100;

int WidthOf(std::FILE* out) {
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return kUsualWidth;
  return size.ws_col;
}

}  // namespace

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
  std::fwrite(text.data(), 1, text.size(), out_);
  std::fputc('\n', out_);
  if (!status.empty()) Status(status);
  std::fflush(out_);
}

void Console::Status(absl::string_view text) {
  if (!terminal_) return;
  // One column is left free: many terminals wrap when the last one is written.
  status_ = Clip(text, width_ - 1);
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
