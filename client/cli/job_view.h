// What a person sees of a watched job.
#pragma once

#include <string>
#include <vector>

#include "client/cli/console.h"
#include "client/cli/loss_plot.h"
#include "thaw/v1/fine_tune_service.pb.h"

namespace thaw {

// "SUCCEEDED" and so on.
std::string StateName(v1::Job::State state);

// One line of progress that fits into `width` columns: phase, bar, step, loss, metric, rate, pace,
// time left; what does not fit is left out from the end.
std::string ProgressLine(const v1::Progress& progress, int width);

// Which labels were taken for which, a line for each right label with its answers; empty without
// labels, for more than eight, and where the counts are not those of the labels.
std::string ConfusionText(const v1::ConfusionMatrix& confusion);

// Draws the messages of a watch in the order in which they come: phases, evaluations, warnings and
// state changes as lines; progress as a status line or, where the output is no terminal, as a line
// for every twentieth of the way. One thread at a time.
class JobView {
 public:
  explicit JobView(Console* console) : console_(console) {}

  void Show(const v1::WatchJobResponse& message);

  // The loss curve, which of few labels were taken for which, and how the job ended.
  void ShowEnd(const v1::Job& job);

 private:
  void ShowEvent(const v1::Event& event);
  void ShowText(const v1::GeneratedText& piece);
  void ShowPhase(const v1::PhaseStart& phase);
  void ShowEvaluation(const v1::EvaluationEnd& evaluation);
  void ShowStateChange(const v1::StateChange& change);
  void ShowProgress(const v1::Progress& progress);

  Console* const console_;
  std::vector<PlotPoint> losses_;
  std::vector<PlotMark> phases_;
  std::vector<v1::PhaseStart> thawed_;  // without the names of tensors
  v1::ConfusionMatrix confusion_;       // of the best evaluation
  int twentieth_ = -1;
};

}  // namespace thaw
