#include "common/dataset/line_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr size_t kReadBytes = 256 << 10;
constexpr std::string_view kUtf8Mark = "\xEF\xBB\xBF";

}  // namespace

absl::StatusOr<std::unique_ptr<LineReader>> LineReader::Open(const std::string& path,
                                                             int64_t max_line_bytes) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open ", path));
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, absl::StrCat("stat ", path));
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  std::unique_ptr<LineReader> reader(new LineReader(std::move(fd), path, max_line_bytes));
  THAW_RETURN_IF_ERROR(reader->Fill().status());
  if (std::string_view(reader->buffer_.data(), reader->size_).starts_with(kUtf8Mark)) {
    reader->byte_order_mark_ = true;
    reader->begin_ = kUtf8Mark.size();
  }
  return reader;
}

LineReader::LineReader(UniqueFd fd, std::string path, int64_t max_line_bytes)
    : fd_(std::move(fd)),
      path_(std::move(path)),
      max_line_bytes_(max_line_bytes),
      // A whole line, its line feed and the next read fit at once.
      buffer_(static_cast<size_t>(max_line_bytes) + 1 + kReadBytes) {}

absl::StatusOr<bool> LineReader::Fill() {
  std::memmove(buffer_.data(), buffer_.data() + begin_, size_ - begin_);
  buffer_offset_ += static_cast<int64_t>(begin_);
  size_ -= begin_;
  begin_ = 0;
  const size_t wanted = std::min(kReadBytes, buffer_.size() - size_);
  ssize_t got;
  do {
    got = read(fd_.get(), buffer_.data() + size_, wanted);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return ErrnoStatus(errno, absl::StrCat("read ", path_));
  size_ += static_cast<size_t>(got);
  return got > 0;
}

absl::StatusOr<bool> LineReader::SkipLine(Line* line) {
  line->too_long = true;
  line->text = {};
  while (true) {
    const void* end = std::memchr(buffer_.data() + begin_, '\n', size_ - begin_);
    if (end != nullptr) {
      begin_ = static_cast<size_t>(static_cast<const char*>(end) - buffer_.data()) + 1;
      return true;
    }
    begin_ = size_;
    THAW_ASSIGN_OR_RETURN(const bool more, Fill());
    if (!more) return true;
  }
}

absl::StatusOr<bool> LineReader::Next(Line* line) {
  size_t searched = 0;  // bytes after begin_ known to hold no line feed
  while (true) {
    const char* const start = buffer_.data() + begin_;
    const size_t available = size_ - begin_;
    const void* const end = std::memchr(start + searched, '\n', available - searched);
    const size_t length = end ? static_cast<const char*>(end) - start : available;
    const bool too_long = static_cast<int64_t>(length) > max_line_bytes_;
    bool at_end = false;
    if (end == nullptr && !too_long) {
      searched = available;
      THAW_ASSIGN_OR_RETURN(const bool more, Fill());
      if (more) continue;
      if (available == 0) return false;
      at_end = true;
    }
    line->number = ++lines_;
    line->byte_offset = buffer_offset_ + static_cast<int64_t>(begin_);
    if (too_long) return SkipLine(line);
    line->too_long = false;
    line->text = {buffer_.data() + begin_, length};
    begin_ += length + (at_end ? 0 : 1);
    return true;
  }
}

}  // namespace thaw
