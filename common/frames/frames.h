// Length-prefixed protobuf frames on a socket pair: 4 bytes, little-endian, then the message.
// Worker and trainer speak them (proto/thaw/internal/trainer.proto).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message_lite.h"

namespace thaw {

inline constexpr uint32_t kMaxFrameBytes = 4u << 20;

// Blocks until the whole frame is written. UNAVAILABLE if the peer is gone, INVALID_ARGUMENT if it
// is too large. One writer at a time per descriptor.
absl::Status WriteFrame(int fd, const google::protobuf::MessageLite& message);

// Blocks until a whole frame has come. False at a clean end of file; DATA_LOSS for an oversized
// frame, one cut short or one that does not parse: the stream cannot be used after that.
absl::StatusOr<bool> ReadFrame(int fd, google::protobuf::MessageLite* message);

}  // namespace thaw
