// What a training's rows are like, told before its first step.
#pragma once

#include <string>

#include "thaw/v1/plan.pb.h"
#include "worker/training/reporter.h"
#include "worker/training/training_inputs.h"

namespace thaw {

// One line: how long the rows are in tokens, what was cut or left out, which share of the tokens
// carries loss. `what` names them. At least one row.
std::string DescribeRows(const std::string& what, const TokenizedDataset& rows);

// The same as numbers.
v1::PlannedRows CountRows(const TokenizedDataset& rows);

// Warns of rows that were cut, split, dropped or skipped, and of texts that both sides have.
void WarnOfRows(const TrainingInputs& inputs, Reporter* reporter);

}  // namespace thaw
