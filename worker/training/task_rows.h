// How a training reads its examples, by task.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/data/tokenized_dataset.h"
#include "worker/model/config.h"
#include "worker/text/chat_template.h"

namespace thaw {

struct TaskRows {
  DatasetSchema schema;
  TokenizeOptions options;             // kind, form, lengths and special tokens
  std::unique_ptr<ChatTemplate> chat;  // what options.chat points to
  HeadKind head = HeadKind::kClassifier;
  ProblemType problem = ProblemType::kSingleLabel;
};

// Special tokens and chat template are read from the files of `tokenizer_dir`, from which
// `tokenizer` came. INVALID_ARGUMENT for a model that cannot learn the task.
absl::StatusOr<TaskRows> RowsOfTask(const internal::Run& run, const ModelConfig& config,
                                    const std::string& tokenizer_dir, const Tokenizer& tokenizer);

}  // namespace thaw
