// Adapter directories of PEFT, or of our own form where PEFT has no such part: adapter_config.json
// and adapter_model.safetensors.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "thaw/v1/added_part.pb.h"
#include "worker/model/model.h"

namespace thaw {

// Whether `directory` holds an adapter instead of a whole model.
bool IsAdapter(const std::string& directory);

// What its adapter_config.json says. INVALID_ARGUMENT as LoadAdapter.
absl::StatusOr<v1::AddedPart> ReadAdapterPart(const std::string& directory);

// Adds the adapter's part to its base model, with the stored values, and gives what it is, so that
// a training can go on with it. Tensors are copies, fp32. INVALID_ARGUMENT, naming file and field
// or tensor, for options that are not supported, for tensors that are missing, that have no place
// or another shape, and for pickled ones.
absl::StatusOr<v1::AddedPart> LoadAdapter(const std::string& directory, Model* model);

// Writes what AddPart or LoadAdapter has added to `model`, as it is now, and what was trained
// beside it; a classifier always. `base_model` is where PEFT finds the base. `directory` exists;
// each file appears whole or not at all.
absl::Status SaveAdapter(const Model& model, const v1::AddedPart& part,
                         const std::string& base_model, const std::string& directory);

}  // namespace thaw
