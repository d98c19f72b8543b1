// What lies before the steps: inputs, a checkpoint to go on from, the beginning of a phase.
#include <ATen/Parallel.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/files.h"
#include "common/base/status.h"
#include "common/spec/added_part_kind.h"
#include "worker/model/nf4.h"
#include "worker/training/model_directory.h"
#include "worker/training/pooling.h"
#include "worker/training/rows_report.h"
#include "worker/training/run_model.h"
#include "worker/training/run_precision.h"
#include "worker/training/training_loop.h"
#include "worker/tuning/added_part.h"
#include "worker/tuning/peft_files.h"

namespace thaw {
namespace {

std::vector<std::string> AllNames(const std::vector<Group>& groups) {
  std::vector<std::string> names;
  for (const Group& group : groups) {
    names.insert(names.end(), group.parameters.begin(), group.parameters.end());
  }
  return names;
}

// Of the part that is added, or that the base model has.
absl::StatusOr<int32_t> VirtualTokensOf(const internal::Run& run) {
  const v1::Training& training = run.assignment().spec().training();
  if (training.has_added_part()) return VirtualTokens(training.added_part());
  if (!IsAdapter(run.model_dir())) return 0;
  THAW_ASSIGN_OR_RETURN(const v1::AddedPart part, ReadAdapterPart(run.model_dir()));
  return VirtualTokens(part);
}

}  // namespace

absl::Status TrainingLoop::Prepare() {
  const auto tick = [this] { reporter_.Beat(); };
  reporter_.Beat();
  THAW_ASSIGN_OR_RETURN(model_dir_, ModelDirectory(run_));
  read_ahead_.emplace(BaseWeightsDirectory(run_));
  THAW_ASSIGN_OR_RETURN(const std::string config_text, ReadFile(model_dir_ + "/config.json"));
  THAW_ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(config_text));
  THAW_RETURN_IF_ERROR(CheckFamily(run_, config.model_type));
  THAW_ASSIGN_OR_RETURN(const int32_t virtual_tokens, VirtualTokensOf(run_));
  config.max_positions = std::max<int64_t>(1, config.max_positions - virtual_tokens);
  THAW_ASSIGN_OR_RETURN(inputs_,
                        ReadTrainingInputs(run_, model_dir_, config, at::get_num_threads(), tick));
  const double read = reporter_.SecondsSinceStart();
  reporter_.Log(absl::StrFormat(
      "rows tokenized: %d to train on with %d tokens, %d to validate with, %d labels, in %.1f s",
      inputs_.training.rows(), inputs_.training.tokens(), inputs_.validation.rows(),
      inputs_.labels.size(), read));
  reporter_.Log(DescribeRows("training", inputs_.training));
  if (inputs_.validation.rows() > 0) {
    reporter_.Log(DescribeRows("validation", inputs_.validation));
  }
  THAW_ASSIGN_OR_RETURN(RunModel loaded, LoadRunModel(run_, model_dir_,
                                                      HeadSpec{.labels = inputs_.labels,
                                                               .problem = inputs_.problem,
                                                               .seed = training_.seed(),
                                                               .kind = inputs_.head,
                                                               .pooled = PooledHeadOf(training_)}));
  model_ = std::move(loaded.model);
  part_ = std::move(loaded.part);
  int64_t bytes = 0;
  for (const Parameter& parameter : model_->parameters().all())
    bytes += BytesHeld(parameter.tensor);
  reporter_.Log(absl::StrFormat("model loaded: %d parameters in %d groups, %.1f MiB, in %.1f s",
                                CountNumbers(AllNames(model_->groups())), model_->groups().size(),
                                static_cast<double>(bytes) / (1 << 20),
                                reporter_.SecondsSinceStart() - read));
  if (training_.has_added_part()) {
    if (part_) {
      return InvalidField("added_part",
                          "the base model has an added part already: leave this one out to go on "
                          "with it, or merge it first");
    }
    part_ = training_.added_part();
    THAW_RETURN_IF_ERROR(AddTrainingsPart(training_, TokenizerDirectory(run_), model_.get()));
  }
  if (part_ && training_.output() == v1::Training::MERGED && !CanBeMerged(*part_)) {
    return InvalidField("output",
                        "MERGED; the base model's part is no change of weights, so give ADAPTER");
  }
  task_ = TaskFor(model_->config(), Lanes(), inputs_.class_weights);
  if (inputs_.in_lanes) carried_.emplace(model_->blocks());
  THAW_ASSIGN_OR_RETURN(
      plan_, BatchPlan::Create(&inputs_.training,
                               {.examples_per_step = training_.batch().examples_per_step(),
                                .tokens_per_micro_step = TokensPerMicroStep(),
                                .in_lanes = inputs_.in_lanes},
                               training_.seed()));
  const bool has_validation = inputs_.validation.rows() > 0;
  for (int i = 0; i < training_.phases_size(); ++i) {
    if (training_.phases(i).has_plateau() && !has_validation) {
      return absl::FailedPreconditionError(
          "a phase ends at a plateau, but there are no validation rows: give a validation dataset "
          "or a larger validation_fraction");
    }
    // What a later phase cannot do is better known now than after hours.
    THAW_ASSIGN_OR_RETURN(const PhaseParameters trains, PhaseParametersOf(i));
    THAW_RETURN_IF_ERROR(CheckPooledHead(i, trains));
    if (training_.output() == v1::Training::ADAPTER) {
      THAW_RETURN_IF_ERROR(
          KeepBeside(absl::StrCat("phases[", i, "].selector"), trains.names, model_.get()));
    }
  }
  const DataSteps steps{.in_epoch = plan_->StepsInEpoch(0),
                        .to_loss_units = [this](int64_t epoch, int64_t units) {
                          return plan_->StepsToLossUnits(epoch, units);
                        }};
  program_.emplace(training_, steps, has_validation);
  changed_.emplace(&model_->parameters());
  frozen_part_.emplace(training_, inputs_, std::max(run_.assignment().micro_step_divisor(), 1),
                       ScratchRoom{.directory = run_.work_dir(), .disk = context_.disk});
  if (!run_.checkpoint_dir().empty()) THAW_RETURN_IF_ERROR(RestoreCheckpoint());
  for (const v1::SteeringRecord& record : run_.assignment().steerings()) {
    steerings_.emplace(record.number(), record);
  }
  WarnOfInputs();
  return absl::OkStatus();
}

absl::Status TrainingLoop::RestoreCheckpoint() {
  THAW_ASSIGN_OR_RETURN(CheckpointContents contents, ReadCheckpoint(run_.checkpoint_dir()));
  const internal::Checkpoint& state = contents.state;
  const std::string difference =
      FingerprintDifference(state.fingerprint(), CurrentFingerprint(ComputesInHalf(run_)));
  if (!difference.empty()) {
    reporter_.Warn(
        "FINGERPRINT_CHANGED",
        absl::StrCat("the checkpoint was written under other conditions, so from here on "
                     "results may differ in the last bits: ",
                     difference));
  }
  std::vector<std::string> names;
  for (const auto& [name, tensor] : contents.weights) {
    if (model_->parameters().Find(name) == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("the checkpoint holds ", name, ", which the model does not have"));
    }
    names.push_back(name);
  }
  changed_->Track(names);
  for (const auto& [name, tensor] : contents.weights) {
    THAW_RETURN_IF_ERROR(model_->parameters().SetTensor(name, tensor));
  }
  program_->GoOnFrom(state.program(), state.data().epoch());
  if (state.best_weights() == internal::OWN_FILE) {
    changed_->set_best(std::move(contents.best));
  } else if (state.best_weights() == internal::CURRENT_WEIGHTS) {
    changed_->KeepBest();
    best_is_current_ = true;
  }
  moments_ = std::move(contents.moments);
  cursor_ = {.epoch = state.data().epoch(), .position = state.data().position()};
  if (state.data().lanes() != Lanes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the checkpoint's training read its texts in ", state.data().lanes(),
                     " lanes, this one reads them in ", Lanes(), ": run the job anew"));
  }
  if (Lanes() > 0 && cursor_.position > 0) {
    THAW_RETURN_IF_ERROR(carried_->SetTensors(contents.carried, Lanes()));
  }
  tokens_ = state.tokens();
  history_.GoOnFrom(state.history_sha256(), state.program().step());
  loss_ = state.loss();
  best_figures_ = {{state.best_values().begin(), state.best_values().end()},
                   {state.best_confusion().begin(), state.best_confusion().end()}};
  newest_figures_ = {{state.newest_values().begin(), state.newest_values().end()},
                     {state.newest_confusion().begin(), state.newest_confusion().end()}};
  reporter_.set_pending(
      {.loss_sum = state.pending_loss_sum(), .loss_units = state.pending_loss_units()});
  checkpoint_step_ = state.program().step();
  if (state.program().in_phase()) THAW_RETURN_IF_ERROR(SetUpTrainables());
  return absl::OkStatus();
}

void TrainingLoop::WarnOfInputs() {
  for (const std::string& warning : model_->warnings()) reporter_.Warn("MODEL", warning);
  WarnOfRows(inputs_, &reporter_);
  if (inputs_.lacks_end) {
    reporter_.Warn("NO_END_OF_TEXT",
                   "the model names no eos_token, so nothing marks where a text ends");
  }
  if (run_.assignment().micro_step_divisor() > 1) {
    reporter_.Warn(
        "MICRO_STEP_REDUCED",
        absl::StrCat("tokens_per_micro_step is divided by ", run_.assignment().micro_step_divisor(),
                     " after running out of memory: results may differ in the last bits"));
  }
}

absl::StatusOr<PhaseParameters> TrainingLoop::PhaseParametersOf(int phase) const {
  return ParametersOf(absl::StrCat("spec.training.phases[", phase, "]"), training_.phases(phase),
                      model_->groups(), model_->parameters());
}

bool TrainingLoop::RecomputesActivations() const {
  const v1::Training::Recompute when = training_.recompute_activations();
  return when == v1::Training::ALWAYS ||
         (when != v1::Training::NEVER && run_.assignment().micro_step_divisor() > 1);
}

absl::Status TrainingLoop::SetUpTrainables() {
  THAW_ASSIGN_OR_RETURN(parameters_, PhaseParametersOf(program_->state().phase()));
  const std::vector<std::string>& names = parameters_.names;
  const bool recomputes = RecomputesActivations() && !inputs_.in_lanes;  // state is carried on
  if (recomputes) reporter_.Log("activations of trained blocks are computed twice");
  trained_groups_ = TrainedGroups(*model_, names, program_->phase().frozen_dropout(), recomputes);
  std::vector<std::string> changing = names;
  for (const Parameter& parameter : model_->parameters().all()) {
    // A batch norm's statistics, say: they change without an optimizer.
    if (parameter.buffer && trained_groups_.Trained(parameter.group)) {
      changing.push_back(parameter.name);
    }
  }
  changed_->Track(changing);
  THAW_ASSIGN_OR_RETURN(
      trainables_, Trainables::Create(&model_->parameters(), names, parameters_.rates, moments_));
  moments_.clear();
  const std::string decided = frozen_part_->BeginPhase(
      program_->state().phase(), trained_groups_.lowest(), WrittenBytes(), model_.get());
  if (!decided.empty()) reporter_.Log(decided);
  time_mark_ = reporter_.SecondsSinceStart();
  reporter_.progress().set_trainable_share(
      static_cast<double>(CountNumbers(names)) /
      static_cast<double>(CountNumbers(AllNames(model_->groups()))));
  return trainables_->CheckComplete();
}

int64_t TrainingLoop::WrittenBytes() const {
  const auto sum = [](const auto& tensors) {
    int64_t bytes = 0;
    for (const auto& [name, tensor] : tensors) bytes += static_cast<int64_t>(tensor.nbytes());
    return bytes;
  };
  const bool adapter = part_ && training_.output() == v1::Training::ADAPTER;
  int64_t result = 0;
  for (const Parameter& parameter : model_->parameters().all()) {
    if (adapter && !parameter.added() && !parameter.beside_added && !parameter.kept_beside) {
      continue;
    }
    // Merging a part makes fp32 of what is in 4 bits, and files hold in fp32 what is rounded here.
    const bool four_bits = !part_ && Nf4Of(parameter.tensor) != nullptr;
    result += four_bits ? BytesHeld(parameter.tensor)
                        : parameter.tensor.numel() * static_cast<int64_t>(sizeof(float));
  }
  const int64_t moments = 2 * int64_t{sizeof(float)} * CountNumbers(parameters_.names);
  const int64_t checkpoint = 2 * sum(changed_->Current()) + moments;
  return 2 * checkpoint + result;
}

absl::Status TrainingLoop::EnterPhase() {
  const v1::Phase& phase = program_->phase();
  if (phase.restore_best() && changed_->has_best()) {
    THAW_RETURN_IF_ERROR(changed_->RestoreBest());
    frozen_part_->Forget();
    best_is_current_ = true;
  }
  if (phase.optimizer_state() == v1::RESET) moments_.clear();
  // A phase sees whole passes over the data.
  if (cursor_.position > 0) cursor_ = {.epoch = cursor_.epoch + 1, .position = 0};
  THAW_RETURN_IF_ERROR(SetUpTrainables());
  history_.PhaseBegins(program_->state().phase() + 1);
  program_->PhaseEntered(cursor_.epoch);
  return AnnouncePhase();
}

int64_t TrainingLoop::CountNumbers(const std::vector<std::string>& names) const {
  int64_t count = 0;
  for (const std::string& name : names) count += model_->parameters().Find(name)->tensor.numel();
  return count;
}

absl::Status TrainingLoop::AnnouncePhase() {
  const internal::ProgramState& state = program_->state();
  std::set<std::string> trained_before;
  if (state.phase() > 0) {
    THAW_ASSIGN_OR_RETURN(const PhaseParameters before, PhaseParametersOf(state.phase() - 1));
    trained_before.insert(before.names.begin(), before.names.end());
  }
  v1::Event event;
  v1::PhaseStart* start = event.mutable_phase_start();
  start->set_phase(state.phase() + 1);
  start->set_name(program_->phase().name());
  start->set_step(state.step());
  start->set_steps(program_->phase_length().steps);
  start->set_trainable_parameters(CountNumbers(trainables_->names()));
  start->set_total_parameters(CountNumbers(AllNames(model_->groups())));
  for (const Parameter& parameter : model_->parameters().all()) {
    if (!parameter.tensor.requires_grad()) continue;
    start->add_trainable_names(parameter.name);
    if (trained_before.count(parameter.name) == 0) {
      start->add_newly_trainable_names(parameter.name);
    }
  }
  for (const auto& [group, highest] : parameters_.group_rates) {
    v1::GroupRate* rate = start->add_rates();
    rate->set_group(model_->groups()[group].name);
    rate->set_learning_rate(highest);
  }
  reporter_.Emit(std::move(event));
  return absl::OkStatus();
}

}  // namespace thaw
