#include "nn/attention.h"

#include <cmath>

#include "autograd/ops.h"

namespace vvtq::nn {

Attention::Attention(int64_t width, int64_t heads, engine::DType dtype)
    : heads_(heads),
      scale_(std::sqrt(static_cast<double>(heads) / static_cast<double>(width))),
      proj_q_({width, width}, dtype),
      proj_k_({width, width}, dtype),
      proj_v_({width, width}, dtype),
      quant_q_(Values::activation, Bits::configured, heads),
      quant_k_(Values::activation, Bits::configured, heads),
      quant_v_(Values::activation, Bits::configured, heads),
      quant_attn_(Values::probability, Bits::configured, heads),
      quant_output_(Values::activation, Bits::configured, heads),
      proj_({width, width}, dtype) {
    VVTQ_CHECK(heads > 0 && width % heads == 0, "width ", width, ", heads ", heads);
    add_module("quant_input", quant_input_);
    add_module("proj_q", proj_q_);
    add_module("proj_k", proj_k_);
    add_module("proj_v", proj_v_);
    add_module("quant_q", quant_q_);
    add_module("quant_k", quant_k_);
    add_module("quant_v", quant_v_);
    add_module("quant_attn", quant_attn_);
    add_module("quant_output", quant_output_);
    add_module("proj", proj_);
}

Variable Attention::forward(const Variable& x) {
    const autograd::Scope scope(name());
    const Variable input = quant_input_(x);
    const Variable q = quant_q_(proj_q_.forward(input));
    const Variable k = quant_k_(proj_k_.forward(input));
    const Variable v = quant_v_(proj_v_.forward(input));
    const Variable p = quant_attn_(autograd::softmax(autograd::attention_scores(q, k, heads_), scale_));
    return proj_.forward(quant_output_(autograd::attention_mix(p, v)));
}

}  // namespace vvtq::nn
