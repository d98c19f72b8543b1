#include "common/frames/frame.h"

#include <sys/socket.h>
#include <sys/types.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace thaw {
namespace {

constexpr size_t kLengthBytes = 4;

// Bytes read: fewer than `size` only at the end of the stream.
absl::StatusOr<size_t> ReceiveAll(int socket, char* data, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = recv(socket, data + done, size - done, 0);
    if (got == 0) break;
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == ECONNRESET) break;
      return ErrnoStatus(errno, "reading a frame");
    }
    done += static_cast<size_t>(got);
  }
  return done;
}

}  // namespace

absl::Status WriteFrame(int socket, const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  if (size > static_cast<size_t>(kMaxFrameBytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a frame of ", size, " bytes is over the limit of ", kMaxFrameBytes));
  }
  std::string bytes(kLengthBytes, '\0');
  for (size_t i = 0; i < kLengthBytes; ++i) bytes[i] = static_cast<char>(size >> (8 * i) & 0xff);
  if (!message.AppendToString(&bytes)) return absl::InternalError("a frame cannot be serialized");
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t sent = send(socket, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EPIPE || errno == ECONNRESET) {
        return absl::UnavailableError("the other end of the socket is gone");
      }
      return ErrnoStatus(errno, "writing a frame");
    }
    done += static_cast<size_t>(sent);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> ReadFrame(int socket, google::protobuf::MessageLite* message) {
  unsigned char header[kLengthBytes];
  THAW_ASSIGN_OR_RETURN(const size_t got,
                        ReceiveAll(socket, reinterpret_cast<char*>(header), kLengthBytes));
  if (got == 0) return false;
  uint32_t size = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) size |= uint32_t{header[i]} << (8 * i);
  if (got < kLengthBytes || int64_t{size} > kMaxFrameBytes) {
    return absl::DataLossError(got < kLengthBytes
                                   ? "the stream ends inside a frame's length"
                                   : absl::StrCat("a frame claims ", size, " bytes"));
  }
  std::string bytes(size, '\0');
  THAW_ASSIGN_OR_RETURN(const size_t body, ReceiveAll(socket, bytes.data(), size));
  if (body < size) return absl::DataLossError("the stream ends inside a frame");
  if (!message->ParseFromString(bytes)) {
    return absl::DataLossError("a frame does not hold the message that it should");
  }
  return true;
}

}  // namespace thaw
