#include "worker/agent/exit_blame.h"

#include <sys/wait.h>

#include <csignal>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/files.h"

namespace thaw {
namespace {

constexpr int kCouldNotStart = 127;

std::string LastLine(absl::string_view text) {
  std::string last;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (!line.empty()) last = std::string(line.substr(0, 400));
  }
  return last;
}

}  // namespace

v1::AttemptEnd BlameForExit(const TrainerExit& exit) {
  v1::AttemptEnd end;
  end.set_step(exit.last_step);
  v1::Failure& failure = *end.mutable_failure();
  failure.set_step(exit.last_step);
  const std::string said = LastLine(exit.output_tail);
  const std::string its_words =
      said.empty() ? std::string() : absl::StrCat("; it last wrote: ", said);
  if (exit.kernel_killed_for_memory) {
    end.set_outcome(v1::AttemptEnd::OUT_OF_MEMORY);
    failure.set_blame(v1::Failure::RESOURCE);
    failure.set_reason("OUT_OF_MEMORY");
    failure.set_message(
        "the kernel ended the trainer for want of memory; lower batch.tokens_per_micro_step or "
        "max_length, "
        "or use a worker with more memory");
    return end;
  }
  if (WIFEXITED(exit.wait_status) && WEXITSTATUS(exit.wait_status) == kCouldNotStart) {
    end.set_outcome(v1::AttemptEnd::FAILED);
    failure.set_blame(v1::Failure::INFRASTRUCTURE);
    failure.set_reason("TRAINER_NOT_STARTED");
    failure.set_message(absl::StrCat("the worker could not start its trainer program", its_words));
    return end;
  }
  end.set_outcome(v1::AttemptEnd::CRASHED);
  failure.set_blame(v1::Failure::INTERNAL);
  if (exit.killed_by_worker) {
    failure.set_reason("TRAINER_STOPPED");
    failure.set_message(absl::StrCat("the worker ended the trainer: ", exit.why_killed));
  } else if (WIFSIGNALED(exit.wait_status)) {
    failure.set_reason("TRAINER_CRASHED");
    failure.set_message(absl::StrCat("the trainer ended by signal ", WTERMSIG(exit.wait_status),
                                     " (", strsignal(WTERMSIG(exit.wait_status)), ")", its_words));
  } else {
    failure.set_reason("TRAINER_CRASHED");
    failure.set_message(absl::StrCat("the trainer ended with code ", WEXITSTATUS(exit.wait_status),
                                     " without saying how its work ended", its_words));
  }
  return end;
}

int64_t KernelMemoryKills() {
  const auto text = ReadFile("/proc/vmstat");
  if (!text.ok()) return 0;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    int64_t count = 0;
    if (absl::ConsumePrefix(&line, "oom_kill ") && absl::SimpleAtoi(line, &count)) return count;
  }
  return 0;
}

}  // namespace thaw
