#include "common/frames/frames.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr size_t kPrefixBytes = 4;

// Bytes read before the end of file, at most `size`.
absl::StatusOr<size_t> ReadUpTo(int fd, char* data, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t count = read(fd, data + done, size - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "reading a frame");
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  return done;
}

}  // namespace

absl::Status WriteFrame(int fd, const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  if (size > kMaxFrameBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a frame of ", size, " bytes is over the limit of ", kMaxFrameBytes));
  }
  std::string bytes(kPrefixBytes, '\0');
  for (size_t i = 0; i < kPrefixBytes; ++i) bytes[i] = static_cast<char>(size >> (8 * i));
  message.AppendToString(&bytes);
  for (size_t done = 0; done < bytes.size();) {
    // A peer that is gone must be an error here, not a signal that ends the process.
    const ssize_t count = send(fd, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "writing a frame");
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> ReadFrame(int fd, google::protobuf::MessageLite* message) {
  unsigned char prefix[kPrefixBytes];
  THAW_ASSIGN_OR_RETURN(const size_t got,
                        ReadUpTo(fd, reinterpret_cast<char*>(prefix), kPrefixBytes));
  if (got == 0) return false;
  if (got < kPrefixBytes) return absl::DataLossError("a frame was cut short in its length");
  uint32_t size = 0;
  for (size_t i = 0; i < kPrefixBytes; ++i) size |= static_cast<uint32_t>(prefix[i]) << (8 * i);
  if (size > kMaxFrameBytes) {
    return absl::DataLossError(
        absl::StrCat("a frame of ", size, " bytes is over the limit of ", kMaxFrameBytes));
  }
  std::string bytes(size, '\0');
  THAW_ASSIGN_OR_RETURN(const size_t body, ReadUpTo(fd, bytes.data(), size));
  if (body < size)
    return absl::DataLossError(
        absl::StrCat("a frame of ", size, " bytes was cut short after ", body));
  if (!message->ParseFromString(bytes))
    return absl::DataLossError("a frame does not hold the expected message");
  return true;
}

}  // namespace thaw
