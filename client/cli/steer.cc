#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/output.h"
#include "client/cli/steering_words.h"
#include "common/base/status.h"

namespace thaw {
namespace {

absl::StatusOr<v1::Steering> ActionOf(const SteerOptions& options) {
  v1::Steering action;
  const bool whole = options.amount == std::floor(options.amount) && options.amount <= 1e9;
  const bool takes_amount =
      options.action != "checkpoint" && options.action != "next_phase" && options.action != "stop";
  if (takes_amount && options.amount == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.action, " needs a number: thaw steer JOB ", options.action,
                     options.action == "scale_rate" ? " 0.5" : " 2"));
  }
  if (!takes_amount && options.amount != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.action, " takes no number: leave \"", options.amount, "\" out"));
  }
  if (options.action == "checkpoint") action.set_checkpoint(true);
  if (options.action == "next_phase") action.set_next_phase(true);
  if (options.action == "stop") action.set_stop(true);
  if (options.action == "scale_rate") action.set_scale_rate(options.amount);
  if (options.action == "extend_epochs") action.set_extend_epochs(options.amount);
  if (options.action == "extend_steps") {
    if (!whole) {
      return absl::InvalidArgumentError(absl::StrCat("extend_steps takes a whole number, not ",
                                                     options.amount, "; or use extend_epochs"));
    }
    action.set_extend_steps(static_cast<int64_t>(options.amount));
  }
  return action;
}

}  // namespace

ExitCode RunSteer(const Session& session, const SteerOptions& options) {
  v1::SteerJobRequest request;
  THAW_ASSIGN_OR_RETURN(*request.mutable_action(), ActionOf(options));
  THAW_ASSIGN_OR_RETURN(const std::string id, FindJob(session, options.job));
  request.set_id(id);
  THAW_ASSIGN_OR_RETURN(const v1::Job job, session.client->jobs().SteerJob(request));
  if (session.json) {
    Print("%s\n", JsonLine(job).c_str());
    return kExitOk;
  }
  // Others may have asked for more meanwhile.
  Print("%s  %s\n", id.c_str(),
        absl::StrCat("asked for: ", SteeringWords(request.action()),
                     job.state() == v1::Job::RUNNING ? ", after the optimizer step that runs now"
                                                     : ", once it runs")
            .c_str());
  return kExitOk;
}

}  // namespace thaw
