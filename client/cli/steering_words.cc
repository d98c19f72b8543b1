#include "client/cli/steering_words.h"

#include "absl/strings/str_cat.h"
#include "client/cli/format.h"

namespace thaw {

std::string SteeringWords(const v1::Steering& action) {
  switch (action.action_case()) {
    case v1::Steering::kCheckpoint:
      return "a checkpoint";
    case v1::Steering::kNextPhase:
      return "the next phase";
    case v1::Steering::kScaleRate:
      return absl::StrCat("rates times ", FormatNumber(action.scale_rate()));
    case v1::Steering::kExtendEpochs:
      return absl::StrCat("the phase longer by ", FormatNumber(action.extend_epochs()),
                          " passes over the data");
    case v1::Steering::kExtendSteps:
      return absl::StrCat("the phase longer by ", FormatCount(action.extend_steps()), " steps");
    case v1::Steering::kStop:
      return "the end with the best kept";
    case v1::Steering::ACTION_NOT_SET:
      break;
  }
  return "something that this version does not know";
}

std::string AskedWords(const v1::SteeringRecord& record) {
  return absl::StrCat("asked for (", record.number(), "): ", SteeringWords(record.action()));
}

std::string AppliedWords(const v1::SteeringRecord& record) {
  const std::string which =
      record.number() > 0 ? absl::StrCat(" (", record.number(), ")") : " as in the run before";
  return absl::StrCat("done after step ", FormatCount(record.step()), which, ": ",
                      SteeringWords(record.action()));
}

}  // namespace thaw
