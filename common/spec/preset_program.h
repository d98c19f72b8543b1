// Presets: programs by name, as phases. docs/programs.md shows what each becomes.
#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/spec/auto_values.h"
#include "thaw/v1/job_spec.pb.h"

namespace thaw {

struct PresetWord {
  v1::Preset::Name preset;
  const char* name;         // "head_then_full"
  const char* description;  // one line
};
std::span<const PresetWord> PresetWords();

// By its word; INVALID_ARGUMENT names those that there are.
absl::StatusOr<v1::Preset::Name> ParsePreset(absl::string_view name);

// Puts the phases of training->preset, for a model of `blocks` blocks (1 or more), and the added
// part that they train in its place. Every phase has a name, and a schedule unless the job has one
// for all of them; what the preset leaves open is left open. More than 61 blocks are thawed several
// at a time, so that a program never has more phases than a job may have.
void ExpandPreset(int blocks, const TrainingSize& size, v1::Training* training);

}  // namespace thaw
