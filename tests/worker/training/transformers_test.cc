// The result as another program sees it. Built with -DTHAW_TRANSFORMERS_PYTHON=<a Python with torch
// and transformers> only.
#include <gtest/gtest.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "tests/worker/training/toy_job.h"

namespace thaw {
namespace {

TEST(Transformers, LoadsTheResultAndSaysTheSame) {
  const internal::Run training = ToyTraining(MakeToyModel(FreshDirectory("model"), 0.1),
                                             MakeToyDataset(FreshDirectory("dataset"), 100, 5),
                                             "validation_fraction: 0.2 phases { selector { "
                                             "everything: true } learning_rate: 0.005 epochs: "
                                             "3 }");
  RecordingSink sink;
  ASSERT_EQ(RunAttempt(training, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  const std::string result = training.work_dir() + "/result";
  const internal::Run prediction = ToyPrediction(result, training.dataset_dir(), "max_length: 40");
  ASSERT_EQ(RunAttempt(prediction, &sink).end().outcome(), v1::AttemptEnd::SUCCEEDED);
  // The toy tokenizer has no class of its own there: the generic fast one reads tokenizer.json.
  ASSERT_TRUE(WriteFileAtomically(result + "/tokenizer_config.json",
                                  "{\"tokenizer_class\": \"PreTrainedTokenizerFast\", "
                                  "\"pad_token\": \"[PAD]\", \"unk_token\": \"[UNK]\"}")
                  .ok());
  const std::string command =
      absl::StrCat(getenv("THAW_TRANSFORMERS_PYTHON"), " ", THAW_CHECK_SCRIPT, " ", result, " ",
                   training.dataset_dir(), "/data.jsonl ", prediction.work_dir(),
                   "/result/predictions.jsonl 40");
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

}  // namespace
}  // namespace thaw
