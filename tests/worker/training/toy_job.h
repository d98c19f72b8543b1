// A tiny BERT, a tokenizer of 190 words and a dataset that can be learnt: training jobs that take a
// second.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "thaw/internal/receipt.pb.h"
#include "thaw/internal/trainer.pb.h"
#include "worker/training/training_run.h"

namespace thaw {

// A directory below the test's own temporary one that did not exist before.
std::string FreshDirectory(const std::string& name);

// Makes a model directory: the recorded bert-cls with this dropout, and a tokenizer for "w0 w1 …".
std::string MakeToyModel(const std::string& directory, double dropout);

// Makes a dataset directory of `rows` lines {"text", "label"}, labels "left", "middle", "right",
// each with words of its own. The same arguments give the same file.
std::string MakeToyDataset(const std::string& directory, int rows, unsigned seed);

// Makes a model directory that writes: the recorded language model `fixture` ("gpt2", "llama",
// "t5") with this dropout, the same words, of which "[SEP]" ends a text, and a chat template.
std::string MakeToyWriter(const std::string& directory, const std::string& fixture, double dropout);

// Makes a model directory that holds an AWD-LSTM's configuration, whose weights a job draws from
// its seed, with all dropouts of ULMFiT times `drop_mult`; the same words and end.
std::string MakeToyLstm(const std::string& directory, double drop_mult);

// Makes a directory with a tokenizer of these words behind the same four special tokens.
std::string MakeToyTokenizer(const std::string& directory, const std::vector<std::string>& words);

// Makes a dataset directory of `rows` lines for every other task: words that count up by one or
// two, as "text", "prompt" with "completion", "messages", "source" with "target"; where they begin
// as "number"; and "labels" of "even", "low" and "two", up to three of them.
std::string MakeToyTexts(const std::string& directory, int rows, unsigned seed);

// An assignment over directories made by those above, with `training` (or `prediction`) as text
// format says and work_dir fresh. Without a task it is text classification.
internal::Run ToyTraining(const std::string& model_dir, const std::string& dataset_dir,
                          const std::string& training);
internal::Run ToyPrediction(const std::string& model_dir, const std::string& dataset_dir,
                            const std::string& prediction);

// Keeps what an attempt tells.
class RecordingSink : public ProgressSink {
 public:
  void Beat(const v1::Progress& progress, double median_step_seconds) override;
  void Emit(const v1::Event& event) override;
  void CheckpointReady(const internal::CheckpointReady& checkpoint) override;

  // The values of a series by step; of the whole model unless a group is named.
  std::map<int64_t, double> Series(const std::string& name, const std::string& group = "") const;
  std::vector<v1::PhaseStart> Phases() const;
  std::vector<v1::EvaluationEnd> Evaluations() const;
  std::vector<v1::Warning> Warnings() const;
  std::vector<std::string> LogLines() const;

  int beats = 0;
  int beats_before_rows = 0;  // of a prediction, while it still reads them
  v1::Progress progress;
  std::vector<v1::Event> events;
  std::vector<internal::CheckpointReady> checkpoints;
  // Called with every metric point of a step.
  std::function<void(const v1::MetricPoint&)> on_point;
};

// A disk with so much room, whatever the machine's has.
ScratchDisk DiskWith(int64_t free_bytes);

// Runs it in this process, with a metric point for every step.
internal::Ended RunAttempt(const internal::Run& run, RecordingSink* sink, Control* control,
                           const Clock& clock = RealClock(),
                           const ScratchDisk& disk = DiskWith(int64_t{1} << 40));
internal::Ended RunAttempt(const internal::Run& run, RecordingSink* sink);

// The bytes of the result's weights.
std::string ResultWeights(const internal::Run& run);

// The result's receipt.
internal::Receipt ReceiptOf(const internal::Run& run);

}  // namespace thaw
