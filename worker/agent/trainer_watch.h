// When to lose patience with a trainer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace thaw {

struct TrainerPatience {
  // No sign of life for max(this, 20 median optimizer steps) is a hang.
  double hang_seconds = 120;
  // How long a trainer is held after the lease has ended, waiting for the server.
  double hold_seconds = 600;
  // From a request to stop, from SIGABRT and from its last word to SIGKILL.
  double stop_seconds = 10;
};

// Judges by what it is told and by the clock that comes in as BootMicros; sends nothing itself. Not
// thread-safe.
class TrainerWatch {
 public:
  // The trainer has just been started.
  TrainerWatch(const TrainerPatience& patience, int64_t now) : patience_(patience), alive_(now) {}

  void SignOfLife(int64_t now) { alive_ = now; }
  // Not finite or below 0 counts as 0, and more than an hour as an hour.
  void SetMedianStep(double seconds);
  // Held trainers beat no slower, but the start of a hold is given the whole time again.
  void SetHeld(bool held, int64_t now);
  void StopAsked(int64_t now);
  // It has said how it ended and should be gone soon.
  void Ended(int64_t now);

  struct Measure {
    int signal = 0;
    // What the trainer has done wrong, as half a sentence; empty: nothing.
    std::string why;
    // Held in vain: the attempt goes back to the queue.
    bool hand_back = false;
  };
  // What is due at `now`, each once; nothing after SIGKILL.
  std::optional<Measure> Due(int64_t now);

 private:
  bool Passed(int64_t since, double seconds, int64_t now) const;

  const TrainerPatience patience_;
  int64_t alive_;
  double median_step_seconds_ = 0;
  std::optional<int64_t> held_, stop_asked_, ended_, aborted_;
  bool killed_ = false;
};

}  // namespace thaw
