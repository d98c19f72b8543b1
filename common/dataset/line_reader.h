// A file's lines, one at a time, in memory that does not depend on how long they are.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/dataset/file_input.h"

namespace thaw {

struct Line {
  int64_t number = 0;       // 1-based
  int64_t byte_offset = 0;  // of `text` in the file
  std::string_view text;    // without its line feed; valid until the next call of Next
  bool too_long = false;    // over the limit; `text` is then empty
};

// Splits at line feeds; the last line needs none. A UTF-8 byte order mark at the file's beginning
// is left out. One thread at a time.
class LineReader {
 public:
  // INVALID_ARGUMENT if `path` is no regular file; a FIFO or device is never waited for.
  static absl::StatusOr<std::unique_ptr<LineReader>> Open(const std::string& path,
                                                          int64_t max_line_bytes);

  // Fills `line` and returns true; false at the end of the file.
  absl::StatusOr<bool> Next(Line* line);

  int64_t lines() const { return lines_; }
  bool byte_order_mark() const { return byte_order_mark_; }
  int64_t bytes_read() const { return buffer_offset_ + static_cast<int64_t>(size_); }

 private:
  LineReader(FileInput input, int64_t max_line_bytes);

  // Makes more of the file available after `begin_`, moving what is there to the front. False at
  // the end.
  absl::StatusOr<bool> Fill();
  // Continues a line whose first max_line_bytes_ held no line feed.
  absl::StatusOr<bool> SkipLine(Line* line);

  FileInput input_;
  const int64_t max_line_bytes_;
  std::vector<char> buffer_;
  int64_t buffer_offset_ = 0;  // of buffer_[0] in the file
  size_t begin_ = 0;           // buffer_[begin_, size_) is unread
  size_t size_ = 0;
  int64_t lines_ = 0;
  bool byte_order_mark_ = false;
};

}  // namespace thaw
