// std::mutex with clang's thread-safety annotations. abseil's own mutex is not used:
// ThreadSanitizer reports races in it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define THAW_ANNOTATION(x) __attribute__((x))
#else
#define THAW_ANNOTATION(x)
#endif
#define THAW_CAPABILITY(x) THAW_ANNOTATION(capability(x))
#define THAW_SCOPED_CAPABILITY THAW_ANNOTATION(scoped_lockable)
#define THAW_GUARDED_BY(x) THAW_ANNOTATION(guarded_by(x))
#define THAW_REQUIRES(...) THAW_ANNOTATION(requires_capability(__VA_ARGS__))
#define THAW_EXCLUDES(...) THAW_ANNOTATION(locks_excluded(__VA_ARGS__))
#define THAW_ACQUIRE(...) THAW_ANNOTATION(acquire_capability(__VA_ARGS__))
#define THAW_RELEASE(...) THAW_ANNOTATION(release_capability(__VA_ARGS__))

namespace thaw {

class THAW_CAPABILITY("mutex") Mutex {
 public:
  void Lock() THAW_ACQUIRE() { mutex_.lock(); }
  void Unlock() THAW_RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class THAW_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) THAW_ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() THAW_RELEASE() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits may wake without a signal: always wait in a loop on the condition, or pass the condition.
class CondVar {
 public:
  void Wait(Mutex& mutex) THAW_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // False if `seconds` passed first.
  bool WaitFor(Mutex& mutex, double seconds) THAW_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    const auto status = condition_.wait_for(lock, std::chrono::duration<double>(seconds));
    lock.release();
    return status == std::cv_status::no_timeout;
  }
  void Signal() { condition_.notify_one(); }
  void SignalAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace thaw
