#include "worker/agent/exit_blame.h"

#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/clean_text.h"
#include "common/base/files.h"

namespace thaw {
namespace {

constexpr int kCouldNotStart = 127;

constexpr size_t kLongestMessage = 2000;
constexpr size_t kLongestReason = 64;
constexpr size_t kLongestIncident = 64;

std::string LastLine(absl::string_view text) {
  std::string last;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (!line.empty()) last = CleanText(line, 400);
  }
  return last;
}

v1::AttemptEnd EndWith(v1::AttemptEnd::Outcome outcome, v1::Failure::Blame blame,
                       absl::string_view reason, absl::string_view message, int64_t step) {
  v1::AttemptEnd end;
  end.set_outcome(outcome);
  end.set_step(step);
  end.mutable_failure()->set_blame(blame);
  end.mutable_failure()->set_reason(std::string(reason));
  end.mutable_failure()->set_message(CleanText(message, kLongestMessage));
  end.mutable_failure()->set_step(step);
  return end;
}

bool IsReason(absl::string_view reason) {
  return !reason.empty() && reason.size() <= kLongestReason &&
         std::all_of(reason.begin(), reason.end(), [](char c) {
           return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
         });
}

}  // namespace

v1::AttemptEnd BlameForExit(const TrainerExit& exit) {
  const std::string said = LastLine(exit.output_tail);
  const std::string its_words =
      said.empty() ? std::string() : absl::StrCat("; it last wrote: ", said);
  if (!exit.why_killed.empty()) return BlameForLie(exit.why_killed + its_words, exit.last_step);
  if (exit.kernel_killed_for_memory) {
    return EndWith(v1::AttemptEnd::OUT_OF_MEMORY, v1::Failure::RESOURCE, "OUT_OF_MEMORY",
                   "the kernel ended the trainer for want of memory; lower "
                   "batch.tokens_per_micro_step or max_length, or use a worker with more memory",
                   exit.last_step);
  }
  if (WIFEXITED(exit.wait_status) && WEXITSTATUS(exit.wait_status) == kCouldNotStart) {
    return EndWith(v1::AttemptEnd::FAILED, v1::Failure::INFRASTRUCTURE, "TRAINER_NOT_STARTED",
                   absl::StrCat("the worker could not start its trainer program", its_words),
                   exit.last_step);
  }
  const std::string how = WIFSIGNALED(exit.wait_status)
                              ? absl::StrCat("by signal ", WTERMSIG(exit.wait_status), " (",
                                             strsignal(WTERMSIG(exit.wait_status)), ")")
                              : absl::StrCat("with code ", WEXITSTATUS(exit.wait_status),
                                             " without saying how its work ended");
  return EndWith(v1::AttemptEnd::CRASHED, v1::Failure::INTERNAL, "TRAINER_CRASHED",
                 absl::StrCat("the trainer ended ", how, its_words), exit.last_step);
}

v1::AttemptEnd BlameForLie(absl::string_view why, int64_t last_step) {
  return EndWith(v1::AttemptEnd::CRASHED, v1::Failure::INTERNAL, "TRAINER_STOPPED",
                 absl::StrCat("the worker ended the trainer: ", why), last_step);
}

v1::AttemptEnd EndAsSaid(const internal::Ended& ended, bool pause_asked, int64_t last_step) {
  const v1::AttemptEnd& said = ended.end();
  const int64_t step = std::max(said.step(), last_step);
  switch (said.outcome()) {
    case v1::AttemptEnd::PAUSED:
      if (!pause_asked) return BlameForLie("it paused without being asked to", step);
      [[fallthrough]];
    case v1::AttemptEnd::SUCCEEDED: {
      v1::AttemptEnd end;
      end.set_outcome(said.outcome());
      end.set_step(step);
      return end;
    }
    case v1::AttemptEnd::FAILED:
    case v1::AttemptEnd::OUT_OF_MEMORY: {
      const v1::Failure& failure = said.failure();
      const bool known = v1::Failure::Blame_IsValid(failure.blame()) &&
                         failure.blame() != v1::Failure::BLAME_UNSPECIFIED;
      v1::AttemptEnd end = EndWith(
          said.outcome(), known ? failure.blame() : v1::Failure::INTERNAL,
          IsReason(failure.reason()) ? failure.reason() : "TRAINER_FAILED",
          failure.message().empty() ? "the trainer gave no reason" : failure.message(), step);
      end.mutable_failure()->set_incident(CleanText(failure.incident(), kLongestIncident));
      return end;
    }
    default:
      return BlameForLie("it said that it ended in a way that is not for it to choose", step);
  }
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
