// What every call into the Rust library needs: statuses, texts there and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace thaw {

// Before the first call; again costs nothing.
void InitRust();

// `message` is where the call that gave `status` left its message, if any; frees it.
absl::Status StatusFromRust(int32_t status, char** message);

// The address of `text`, never null: null means "no text" to the other side.
const uint8_t* Bytes(std::string_view text);

// Copies and frees bytes that the library gave away.
std::string TakeBytes(uint8_t* bytes, size_t len);

}  // namespace thaw
