// The architectures that there are: a new one is its own file and a line in family.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/config_fields.h"
#include "worker/model/model.h"

namespace thaw {

struct Family {
  const char* model_type;            // of config.json
  const char* classifier_class;      // transformers' classes, for the config.json of results;
  const char* language_model_class;  // nullptr where the family has none
  // Fills what every family has and refuses what it cannot honour. Reads every field that the
  // family knows: the others are refused after it.
  void (*read)(ConfigFields& fields, ModelConfig* config);
  // As LoadModel, for a configuration that `read` has accepted.
  absl::StatusOr<std::unique_ptr<Model>> (*load)(ModelConfig config, const std::string& directory,
                                                 const std::optional<HeadSpec>& head);
  // The tensors with a row for every token, in the names of all versions of their files: what they
  // are called, or what follows a dot at the end of it.
  std::span<const char* const> token_tables;
  // pad_token_id of a config.json that does not have the field; -1: none.
  int32_t default_padding = -1;
  // Positions count from pad_token_id on, so that the id is part of the weights.
  bool positions_follow_padding = false;
  // A configuration without weights is a model too: all are drawn from the seed.
  bool draws_weights = false;
};

// nullptr if there is none.
const Family* FindFamily(absl::string_view model_type);
// "bert, gpt2, …".
std::string SupportedFamilies();

// Defined by the families' files.
extern const Family kAwdLstmFamily;
extern const Family kBertFamily;
extern const Family kBloomFamily;
extern const Family kDistilBertFamily;
extern const Family kGpt2Family;
extern const Family kLlamaFamily;
extern const Family kMistralFamily;
extern const Family kQwen2Family;
extern const Family kQwen3Family;
extern const Family kRobertaFamily;
extern const Family kT5Family;

}  // namespace thaw
