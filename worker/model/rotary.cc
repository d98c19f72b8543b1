#include "worker/model/rotary.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"

namespace thaw {
namespace {

using torch::Tensor;

RotaryKind KindOf(ConfigFields& rope) {
  const char* const field = rope.Find("rope_type") == nullptr ? "type" : "rope_type";
  const std::string name = rope.Text(field, "default");
  rope.Ignore({"type"});
  if (name == "default") return RotaryKind::kDefault;
  if (name == "linear") return RotaryKind::kLinear;
  if (name == "dynamic") return RotaryKind::kDynamic;
  if (name == "llama3") return RotaryKind::kLlama3;
  if (name == "yarn") return RotaryKind::kYarn;
  rope.Fail(field, absl::StrCat("\"", name,
                                "\" is not supported, only default, linear, dynamic, llama3 and "
                                "yarn"));
  return RotaryKind::kDefault;
}

double YarnScale(double factor, double weight) {
  return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1;
}

void ReadYarn(ConfigFields& rope, RotaryConfig* rotary) {
  // Zero stands for the default, as Python's `or` has it.
  const double fast = rope.Real("beta_fast", 0, 1e6, 0), slow = rope.Real("beta_slow", 0, 1e6, 0);
  if (fast > 0) rotary->beta_fast = fast;
  if (slow > 0) rotary->beta_slow = slow;
  rotary->truncate = rope.Flag("truncate", true);
  const double mscale = rope.Real("mscale", 0, 1e6, 0);
  const double mscale_all = rope.Real("mscale_all_dim", 0, 1e6, 0);
  double standard = YarnScale(rotary->factor, 1);
  if (mscale > 0 && mscale_all > 0) {
    standard = YarnScale(rotary->factor, mscale) / YarnScale(rotary->factor, mscale_all);
  }
  rotary->attention_factor = rope.Real("attention_factor", 0, 1e6, standard);
}

// `outer` are the fields beside the object: older files have some of them there.
RotaryConfig ReadRotaryObject(ConfigFields& rope, ConfigFields& outer, int64_t max_positions) {
  constexpr double kLargest = 1e15;
  RotaryConfig rotary;
  rotary.max_positions = max_positions;
  rotary.kind = KindOf(rope);
  rotary.theta = rope.Real("rope_theta", 2, kLargest, outer.Real("rope_theta", 2, kLargest, 10000));
  // Transformers prefers the outer of these two.
  rotary.original_positions =
      outer.Size("original_max_position_embeddings", 1,
                 rope.Size("original_max_position_embeddings", 1, max_positions));
  outer.Only("partial_rotary_factor", 1.0);
  rope.Only("partial_rotary_factor", 1.0);
  const bool by_lengths = rotary.kind == RotaryKind::kYarn;
  if (rotary.kind != RotaryKind::kDefault && !by_lengths && rope.Find("factor") == nullptr) {
    rope.Fail("factor", "\"factor\" is missing");
  }
  const double ratio =
      static_cast<double>(max_positions) / static_cast<double>(rotary.original_positions);
  rotary.factor = rope.Real("factor", 1e-3, 1e6, by_lengths ? ratio : 1);
  if (rotary.kind == RotaryKind::kLlama3) {
    for (const char* field : {"low_freq_factor", "high_freq_factor"}) {
      if (rope.Find(field) == nullptr) rope.Fail(field, absl::StrCat("\"", field, "\" is missing"));
    }
    rotary.low_frequency_factor = rope.Real("low_freq_factor", 1e-3, 1e6, 1);
    rotary.high_frequency_factor = rope.Real("high_freq_factor", 1e-3, 1e6, 4);
    if (rotary.high_frequency_factor <= rotary.low_frequency_factor) {
      rope.Fail("high_freq_factor",
                absl::StrCat("expected more than low_freq_factor ", rotary.low_frequency_factor,
                             ", found ", rotary.high_frequency_factor));
    }
  }
  if (by_lengths) ReadYarn(rope, &rotary);
  // Options of other types, which change nothing of this one; "finetuned" is a remark.
  rope.Ignore({"factor", "finetuned", "low_freq_factor", "high_freq_factor", "beta_fast",
               "beta_slow", "truncate", "mscale", "mscale_all_dim", "attention_factor"});
  rope.RefuseUnread();
  return rotary;
}

}  // namespace

RotaryConfig ReadRotary(ConfigFields& fields, int64_t max_positions) {
  static const nlohmann::json kNothing = nlohmann::json::object();
  const nlohmann::json* newer = fields.Find("rope_parameters");
  const nlohmann::json* older = fields.Find("rope_scaling");
  const bool is_older = older != nullptr && !older->empty();
  const char* name = is_older ? "rope_scaling" : "rope_parameters";
  const nlohmann::json* object = is_older ? older : newer;
  if (object == nullptr) object = &kNothing;
  if (!object->is_object()) {
    fields.Fail(name, absl::StrCat("expected an object, found ", ShownJson(*object)));
    return {};
  }
  ConfigFields rope(*object, absl::StrCat(name, "."));
  const RotaryConfig rotary = ReadRotaryObject(rope, fields, max_positions);
  fields.Adopt(rope);
  return rotary;
}

Tensor Rotary::Frequencies(int64_t length) const {
  const Tensor exponents =
      at::arange(0, head_dim_, 2, torch::TensorOptions(torch::kFloat32)) / head_dim_;
  const double factor = config_.factor;
  switch (config_.kind) {
    case RotaryKind::kDefault:
      break;
    case RotaryKind::kLinear:
      return at::pow(config_.theta, exponents).reciprocal() / factor;
    case RotaryKind::kDynamic: {
      const double stretch = factor * static_cast<double>(std::max(length, config_.max_positions)) /
                                 static_cast<double>(config_.max_positions) -
                             (factor - 1);
      const double power = static_cast<double>(head_dim_) / static_cast<double>(head_dim_ - 2);
      return at::pow(config_.theta * std::pow(stretch, power), exponents).reciprocal();
    }
    case RotaryKind::kLlama3: {
      const double low = config_.low_frequency_factor, high = config_.high_frequency_factor;
      const double original = static_cast<double>(config_.original_positions);
      const Tensor plain = at::pow(config_.theta, exponents).reciprocal();
      const Tensor wavelength = 2 * M_PI / plain;
      const Tensor share = (original / wavelength - low) / (high - low);
      const Tensor middle = (1 - share) * plain / factor + share * plain;
      return at::where(wavelength > original / low, plain / factor,
                       at::where(wavelength < original / high, plain, middle));
    }
    case RotaryKind::kYarn: {
      const double original = static_cast<double>(config_.original_positions);
      const double last = static_cast<double>(head_dim_ - 1);
      // The dimension that turns so often over the original length.
      const auto dimension = [&](double rotations) {
        return static_cast<double>(head_dim_) * std::log(original / (rotations * 2 * M_PI)) /
               (2 * std::log(config_.theta));
      };
      double low = dimension(config_.beta_fast), high = dimension(config_.beta_slow);
      if (config_.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
      }
      low = std::max(low, 0.0);
      high = std::min(high, last);
      if (low == high) high += 0.001;
      const Tensor ramp =
          ((at::arange(head_dim_ / 2, torch::TensorOptions(torch::kFloat32)) - low) / (high - low))
              .clamp(0, 1);
      const Tensor powers = at::pow(config_.theta, exponents);
      return (factor * powers).reciprocal() * ramp + powers.reciprocal() * (1 - ramp);
    }
  }
  return at::pow(config_.theta, exponents).reciprocal();
}

Rotary::Angles Rotary::At(const Tensor& positions, const std::vector<int32_t>& bounds,
                          torch::Device device) {
  const int64_t needed = positions.numel() == 0 ? 0 : positions.max().item<int64_t>() + 1;
  if (config_.kind == RotaryKind::kDynamic && needed > config_.max_positions) {
    return DynamicAngles(positions, bounds, device);
  }
  if (!cosines_.defined() || cosines_.size(0) < needed || cosines_.device() != device) {
    int64_t rows = 256;
    while (rows < needed) rows *= 2;
    const Tensor angles = at::arange(rows, torch::TensorOptions(torch::kFloat32)).unsqueeze(1) *
                          Frequencies(config_.max_positions);
    cosines_ = (angles.cos() * config_.attention_factor).to(device);
    sines_ = (angles.sin() * config_.attention_factor).to(device);
  }
  return {positions.to(device), cosines_, sines_};
}

Rotary::Angles Rotary::DynamicAngles(const Tensor& positions, const std::vector<int32_t>& bounds,
                                     torch::Device device) const {
  std::vector<Tensor> angles;
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    const Tensor own = positions.slice(0, bounds[s], bounds[s + 1]);
    const Tensor frequencies = Frequencies(own.max().item<int64_t>() + 1);
    angles.push_back(own.to(torch::kFloat32).unsqueeze(1) * frequencies);
  }
  const Tensor all = at::cat(angles);
  return {at::arange(all.size(0), positions.options()).to(device), all.cos().to(device),
          all.sin().to(device)};
}

}  // namespace thaw
