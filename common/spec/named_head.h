// What stands on a model's blocks, by the name of its class in transformers.
#pragma once

#include "absl/strings/string_view.h"

namespace thaw {

enum class NamedHead {
  kNone,           // nothing that we have a use for
  kClassifier,     // one row of logits a text: labels, or numbers of a regression
  kLanguageModel,  // tokens, whether predicted in order, filled in, or written for a source
};

// Of "BertForSequenceClassification" and its like: the first of config.json's "architectures",
// which is the class that wrote the directory. The server's summary and the trainer ask here both.
NamedHead HeadOfClass(absl::string_view name);

}  // namespace thaw
