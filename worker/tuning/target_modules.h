// Which of a model's linear layers an added part changes, and what trains beside it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/repeated_field.h"
#include "thaw/v1/added_part.pb.h"
#include "worker/model/model.h"

namespace thaw {

using ModuleNames = google::protobuf::RepeatedPtrField<std::string>;

// Every linear layer but the output's: those of the blocks, and a pooler that was not drawn anew.
std::vector<LinearLayer*> AllLinears(Model* model);

// The layers that `names` name, in the model's order. INVALID_ARGUMENT, naming `field`, for a name
// without a layer.
absl::StatusOr<std::vector<LinearLayer*>> NamedLinears(absl::string_view field,
                                                       const ModuleNames& names, Model* model);

// The targets of a Lora; at least one.
absl::StatusOr<std::vector<LinearLayer*>> LoraTargets(const v1::Lora& lora, Model* model);

// The targets of an Ia3, and which of them are feed-forward ones; at least one. Where none are
// named they are those that PEFT takes for the family.
struct Ia3Layers {
  std::vector<LinearLayer*> targets;
  std::vector<const LinearLayer*> feed_forward;
};
absl::StatusOr<Ia3Layers> Ia3Targets(const v1::Ia3& ia3, Model* model);

// Marks all parameters of the modules that `names` name, and a head that was drawn anew, as trained
// beside the part. INVALID_ARGUMENT, naming `field`, for a name of no module or of a compressed
// one.
absl::Status MarkBeside(absl::string_view field, const ModuleNames& names, Model* model);

}  // namespace thaw
