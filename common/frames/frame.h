// Messages between thaw-worker and thaw-trainer on a stream socket: a 4-byte little-endian length,
// then that many bytes of one protobuf message.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message_lite.h"

namespace thaw {

inline constexpr int64_t kMaxFrameBytes = int64_t{4} << 20;

// Writes one whole frame, waiting for room. UNAVAILABLE when the peer is gone (no SIGPIPE),
// INVALID_ARGUMENT for a message over kMaxFrameBytes, of which nothing is written. One thread at a
// time per socket.
absl::Status WriteFrame(int socket, const google::protobuf::MessageLite& message);

// Waits for one frame and parses it into `message`. False at the end of the stream between two
// frames. DATA_LOSS for an end inside a frame, a length over kMaxFrameBytes or what is no such
// message: the stream cannot be used any further. One thread at a time per socket.
absl::StatusOr<bool> ReadFrame(int socket, google::protobuf::MessageLite* message);

}  // namespace thaw
