#include "worker/training/recomputed_block.h"

#include <utility>

#include "torch/csrc/autograd/autograd.h"
#include "torch/csrc/autograd/custom_function.h"

namespace thaw {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What is run, kept with the graph node.
struct BlockRun : torch::CustomClassHolder {
  std::function<Rows(const Rows&)> run;
  Rows frame;   // the rows without their tensors
  Rows result;  // likewise, of the last run
};

// The rows given back through autograd: `data`, and `other` where a block makes it anew.
variable_list TensorsOf(const Rows& rows) {
  return rows.other.defined() ? variable_list{rows.data, rows.other} : variable_list{rows.data};
}

Rows WithTensors(Rows frame, const variable_list& tensors) {
  frame.data = tensors[0];
  if (tensors.size() > 1) frame.other = tensors[1];
  return frame;
}

struct RecomputedFunction : torch::autograd::Function<RecomputedFunction> {
  // `always_grad` requires a gradient, so that the results do though no tensor of `rows` may.
  static variable_list forward(AutogradContext* context, at::TensorList rows, const Tensor&,
                               const c10::intrusive_ptr<BlockRun>& block) {
    variable_list results;
    {
      const torch::NoGradGuard no_grad;
      const Rows out = block->run(WithTensors(block->frame, rows.vec()));
      results = TensorsOf(out);
      block->result = out;
      block->result.data = block->result.other = Tensor();
    }
    // What passes through unchanged must not be given back as it came.
    for (Tensor& result : results) {
      for (const Tensor& row : rows) {
        if (result.is_same(row)) result = result.view_as(result);
      }
    }
    context->saved_data["block"] = c10::IValue::make_capsule(block);
    context->save_for_backward(rows.vec());
    context->set_materialize_grads(false);
    return results;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto block =
        c10::static_intrusive_pointer_cast<BlockRun>(context->saved_data["block"].toCapsule());
    variable_list inputs, outputs, given;
    {
      const torch::AutoGradMode gradient(true);
      for (size_t i = 0; i < saved.size(); ++i) {
        inputs.push_back(saved[i].detach().set_requires_grad(context->needs_input_grad(i)));
      }
      const variable_list results = TensorsOf(block->run(WithTensors(block->frame, inputs)));
      for (size_t i = 0; i < results.size(); ++i) {
        if (!gradients[i].defined() || !results[i].requires_grad()) continue;
        outputs.push_back(results[i]);
        given.push_back(gradients[i]);
      }
    }
    if (!outputs.empty()) torch::autograd::backward(outputs, given);
    variable_list results;
    for (const Tensor& input : inputs) results.push_back(input.grad());
    results.resize(inputs.size() + 2);
    return results;
  }
};

}  // namespace

Rows RecomputedRows(Rows rows, std::function<Rows(const Rows&)> run) {
  const auto block = c10::make_intrusive<BlockRun>();
  block->run = std::move(run);
  const variable_list tensors = TensorsOf(rows);
  block->frame = std::move(rows);
  block->frame.data = block->frame.other = Tensor();
  static const Tensor always_grad = at::empty({0}).set_requires_grad(true);
  const variable_list results =
      RecomputedFunction::apply(at::TensorList(tensors), always_grad, block);
  return WithTensors(block->result, results);
}

}  // namespace thaw
