// Generated text while it is generated, so merged that a fast model floods nobody.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "thaw/v1/event.pb.h"

namespace thaw {

// At most ten events a second, of 4 KiB each, for 1 MiB in all: pieces of a row wait and are joined
// until the row's turn comes; rows that are complete go first. What is left at the end goes at
// once. Used by the training thread alone.
class LiveText {
 public:
  // Events without a time go to `emit`.
  explicit LiveText(std::function<void(v1::Event)> emit) : emit_(std::move(emit)) {}

  // `text` follows what the row had before; `tokens` counts all of the row.
  void Add(int64_t row, absl::string_view text, int64_t tokens);
  void Done(int64_t row, absl::string_view finish_reason, int64_t tokens);
  // Sends what is due; call it often. `now` in seconds, from any origin.
  void Tick(double now);
  void Finish();

 private:
  struct Row {
    std::string text;
    int64_t tokens = 0;
    std::string finish_reason;  // with done
    bool done = false;
  };

  // One event of the row; drops the row when nothing is left of it.
  void Send(std::map<int64_t, Row>::iterator found);
  std::map<int64_t, Row>::iterator NextInTurn();

  const std::function<void(v1::Event)> emit_;
  std::map<int64_t, Row> rows_;  // with something to tell
  std::deque<int64_t> turns_;    // their order; may name rows that are gone
  int64_t bytes_ = 0;            // of text that was sent
  double next_ = 0;              // when another event may go
};

}  // namespace thaw
