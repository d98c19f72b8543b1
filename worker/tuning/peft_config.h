// adapter_config.json of PEFT (huggingface/peft), read strictly and written as PEFT reads it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "thaw/v1/added_part.pb.h"

namespace thaw {

inline constexpr char kPeftConfigFile[] = "adapter_config.json";

// Of PEFT, or in our own form (own_adapter_config.h). An option that changes mathematics is
// honoured or refused by name. Lists of modules_to_save may name modules that the model does not
// have, as PEFT's own do. INVALID_ARGUMENT, naming field and value.
absl::StatusOr<v1::AddedPart> ParsePeftConfig(absl::string_view json_text);

// What of the file is the model's.
struct PeftTarget {
  std::string base_model;                // where the base came from
  std::string task_type;                 // "SEQ_CLS", …; empty: none
  std::vector<std::string> modules;      // that are changed, as target_modules names them
  std::vector<std::string> feedforward;  // those of them whose input is scaled
  std::vector<std::string> saved;        // that are stored whole
  bool fan_in_fan_out = false;           // the modules are GPT-2's Conv1D
  // Of prompts and prefixes: the width of a virtual token's row, key or value; into how many heads
  // keys fall; layers that have them; stacks of layers.
  int64_t token_dim = 0, heads = 0, layers = 0, stacks = 1;
};

// The part's numbers and switches, with `target` for all that is said by module but patterns.
std::string PeftConfigJson(const v1::AddedPart& part, const PeftTarget& target);

}  // namespace thaw
