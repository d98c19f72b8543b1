#pragma once

#include <functional>
#include <thread>

#include "common/base/mutex.h"

namespace thaw {

// Takes SIGINT and SIGTERM on a thread of its own, where anything may be done. Construct it before
// any other thread begins: they inherit the blocked signals. Children that are started have to
// unblock them.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // While it lives, a signal calls `action` on the signals' thread; without one a signal ends the
  // program with exit code 130. One at a time.
  class Scope {
   public:
    Scope(Interrupts* interrupts, std::function<void()> action);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Interrupts* const interrupts_;
  };

 private:
  void Run();
  void SetAction(std::function<void()> action);

  Mutex mutex_;
  std::function<void()> action_ THAW_GUARDED_BY(mutex_);
  bool ending_ THAW_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace thaw
