// A file's bytes from front to back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/unique_fd.h"

namespace thaw {

// What a UTF-8 file may begin with.
inline constexpr std::string_view kUtf8Mark = "\xEF\xBB\xBF";

class FileInput {
 public:
  // INVALID_ARGUMENT if `path` is no regular file; a FIFO or device is never waited for.
  static absl::StatusOr<FileInput> Open(const std::string& path);

  // Reads at most `size` bytes; 0 only at the end of the file.
  absl::StatusOr<size_t> Read(char* out, size_t size);

 private:
  FileInput(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  UniqueFd fd_;
  std::string path_;
};

// The same byte by byte, with the place of each. A UTF-8 byte order mark at the beginning is left
// out. One thread at a time.
class ByteInput {
 public:
  static constexpr int kEnd = -1;

  explicit ByteInput(FileInput input);

  // The next byte (0 to 255), taken or only looked at; kEnd at the end, or once reading has failed.
  int Take();
  int Peek() {
    return begin_ < size_ || Fill() ? static_cast<unsigned char>(buffer_[begin_]) : kEnd;
  }
  // Takes a line feed that follows a carriage return. For a caller that has just taken one.
  void TakeLineFeed() {
    if (Peek() == '\n') Take();
  }

  // Whether reading has failed.
  const absl::Status& status() const { return status_; }
  // Of the byte that Peek gives: its offset and line, from 1. LF, CR and CRLF each end a line.
  int64_t offset() const { return buffer_offset_ + static_cast<int64_t>(begin_); }
  int64_t line() const { return line_; }
  // Lines of which something was taken.
  int64_t lines() const { return line_ - at_line_begin_; }
  bool byte_order_mark() const { return byte_order_mark_; }
  // Whether the file begins as UTF-16 does.
  bool IsUtf16() const { return utf16_; }

 private:
  bool Fill();

  FileInput input_;
  absl::Status status_;
  std::vector<char> buffer_;
  int64_t buffer_offset_ = 0;  // of buffer_[0] in the file
  size_t begin_ = 0;           // buffer_[begin_, size_) is unread
  size_t size_ = 0;
  int64_t line_ = 1;
  bool after_return_ = false;  // the byte before was a carriage return
  bool at_line_begin_ = true;
  bool byte_order_mark_ = false;
  bool utf16_ = false;
};

}  // namespace thaw
