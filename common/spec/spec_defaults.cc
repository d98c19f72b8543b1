#include "common/spec/spec_defaults.h"

#include <algorithm>

#include "common/spec/added_part_kind.h"
#include "common/spec/auto_values.h"
#include "common/spec/cache_decision.h"
#include "common/spec/model_abilities.h"
#include "common/spec/preset_program.h"
#include "common/spec/ready_artifact.h"
#include "common/spec/spec_problems.h"
#include "common/spec/task_columns.h"

namespace thaw {
namespace {

constexpr int kDefaultMaxLength = 256;
// Of prompts, which lose their sense when they are cut.
constexpr int kDefaultPromptLength = 2048;
constexpr int kDefaultNewTokens = 256;
constexpr int kDefaultGeneratedRows = 256;

template <typename Message, typename Value>
void SetDefault(Message* message, bool (Message::*has)() const, void (Message::*set)(Value),
                Value value) {
  if (!(message->*has)()) (message->*set)(value);
}

void FillSchedule(v1::Schedule* schedule) {
  if (schedule->shape() == v1::Schedule::SHAPE_UNSPECIFIED) {
    schedule->set_shape(v1::Schedule::CONSTANT);
  }
  const bool one_cycle = schedule->shape() == v1::Schedule::ONE_CYCLE;
  if (!one_cycle && schedule->shape() != v1::Schedule::SLANTED_TRIANGULAR) return;
  SetDefault(schedule, &v1::Schedule::has_cut_fraction, &v1::Schedule::set_cut_fraction,
             one_cycle ? 0.25 : 0.1);
  SetDefault(schedule, &v1::Schedule::has_ratio, &v1::Schedule::set_ratio, one_cycle ? 25.0 : 32.0);
  if (!one_cycle) return;
  SetDefault(schedule, &v1::Schedule::has_final_ratio, &v1::Schedule::set_final_ratio, 1e5);
}

void FillPhase(int number, const TrainingSize& size, bool has_own_schedule, v1::Phase* phase) {
  phase->set_name(PhaseName(*phase, number));
  SetDefault(phase, &v1::Phase::has_learning_rate_decay, &v1::Phase::set_learning_rate_decay, 1.0);
  if (phase->has_convergence()) {
    v1::Convergence* convergence = phase->mutable_convergence();
    if (convergence->max_iterations() == 0) convergence->set_max_iterations(500);
    SetDefault(convergence, &v1::Convergence::has_tolerance, &v1::Convergence::set_tolerance, 1e-6);
    SetDefault(convergence, &v1::Convergence::has_l2, &v1::Convergence::set_l2, 1.0);
    has_own_schedule = false;
  } else if (phase->learning_rate() == 0) {
    phase->set_learning_rate(AutoLearningRate(*phase, size));
  }
  if (phase->until_case() == v1::Phase::UNTIL_NOT_SET) phase->set_epochs(AutoEpochs(size));
  if (has_own_schedule) FillSchedule(phase->mutable_schedule());
  if (phase->has_plateau() && phase->plateau().patience() == 0) {
    phase->mutable_plateau()->set_patience(2);
  }
  if (phase->optimizer_state() == v1::OPTIMIZER_STATE_UNSPECIFIED) {
    phase->set_optimizer_state(v1::KEEP);
  }
}

// `taken`: positions that the model has and inputs do not get.
int WithinPositions(int length, const v1::Artifact* model, int taken = 0) {
  const int positions = model == nullptr ? 0 : model->model().max_positions();
  return positions > 0 ? std::min(length, std::max(positions - taken, 1)) : length;
}

void FillTask(v1::Training* training) {
  if (training->has_language_modeling() &&
      training->language_modeling().layout() == v1::LanguageModeling::LAYOUT_UNSPECIFIED) {
    training->mutable_language_modeling()->set_layout(v1::LanguageModeling::CONTIGUOUS);
  }
  if (training->has_sequence_to_sequence() &&
      training->sequence_to_sequence().max_target_length() == 0) {
    training->mutable_sequence_to_sequence()->set_max_target_length(kDefaultMaxLength);
  }
}

void FillBottleneck(v1::BottleneckAdapter* adapter) {
  if (adapter->place() == v1::BottleneckAdapter::PLACE_UNSPECIFIED) {
    adapter->set_place(v1::BottleneckAdapter::PFEIFFER);
  }
  if (adapter->reduction() == 0) adapter->set_reduction(16);
  SetDefault(adapter, &v1::BottleneckAdapter::has_scale, &v1::BottleneckAdapter::set_scale,
             adapter->place() == v1::BottleneckAdapter::PARALLEL ? 4.0 : 1.0);
}

template <typename Part>
void FillVirtualTokens(Part* part) {
  if (part->virtual_tokens() == 0) part->set_virtual_tokens(20);
}

void FillAddedPart(v1::AddedPart* part) {
  if (part->has_prompt_tuning()) FillVirtualTokens(part->mutable_prompt_tuning());
  if (part->has_prefix_tuning()) FillVirtualTokens(part->mutable_prefix_tuning());
  if (part->has_bottleneck()) FillBottleneck(part->mutable_bottleneck());
  if (!part->has_lora()) return;
  v1::Lora* lora = part->mutable_lora();
  if (lora->rank() == 0) lora->set_rank(8);
  SetDefault(lora, &v1::Lora::has_alpha, &v1::Lora::set_alpha, 2.0 * lora->rank());
  if (lora->bias() == v1::Lora::BIAS_UNSPECIFIED) lora->set_bias(v1::Lora::NO_BIAS);
}

void FillPooledHead(const v1::Artifact* model, v1::PooledHead* head) {
  if (model != nullptr && !head->has_blocks()) head->set_blocks(model->model().blocks());
  if (head->pooling() == v1::Embed::POOLING_UNSPECIFIED) head->set_pooling(v1::Embed::MEAN);
}

// Nothing differs from the base model but a small head: its weights need not be stored again.
bool ChangesPooledHeadAlone(const v1::Training& training, const v1::Artifact* model) {
  return training.has_pooled_head() && model != nullptr && model->model().parameters() > 0 &&
         training.tokenizer().empty() &&
         std::all_of(training.phases().begin(), training.phases().end(),
                     [](const v1::Phase& phase) { return phase.selector().head_only(); });
}

void FillProgram(const v1::Artifact* model, const v1::Artifact* dataset, v1::Training* training) {
  const TrainingSize size = SizeOf(*training, model, dataset);
  // Beside phases it is refused.
  if (training->has_preset() && training->phases().empty() && model != nullptr) {
    const bool given = training->has_added_part();
    const int blocks = model->model().blocks();
    ExpandPreset(training->pooled_head().has_blocks()
                     ? std::min(training->pooled_head().blocks(), blocks)
                     : blocks,
                 size, training);
    // An adapter goes on with the part that it has.
    if (!given && model->form() == v1::Artifact::ADAPTER) training->clear_added_part();
  }
  for (int i = 0; i < training->phases_size(); ++i) {
    FillPhase(i + 1, size, !training->has_schedule(), training->mutable_phases(i));
  }
  if (training->has_schedule()) FillSchedule(training->mutable_schedule());
  if (training->batch().examples_per_step() == 0) {
    training->mutable_batch()->set_examples_per_step(AutoExamplesPerStep(size));
  }
}

template <typename Work>
void FillPrecision(Work* work) {
  if (work->precision() == v1::PRECISION_UNSPECIFIED) work->set_precision(v1::FP32);
}

void FillGeneration(v1::Evaluation* evaluation) {
  const auto generates = [](int metric) {
    return metric == v1::Evaluation::EXACT_MATCH || metric == v1::Evaluation::DIGIT_MATCH;
  };
  if (!generates(evaluation->metric()) &&
      std::none_of(evaluation->also().begin(), evaluation->also().end(), generates)) {
    return;
  }
  if (evaluation->max_new_tokens() == 0) evaluation->set_max_new_tokens(kDefaultNewTokens);
  if (evaluation->generated_rows() == 0) evaluation->set_generated_rows(kDefaultGeneratedRows);
}

void FillTraining(const v1::Artifact* model, const SpecContext& context, v1::Training* training) {
  if (training->validation_case() == v1::Training::VALIDATION_NOT_SET) {
    training->set_validation_fraction(0.1);
  }
  const v1::Artifact* dataset = FindArtifact(context, training->dataset());
  FillColumns(dataset, training);
  FillTask(training);
  FillProgram(model, dataset, training);
  if (training->has_added_part()) FillAddedPart(training->mutable_added_part());
  if (training->has_pooled_head()) FillPooledHead(model, training->mutable_pooled_head());
  v1::Optimizer* optimizer = training->mutable_optimizer();
  SetDefault(optimizer, &v1::Optimizer::has_beta1, &v1::Optimizer::set_beta1, 0.9);
  SetDefault(optimizer, &v1::Optimizer::has_beta2, &v1::Optimizer::set_beta2, 0.999);
  SetDefault(optimizer, &v1::Optimizer::has_epsilon, &v1::Optimizer::set_epsilon, 1e-8);
  SetDefault(optimizer, &v1::Optimizer::has_weight_decay, &v1::Optimizer::set_weight_decay, 0.01);
  v1::Batch* batch = training->mutable_batch();
  if (batch->tokens_per_micro_step() == 0) batch->set_tokens_per_micro_step(2048);
  if (training->long_rows() == v1::Training::LONG_ROWS_UNSPECIFIED) {
    training->set_long_rows(v1::Training::TRUNCATE);
  }
  FillPrecision(training);
  if (training->recompute_activations() == v1::Training::RECOMPUTE_UNSPECIFIED) {
    training->set_recompute_activations(v1::Training::AFTER_OUT_OF_MEMORY);
  }
  if (training->max_length() == 0) {
    training->set_max_length(
        WithinPositions(kDefaultMaxLength, model, VirtualTokens(training->added_part())));
  }
  if (training->output() == v1::Training::OUTPUT_UNSPECIFIED) {
    const bool adapts =
        training->has_added_part() || (model != nullptr && model->form() == v1::Artifact::ADAPTER);
    training->set_output(adapts                                     ? v1::Training::ADAPTER
                         : ChangesPooledHeadAlone(*training, model) ? v1::Training::DELTA
                                                                    : v1::Training::FULL);
  }
  SetDefault(training, &v1::Training::has_seed, &v1::Training::set_seed, uint64_t{42});
  SetDefault(training, &v1::Training::has_max_grad_norm, &v1::Training::set_max_grad_norm, 1.0);
  v1::Evaluation* evaluation = training->mutable_evaluation();
  const std::vector<v1::Evaluation::Metric> metrics = MetricsOf(*training);
  if (evaluation->metric() == v1::Evaluation::METRIC_UNSPECIFIED && !metrics.empty()) {
    evaluation->set_metric(metrics.front());
  }
  if (evaluation->every_steps() == 0) {
    SetDefault(evaluation, &v1::Evaluation::has_every_epochs, &v1::Evaluation::set_every_epochs,
               1.0);
  }
  FillGeneration(evaluation);
  SetDefault(evaluation, &v1::Evaluation::has_keep_best, &v1::Evaluation::set_keep_best, true);
  if (training->checkpoint().every_steps() == 0)
    training->mutable_checkpoint()->set_every_steps(200);
  v1::ActivationCache* cache = training->mutable_activation_cache();
  if (cache->use() == v1::ActivationCache::USE_UNSPECIFIED)
    cache->set_use(v1::ActivationCache::AUTO);
  if (cache->max_bytes() == 0) cache->set_max_bytes(kDefaultCacheBytes);
  FillCacheDecisions(model, dataset, training);
}

void FillPrediction(const v1::Artifact* model, const SpecContext& context,
                    v1::Prediction* prediction) {
  FillColumns(FindArtifact(context, prediction->dataset()), prediction);
  if (prediction->has_embed()) {
    v1::Embed* embed = prediction->mutable_embed();
    if (embed->pooling() == v1::Embed::POOLING_UNSPECIFIED) embed->set_pooling(v1::Embed::MEAN);
    SetDefault(embed, &v1::Embed::has_normalize, &v1::Embed::set_normalize, true);
  }
  if (prediction->has_generate()) {
    v1::Generate* generate = prediction->mutable_generate();
    if (generate->max_new_tokens() == 0) generate->set_max_new_tokens(kDefaultNewTokens);
    SetDefault(generate, &v1::Generate::has_top_p, &v1::Generate::set_top_p, 1.0);
    SetDefault(generate, &v1::Generate::has_repetition_penalty,
               &v1::Generate::set_repetition_penalty, 1.0);
    SetDefault(generate, &v1::Generate::has_seed, &v1::Generate::set_seed, uint64_t{42});
  }
  FillPrecision(prediction);
  if (prediction->max_length() == 0) {
    const bool prompts = prediction->has_score() || prediction->has_generate();
    prediction->set_max_length(
        WithinPositions(prompts ? kDefaultPromptLength : kDefaultMaxLength, model));
  }
}

}  // namespace

v1::JobSpec WithDefaults(const v1::JobSpec& spec, const v1::Artifact* model,
                         const SpecContext& context) {
  v1::JobSpec filled = spec;
  if (filled.has_training()) {
    FillTraining(model, context, filled.mutable_training());
  } else if (filled.has_prediction()) {
    FillPrediction(model, context, filled.mutable_prediction());
  }
  if (filled.resources().device_count() == 0) filled.mutable_resources()->set_device_count(1);
  v1::RetryLimits* limits = filled.mutable_retry_limits();
  SetDefault(limits, &v1::RetryLimits::has_crashes, &v1::RetryLimits::set_crashes, 3);
  SetDefault(limits, &v1::RetryLimits::has_out_of_memory, &v1::RetryLimits::set_out_of_memory, 1);
  SetDefault(limits, &v1::RetryLimits::has_losses_in_a_row, &v1::RetryLimits::set_losses_in_a_row,
             5);
  return filled;
}

}  // namespace thaw
