#include "worker/training/plan_steps.h"

#include <algorithm>
#include <tuple>

namespace thaw {
namespace {

constexpr int64_t kPassesSearched = 20;

// Tokens, and the sum of squared lengths.
std::tuple<int64_t, int64_t> SizeOf(const TokenizedDataset& dataset,
                                    const std::vector<int64_t>& rows) {
  int64_t tokens = 0, squares = 0;
  for (const int64_t row : rows) {
    tokens += dataset.size(row);
    squares += dataset.size(row) * dataset.size(row);
  }
  return {tokens, squares};
}

}  // namespace

double RowWork::Of(int64_t row) const {
  const auto size = static_cast<double>(dataset->size(row));
  return size + size * size / (6.0 * static_cast<double>(std::max<int64_t>(width, 1)));
}

double RowWork::Of(const StepRows& step) const {
  double work = 0;
  for (const std::vector<int64_t>& rows : step.micro_steps) {
    for (const int64_t row : rows) work += Of(row);
  }
  return work;
}

double RowWork::OfAll() const {
  double work = 0;
  for (int64_t row = 0; row < dataset->rows(); ++row) work += Of(row);
  return work;
}

PhaseSteps StepsOfPhase(const BatchPlan& plan, const RowWork& rows, int64_t epoch, int64_t steps,
                        int64_t in_epoch) {
  PhaseSteps found;
  const int64_t whole = steps / in_epoch, rest = steps % in_epoch;
  if (whole > 0) {
    found.tokens = whole * rows.dataset->tokens();
    found.work = static_cast<double>(whole) * rows.OfAll();
  }
  const int64_t passes = steps == 0 ? 1 : whole + (rest > 0 ? 1 : 0);
  auto largest = SizeOf(*rows.dataset, {});
  for (int64_t pass = 0; pass < passes; ++pass) {
    // The last one may end early, and its tokens are its own; others are like all.
    const bool partial = steps > 0 && pass == whole;
    if (pass >= kPassesSearched && !partial) continue;
    DataCursor cursor{.epoch = epoch + pass, .position = 0};
    for (int64_t i = 0; i < (partial ? rest : in_epoch); ++i) {
      const StepRows step = plan.Step(cursor);
      if (partial) {
        found.tokens += step.tokens;
        found.work += rows.Of(step);
      }
      if (pass == 0) found.first_pass.push_back({cursor, rows.Of(step)});
      for (const std::vector<int64_t>& micro_step : step.micro_steps) {
        const auto size = SizeOf(*rows.dataset, micro_step);
        if (size <= largest) continue;
        largest = size;
        found.largest = micro_step;
      }
      cursor = step.next;
    }
  }
  std::stable_sort(found.first_pass.begin(), found.first_pass.end(),
                   [](const auto& a, const auto& b) { return a.work < b.work; });
  return found;
}

std::vector<PhaseSteps::Step> Sample(const std::vector<PhaseSteps::Step>& steps, int64_t count) {
  const auto all = static_cast<int64_t>(steps.size());
  count = std::min(count, all);
  std::vector<PhaseSteps::Step> sample;
  for (int64_t i = 0; i < count; ++i) {
    sample.push_back(steps[static_cast<size_t>((2 * i + 1) * all / (2 * count))]);
  }
  std::sort(sample.begin(), sample.end(),
            [](const auto& a, const auto& b) { return a.cursor.position < b.cursor.position; });
  return sample;
}

PhaseTurns TurnsOfPhase(Program program, int64_t begin, int64_t steps, int64_t every) {
  PhaseTurns turns;
  for (int64_t step = 1; step <= steps; ++step) {
    program.StepDone();
    if (program.Next() == Program::Action::kEvaluate) ++turns.evaluations;
    if (every > 0 && (begin + step) % every == 0) ++turns.checkpoints;
  }
  ++turns.checkpoints;
  return turns;
}

}  // namespace thaw
