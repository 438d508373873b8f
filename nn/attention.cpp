#include "nn/attention.h"

#include <cmath>

#include "autograd/ops.h"

namespace vvtq::nn {

Attention::Attention(int64_t width, int64_t heads, engine::DType dtype, int64_t bias_entries)
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
    if (bias_entries > 0) {
        table_ = &add_parameter("relative_position_bias_table", Tensor::zeros({bias_entries, heads}, dtype));
    }
    proj_k_.weight_slot().follow(proj_q_.weight_slot());
    proj_v_.weight_slot().follow(proj_k_.weight_slot());
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

void Attention::allow_head_wise() {
    for (QuantizerSlot* slot : {&quant_q_, &quant_k_, &quant_v_, &quant_attn_, &quant_output_}) {
        slot->give_steps_to_heads(heads_);
    }
    for (Linear* projection : {&proj_q_, &proj_k_, &proj_v_}) {
        projection->weight_slot().give_steps_to_heads(heads_);
    }
    proj_.weight_slot().give_steps_to_heads(heads_, true);
}

Variable Attention::forward(const Quantized& x, const TokenGroups& groups) {
    const autograd::Scope scope(name());
    const engine::Shape shape = x.q.shape();  // (B, N, C)
    VVTQ_CHECK(shape.rank() == 3 && groups.count > 0 && shape[1] % groups.count == 0, "x ", shape.str(),
               " in ", groups.count, " groups");
    autograd::ScoreTerms terms{{}, groups.mask};
    if (table_ != nullptr) terms.bias = autograd::table_bias(*table_, groups.bias_index);
    return proj_.forward(heads(x, terms, groups));
}

Quantized Attention::heads(const Quantized& x, const autograd::ScoreTerms& terms, const TokenGroups& groups) {
    const engine::Shape shape = x.q.shape();  // (B, N, C)
    const int64_t numel = shape.numel(), tokens = shape[1] / groups.count;
    const auto of_q = quant_q_.fusable_params(numel), of_k = quant_k_.fusable_params(numel);
    const auto of_v = quant_v_.fusable_params(numel), of_output = quant_output_.fusable_params(numel);
    const auto of_attn = quant_attn_.fusable_params(shape[0] * heads_ * shape[1] * tokens);
    if (of_q && of_k && of_v && of_attn && of_output) {
        autograd::Projections projections{{proj_q_.weight(), proj_q_.bias(), *of_q},
                                          {proj_k_.weight(), proj_k_.bias(), *of_k},
                                          {proj_v_.weight(), proj_v_.bias(), *of_v},
                                          {}};
        const autograd::WeightMatrix& matrix = proj_q_.weight_slot().matrix();
        if (matrix.codes.defined() && matrix.codes.shape()[0] == 3 * shape[2]) projections.matrix = matrix;
        return autograd::attention(x, projections, *of_attn, *of_output, heads_, scale_, terms, groups);
    }
    const bool ordered = groups.order.index.defined();
    Quantized y = ordered ? autograd::gather_tokens(x, groups.order) : x;
    if (groups.count > 1) y = autograd::reshape(y, {shape[0] * groups.count, tokens, shape[2]});
    y = composed_heads(y, terms);
    if (groups.count > 1) y = autograd::reshape(y, shape);
    return ordered ? autograd::gather_tokens(y, {groups.order.inverse, groups.order.index}) : y;
}

Quantized Attention::composed_heads(const Quantized& x, const autograd::ScoreTerms& terms) {
    const Variable q = quant_q_(proj_q_.forward(x));
    const Variable k = quant_k_(proj_k_.forward(x));
    const Variable v = quant_v_(proj_v_.forward(x));
    const Variable z = autograd::attention_scores(q, k, heads_);
    const bool plain = !terms.bias.defined() && !terms.mask.defined();
    const Variable p = quant_attn_(plain ? autograd::softmax(z, scale_)
                                         : autograd::biased_softmax(z, scale_, terms.bias, terms.mask));
    return quant_output_.quantized(autograd::attention_apply(p, v));
}

}  // namespace vvtq::nn
