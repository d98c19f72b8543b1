// What a phase trains, as people read it. Pure functions; everything that they give is Printable.
#pragma once

#include <string>
#include <vector>

#include "google/protobuf/repeated_field.h"
#include "thaw/v1/event.pb.h"

namespace thaw {

// Names of tensors, shortened to what they share, with how many there are:
// "bert.encoder.layer.5.* (16), classifier.* (2)"; what goes beyond `most` parts is counted alone.
std::string ShortNames(const google::protobuf::RepeatedPtrField<std::string>& names, int most);

// "phase 2 top: 1,774,464 parameters train (7.8 %), 250 steps, lr 0.001", what became trainable,
// and the groups that train with their rates, the topmost first; those of one rate together.
std::vector<std::string> PhaseLines(const v1::PhaseStart& phase);

// The thaw: a line for each phase with a column for each group, from the embeddings to the head,
// as high as its rate. Groups that no phase has trained so far are not known but for the blocks
// between. Empty for no phases; models of more than 120 groups are not drawn.
std::vector<std::string> ThawPicture(const std::vector<v1::PhaseStart>& phases);

}  // namespace thaw
