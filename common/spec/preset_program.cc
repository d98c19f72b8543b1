#include "common/spec/preset_program.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"

namespace thaw {
namespace {

// 64, less the phases that are no run of blocks: the head, the embeddings, everything.
constexpr int kMostRuns = 61;
constexpr double kUlmfitDecay = 2.6;
constexpr double kShortWarmup = 0.03;

// Passes over features that are kept cost next to nothing.
constexpr double kFeatureEpochs = 10;

constexpr PresetWord kPresets[] = {
    {v1::Preset::FEATURES, "features",
     "a head on features of the frozen model, which are computed once"},
    {v1::Preset::HEAD, "head", "the head alone; the model stays as it is"},
    {v1::Preset::PARTIAL, "partial", "the head and the last third of the blocks"},
    {v1::Preset::FULL, "full", "everything at once"},
    {v1::Preset::GRADUAL, "gradual",
     "the head, then one more block a phase, then everything (ULMFiT); the default"},
    {v1::Preset::HEAD_THEN_FULL, "head_then_full", "the head, then everything"},
    {v1::Preset::CHAIN_THAW, "chain_thaw",
     "the head, then each group alone from the bottom up, then everything"},
    {v1::Preset::BITFIT, "bitfit", "biases and the head"},
    {v1::Preset::LORA, "lora", "low-rank parts, and a new head"},
    {v1::Preset::SFT, "sft", "everything, cosine after a short warm-up: language models"}};

std::string LastBlocks(int count) {
  return absl::StrCat("last ", count, count == 1 ? " block" : " blocks");
}

class Expansion {
 public:
  Expansion(int blocks, const TrainingSize& size, v1::Training* training)
      : blocks_(blocks),
        size_(size),
        preset_(training->preset()),
        training_(training),
        stride_((blocks + kMostRuns - 1) / kMostRuns) {}

  void Expand() {
    const double epochs = AutoEpochs(size_);
    switch (preset_.name()) {
      case v1::Preset::FEATURES:
        training_->mutable_pooled_head();
        AddMain("head", kFeatureEpochs)->mutable_selector()->set_head_only(true);
        break;
      case v1::Preset::HEAD:
        AddMain("head", epochs)->mutable_selector()->set_head_only(true);
        break;
      case v1::Preset::PARTIAL: {
        const int last = preset_.last_blocks() > 0 ? preset_.last_blocks() : (blocks_ + 2) / 3;
        AddMain(LastBlocks(last), epochs)->mutable_selector()->set_last_blocks(last);
        break;
      }
      case v1::Preset::GRADUAL:
        Gradual(epochs / 8, epochs / 2);
        break;
      case v1::Preset::HEAD_THEN_FULL:
        AddBefore("head", epochs / 2)->mutable_selector()->set_head_only(true);
        AddMain("everything", epochs)->mutable_selector()->set_everything(true);
        break;
      case v1::Preset::CHAIN_THAW:
        ChainThaw(epochs / 8, epochs / 2);
        break;
      case v1::Preset::BITFIT: {
        v1::Phase* phase = AddMain("biases and head", epochs);
        auto* values = phase->mutable_selector()->mutable_any_of();
        values->add_values()->set_kind(v1::Selector::BIASES);
        values->add_values()->set_head_only(true);
        break;
      }
      case v1::Preset::LORA:
        Lora(epochs);
        break;
      case v1::Preset::SFT: {
        v1::Phase* phase = AddMain("everything", epochs);
        phase->mutable_selector()->set_everything(true);
        WarmCosine(phase);
        break;
      }
      default:  // FULL
        AddMain("everything", epochs)->mutable_selector()->set_everything(true);
        break;
    }
    if (training_->has_schedule()) {
      for (v1::Phase& phase : *training_->mutable_phases()) phase.clear_schedule();
    }
    training_->clear_preset();
  }

 private:
  v1::Phase* Add(const std::string& name, double epochs) {
    v1::Phase* phase = training_->add_phases();
    phase->set_name(name);
    phase->mutable_schedule()->set_shape(v1::Schedule::SLANTED_TRIANGULAR);
    phase->set_epochs(epochs);
    return phase;
  }

  v1::Phase* AddBefore(const std::string& name, double epochs) {
    return Add(name, preset_.epochs_per_phase() > 0 ? preset_.epochs_per_phase() : epochs);
  }

  v1::Phase* AddMain(const std::string& name, double epochs) {
    v1::Phase* phase = Add(name, preset_.epochs() > 0 ? preset_.epochs() : epochs);
    phase->set_learning_rate(preset_.learning_rate());
    return phase;
  }

  // One rate for all of it: each phase goes on with what the one before has learnt.
  void Gradual(double before, double main) {
    AddBefore("head", before)->mutable_selector()->set_head_only(true);
    for (int last = stride_; last <= blocks_; last += stride_) {
      AddBefore(LastBlocks(last), before)->mutable_selector()->set_last_blocks(last);
    }
    AddMain("everything", main)->mutable_selector()->set_everything(true);
    v1::Phase* whole = training_->mutable_phases(training_->phases_size() - 1);
    whole->set_learning_rate_decay(kUlmfitDecay);
    const double rate =
        whole->learning_rate() > 0 ? whole->learning_rate() : AutoLearningRate(*whole, size_);
    for (v1::Phase& phase : *training_->mutable_phases()) {
      phase.set_learning_rate(rate);
      if (!phase.selector().head_only()) phase.set_learning_rate_decay(kUlmfitDecay);
    }
  }

  void ChainThaw(double before, double main) {
    AddBefore("head", before)->mutable_selector()->set_head_only(true);
    // A language model's embeddings may be its head's, and nothing be left of them alone.
    const bool apart = training_->has_text_classification() || training_->has_regression();
    const auto add_between = [&](const std::string& name, int from, int to) {
      v1::Selector* selector = AddBefore(name, before)->mutable_selector();
      if (from > blocks_) {
        selector->set_everything(true);
      } else {
        selector->set_last_blocks(from);
      }
      selector->add_and_not()->set_last_blocks(to);
    };
    int last = blocks_;
    if (apart) {
      add_between("embeddings", blocks_ + 1, blocks_);
    } else {
      last = std::max(blocks_ - stride_, 0);
      add_between("embeddings and first blocks", blocks_ + 1, last);
    }
    while (last > 0) {
      const int next = std::max(last - stride_, 0);
      const int first = blocks_ - last, end = blocks_ - next - 1;
      add_between(first == end ? absl::StrCat("block ", first)
                               : absl::StrCat("blocks ", first, " to ", end),
                  last, next);
      last = next;
    }
    AddMain("everything", main)->mutable_selector()->set_everything(true);
    // All but the head at the rate of the whole model.
    const v1::Phase& whole = training_->phases(training_->phases_size() - 1);
    const double rate =
        whole.learning_rate() > 0 ? whole.learning_rate() : AutoLearningRate(whole, size_);
    for (int i = 1; i < training_->phases_size(); ++i) {
      training_->mutable_phases(i)->set_learning_rate(rate);
    }
  }

  void Lora(double epochs) {
    if (!training_->has_added_part()) training_->mutable_added_part()->mutable_lora();
    v1::Phase* phase = AddMain(size_.new_head ? "added parts and head" : "added parts", epochs);
    WarmCosine(phase);
    // A head that is drawn anew is one of them.
    phase->mutable_selector()->set_kind(v1::Selector::ADDED_PARTS);
  }

  static void WarmCosine(v1::Phase* phase) {
    phase->mutable_schedule()->set_shape(v1::Schedule::COSINE);
    phase->mutable_schedule()->set_warmup_fraction(kShortWarmup);
  }

  const int blocks_;
  const TrainingSize& size_;
  const v1::Preset preset_;
  v1::Training* const training_;
  const int stride_;  // blocks a phase
};

}  // namespace

std::span<const PresetWord> PresetWords() { return kPresets; }

absl::StatusOr<v1::Preset::Name> ParsePreset(absl::string_view name) {
  std::string known;
  for (const PresetWord& one : kPresets) {
    if (one.name == name) return one.preset;
    absl::StrAppend(&known, known.empty() ? "" : ", ", one.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("method \"", name, "\" is not known; give one of ", known));
}

void ExpandPreset(int blocks, const TrainingSize& size, v1::Training* training) {
  Expansion(std::max(blocks, 1), size, training).Expand();
}

}  // namespace thaw
