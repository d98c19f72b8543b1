#include "worker/training/generation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "common/base/status.h"
#include "worker/model/packed_rows.h"
#include "worker/model/sequence_state.h"
#include "worker/text/stop_strings.h"
#include "worker/text/stream_decoder.h"
#include "worker/training/inference.h"

namespace thaw {
namespace {

using Prompts = std::vector<std::vector<int32_t>>;

// New rows are read in once so many of the places are free: a prompt alone costs as much as a step.
constexpr int64_t kLeastFreeShare = 4;

// A row at work.
class ActiveRow {
 public:
  ActiveRow(int64_t row, const std::vector<int32_t>& prompt, const GenerationOptions& options,
            const Tokenizer& tokenizer, StopStrings stops)
      : row_(row),
        options_(options),
        context_(options.decoder_start >= 0 ? 1 : static_cast<int64_t>(prompt.size())),
        decoder_(tokenizer, /*skip_special_tokens=*/true),
        stops_(std::move(stops)) {
    if (options.sampling.repetition_penalty == 1) return;
    // What an encoder has read is not what this model has said.
    seen_ = options.decoder_start >= 0 ? std::vector<int32_t>{options.decoder_start} : prompt;
    std::sort(seen_.begin(), seen_.end());
    seen_.erase(std::unique(seen_.begin(), seen_.end()), seen_.end());
  }

  int64_t row() const { return row_; }
  int32_t last_token() const { return last_token_; }
  bool done() const { return !result_.finish_reason.empty(); }
  const GeneratedRow& result() const { return result_; }

  // Chooses the next token and tells the listener of what it adds to the text.
  absl::Status Take(std::span<float> logits, int64_t max_positions,
                    const GenerationListener& listener) {
    last_token_ = NextToken(options_.sampling, seen_, row_, result_.tokens, logits);
    ++result_.tokens;
    const bool ends =
        std::find(options_.ends.begin(), options_.ends.end(), last_token_) != options_.ends.end();
    if (ends && !options_.ignore_end) return End("end", listener);
    Remember(last_token_);
    THAW_ASSIGN_OR_RETURN(const std::string piece, decoder_.Push(last_token_));
    Tell(stops_.Push(piece), listener);
    if (stops_.stopped()) return End("stop", listener);
    const bool full =
        result_.tokens >= options_.max_new_tokens || context_ + result_.tokens >= max_positions;
    return full ? End("length", listener) : absl::OkStatus();
  }

 private:
  void Remember(int32_t token) {
    if (options_.sampling.repetition_penalty == 1) return;
    const auto at = std::lower_bound(seen_.begin(), seen_.end(), token);
    if (at == seen_.end() || *at != token) seen_.insert(at, token);
  }

  void Tell(const std::string& piece, const GenerationListener& listener) {
    if (piece.empty()) return;
    result_.text += piece;
    if (listener.on_text) listener.on_text(row_, piece, result_.tokens);
  }

  absl::Status End(const char* reason, const GenerationListener& listener) {
    if (!stops_.stopped()) {
      THAW_ASSIGN_OR_RETURN(const std::string rest, decoder_.Finish());
      Tell(stops_.Push(rest), listener);
      if (stops_.stopped()) reason = "stop";
    }
    if (!stops_.stopped()) Tell(stops_.Finish(), listener);
    result_.finish_reason = reason;
    if (listener.on_done) listener.on_done(row_, result_);
    return absl::OkStatus();
  }

  const int64_t row_;
  const GenerationOptions& options_;
  const int64_t context_;  // tokens before the first new one
  StreamDecoder decoder_;
  StopStrings stops_;
  std::vector<int32_t> seen_;  // sorted, each once; empty without a penalty
  int32_t last_token_ = 0;
  GeneratedRow result_;
};

class Generation {
 public:
  Generation(Model* model, const Tokenizer& tokenizer, const Prompts& prompts,
             const GenerationOptions& options, const GenerationListener& listener)
      : model_(model),
        tokenizer_(tokenizer),
        prompts_(prompts),
        options_(options),
        listener_(listener) {}

  absl::Status Run() {
    while (next_ < prompts_.size() || !active_.empty()) {
      if (listener_.go_on && !listener_.go_on(done_)) return absl::CancelledError("not wanted");
      const std::vector<size_t> starting = Starting();
      THAW_RETURN_IF_ERROR(starting.empty() ? Step() : Start(starting));
    }
    return absl::OkStatus();
  }

 private:
  // Rows whose prompts are read in next; none while the rows at work should go on.
  std::vector<size_t> Starting() {
    std::vector<size_t> rows;
    const auto working = static_cast<int64_t>(active_.size());
    const int64_t free = options_.most_rows - working;
    const auto waiting = static_cast<int64_t>(prompts_.size() - next_);
    if (working > 0 && free < std::min(waiting, options_.most_rows / kLeastFreeShare)) return rows;
    int64_t tokens = 0;
    int64_t cached = CacheBytesAtEnd();
    while (next_ + rows.size() < prompts_.size() && static_cast<int64_t>(rows.size()) < free) {
      const std::vector<int32_t>& prompt = prompts_[next_ + rows.size()];
      tokens += static_cast<int64_t>(prompt.size());
      cached += CacheBytes(static_cast<int64_t>(prompt.size()) + options_.max_new_tokens);
      const bool fits = tokens <= options_.prompt_tokens && cached <= options_.cache_bytes;
      if (!fits && !(rows.empty() && working == 0)) break;
      rows.push_back(next_ + rows.size());
      // What a token takes is known once some have been read: of a first prompt, alone.
      if (!fits || bytes_per_token_ == 0) break;
    }
    return rows;
  }

  int64_t CacheBytes(int64_t tokens) const {
    return static_cast<int64_t>(bytes_per_token_ * static_cast<double>(tokens));
  }

  // What the rows at work will hold if they become as long as they may.
  int64_t CacheBytesAtEnd() const {
    int64_t tokens = 0;
    for (const ActiveRow& row : active_) {
      tokens += static_cast<int64_t>(prompts_[static_cast<size_t>(row.row())].size()) +
                options_.max_new_tokens;
    }
    return CacheBytes(tokens);
  }

  absl::Status Start(const std::vector<size_t>& starting) {
    std::vector<int64_t> ids;
    Packed packed;
    packed.cu_seqlens = {0};
    std::vector<ActiveRow> rows;
    for (const size_t row : starting) {
      ids.insert(ids.end(), prompts_[row].begin(), prompts_[row].end());
      packed.cu_seqlens.push_back(static_cast<int32_t>(ids.size()));
      THAW_ASSIGN_OR_RETURN(StopStrings stops, StopStrings::Create(options_.stop));
      rows.emplace_back(static_cast<int64_t>(row), prompts_[row], options_, tokenizer_,
                        std::move(stops));
    }
    next_ += starting.size();
    packed.token_ids = IdTensor(ids);
    if (options_.decoder_start >= 0) {
      packed.target_ids = IdTensor(std::vector<int64_t>(starting.size(), options_.decoder_start));
      packed.target_bounds = UnitBounds(starting.size());
    }
    SequenceState state(model_->blocks(), static_cast<int64_t>(starting.size()));
    const torch::Tensor logits = Logits(packed, &state);
    bytes_per_token_ = std::max(
        bytes_per_token_, static_cast<double>(state.bytes()) / static_cast<double>(ids.size()));
    if (state_) {
      state_->Join(std::move(state));
    } else {
      state_.emplace(std::move(state));
    }
    const size_t first = active_.size();
    std::move(rows.begin(), rows.end(), std::back_inserter(active_));
    return Take(logits, first);
  }

  absl::Status Step() {
    std::vector<int64_t> ids;
    for (const ActiveRow& row : active_) ids.push_back(row.last_token());
    Packed packed;
    const std::vector<int32_t> bounds = UnitBounds(active_.size());
    if (options_.decoder_start >= 0) {
      packed.target_ids = IdTensor(ids);
      packed.target_bounds = bounds;
    } else {
      packed.token_ids = IdTensor(ids);
      packed.cu_seqlens = bounds;
    }
    return Take(Logits(packed, &*state_), 0);
  }

  // fp32 [sequences, vocabulary] after the last token of each.
  torch::Tensor Logits(const Packed& packed, SequenceState* state) {
    RunContext context;
    context.state = state;
    const Rows rows = Infer(model_, packed, context);
    if (OneRowEach(rows.data, rows.cu_seqlens)) return TokenLogits(model_, rows, torch::Tensor());
    std::vector<int64_t> last;
    for (size_t s = 1; s < rows.cu_seqlens.size(); ++s) last.push_back(rows.cu_seqlens[s] - 1);
    return TokenLogits(model_, rows, IdTensor(last).to(rows.data.device()));
  }

  // Gives the rows from `first` on their next tokens; those that end leave.
  absl::Status Take(const torch::Tensor& device_logits, size_t first) {
    torch::Tensor logits = device_logits.cpu();
    const auto width = static_cast<size_t>(logits.size(1));
    auto* values = logits.mutable_data_ptr<float>();
    // NaN where any logit is, and infinite where one is certain or all are ruled out: the
    // comparisons that choose a token would take one all the same.
    const torch::Tensor highest = logits.amax(1);
    for (size_t i = first; i < active_.size(); ++i) {
      if (!std::isfinite(highest.const_data_ptr<float>()[i - first])) {
        return OutputNotANumber(active_[i].row());
      }
      const std::span<float> row(values + (i - first) * width, width);
      THAW_RETURN_IF_ERROR(active_[i].Take(row, model_->max_positions(), listener_));
    }
    std::vector<int64_t> kept;
    std::vector<ActiveRow> going_on;
    for (size_t i = 0; i < active_.size(); ++i) {
      if (active_[i].done()) continue;
      kept.push_back(static_cast<int64_t>(i));
      going_on.push_back(std::move(active_[i]));
    }
    if (going_on.size() == active_.size()) {
      active_ = std::move(going_on);
      return absl::OkStatus();
    }
    done_ += static_cast<int64_t>(active_.size() - going_on.size());
    active_ = std::move(going_on);
    if (active_.empty()) {
      state_.reset();
    } else {
      state_->Keep(kept);
    }
    return absl::OkStatus();
  }

  Model* const model_;
  const Tokenizer& tokenizer_;
  const Prompts& prompts_;
  const GenerationOptions& options_;
  const GenerationListener& listener_;
  size_t next_ = 0;  // the first prompt that was not read in
  int64_t done_ = 0;
  std::vector<ActiveRow> active_;
  std::optional<SequenceState> state_;  // of active_, in its order
  double bytes_per_token_ = 0;          // of keys and values; 0 before the first prompt
};

}  // namespace

absl::Status Generate(Model* model, const Tokenizer& tokenizer, const Prompts& prompts,
                      const GenerationOptions& options, const GenerationListener& listener) {
  return Generation(model, tokenizer, prompts, options, listener).Run();
}

}  // namespace thaw
