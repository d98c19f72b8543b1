// Small parts that are added to a loaded model and trained in its place (docs/added_parts.md).
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "thaw/v1/added_part.pb.h"
#include "worker/model/model.h"

namespace thaw {

// Adds `part`, drawn anew from `seed`: its tensors become parameters of the model, each in the
// group of the layer that it changes, and what trains beside it is marked
// (Parameter::beside_added), a head that was drawn anew included. Once for a model. Until something
// trains, the model gives the same bits as before, but for prompts and prefixes.
//
// `text` are the ids of a prompt's initial_text, where that is given.
//
// INVALID_ARGUMENT, naming the field below "added_part", for a target that matches no module that
// can be changed (with the nearest names), for contradictions, and for kinds that the model cannot
// have. The model is then of no use.
absl::Status AddPart(const v1::AddedPart& part, uint64_t seed, Model* model,
                     std::span<const int32_t> text = {});

// A phase trains the named parameters: adapters of the model must then hold the modules of those
// that are the base's (Parameter::kept_beside). INVALID_ARGUMENT for a parameter of a layer that
// the part changes, which PEFT's form cannot hold beside it; `field` is the phase's selector.
absl::Status KeepBeside(absl::string_view field, const std::vector<std::string>& names,
                        Model* model);

// Computes the part into the weights, in fp32, which then give the same up to rounding without it.
// FAILED_PRECONDITION for parts that are no change of weights.
absl::Status MergePart(Model* model);

}  // namespace thaw
