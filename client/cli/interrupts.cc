#include "client/cli/interrupts.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <utility>

#include "client/cli/commands.h"

namespace thaw {
namespace {

sigset_t TakenSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

Interrupts::Interrupts() {
  const sigset_t signals = TakenSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Run(); });
}

Interrupts::~Interrupts() {
  {
    MutexLock lock(mutex_);
    ending_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void Interrupts::Run() {
  const sigset_t signals = TakenSignals();
  while (true) {
    int signal = 0;
    sigwait(&signals, &signal);
    MutexLock lock(mutex_);
    if (ending_) return;
    if (!action_) {
      // The newline ends a status line that may be half written.
      (void)!write(STDERR_FILENO, "\n", 1);
      _exit(kExitInterrupted);
    }
    action_();
  }
}

void Interrupts::SetAction(std::function<void()> action) {
  MutexLock lock(mutex_);
  action_ = std::move(action);
}

Interrupts::Scope::Scope(Interrupts* interrupts, std::function<void()> action)
    : interrupts_(interrupts) {
  interrupts_->SetAction(std::move(action));
}

Interrupts::Scope::~Scope() { interrupts_->SetAction(nullptr); }

}  // namespace thaw
