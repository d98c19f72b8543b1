// Adapters recorded from PEFT (tests/data/adapters, whose README.md says what is in the files).
#pragma once

#include <string>

#include "nlohmann/json.hpp"
#include "tests/worker/model/model_fixture.h"
#include "thaw/v1/added_part.pb.h"

namespace thaw {

// $THAW_TEST_DATA/adapters/<model>/<method>.
std::string AdapterDirectory(const std::string& model, const std::string& method);

// The part that this text format describes.
v1::AddedPart PartOf(const std::string& text);

// The recorded logits, of as many columns as are kept: by packed row, or by sequence.
torch::Tensor RecordedLogits(const std::string& directory, const std::string& name,
                             const FixtureBatch& batch);

// What trains with the part: leaves of their own memory that require grad. Nothing else does.
std::vector<const Parameter*> TrainPart(Model& model);

}  // namespace thaw
