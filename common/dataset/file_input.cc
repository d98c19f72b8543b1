#include "common/dataset/file_input.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr size_t kChunkBytes = 256 << 10;

}  // namespace

absl::StatusOr<FileInput> FileInput::Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open ", path));
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, absl::StrCat("stat ", path));
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  return FileInput(std::move(fd), path);
}

absl::StatusOr<size_t> FileInput::Read(char* out, size_t size) {
  ssize_t got;
  do {
    got = read(fd_.get(), out, size);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return ErrnoStatus(errno, absl::StrCat("read ", path_));
  return static_cast<size_t>(got);
}

ByteInput::ByteInput(FileInput input) : input_(std::move(input)), buffer_(kChunkBytes) {
  Fill();
  const std::string_view beginning(buffer_.data(), size_);
  byte_order_mark_ = beginning.starts_with(kUtf8Mark);
  if (byte_order_mark_) begin_ = kUtf8Mark.size();
  utf16_ = beginning.starts_with("\xFF\xFE") || beginning.starts_with("\xFE\xFF");
}

int ByteInput::Take() {
  const int byte = Peek();
  if (byte == kEnd) return kEnd;
  ++begin_;
  if (byte == '\r' || (byte == '\n' && !after_return_)) ++line_;
  after_return_ = byte == '\r';
  at_line_begin_ = byte == '\r' || byte == '\n';
  return byte;
}

bool ByteInput::Fill() {
  if (!status_.ok()) return false;
  buffer_offset_ += static_cast<int64_t>(size_);
  begin_ = size_ = 0;
  absl::StatusOr<size_t> got = input_.Read(buffer_.data(), buffer_.size());
  if (!got.ok()) {
    status_ = got.status();
    return false;
  }
  size_ = *got;
  return size_ > 0;
}

}  // namespace thaw
