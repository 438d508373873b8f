// attention: multi-head self-attention with separate q, k and v projections, each with its own step.
#pragma once

#include "nn/layers.h"

namespace vvtq::nn {

/// quant_input(x) (B, N, C) -> (B, N, C), head h at columns hD..(h+1)D, D = C / heads:
/// quant_output(quant_attn(softmax(q k^T D^-1/2)) v) through `proj`, with q =
/// quant_q(proj_q(quant_input(x))), and so k and v (specification section 3). Throws where heads do not
/// divide C.
class Attention : public Module {
  public:
    Attention(int64_t width, int64_t heads, engine::DType dtype);

    /// x behind `quant_input`.
    Variable forward(const Quantized& x);
    QuantizerSlot& quant_input() { return quant_input_; }

  private:
    /// The heads' output behind `quant_output`; in one op where the quantizers allow it.
    Quantized heads(const Quantized& x);

    int64_t heads_;
    double scale_;  // D^-1/2
    QuantizerSlot quant_input_{Values::activation, Bits::configured};
    Linear proj_q_, proj_k_, proj_v_;
    QuantizerSlot quant_q_, quant_k_, quant_v_, quant_attn_, quant_output_;
    Linear proj_;
};

}  // namespace vvtq::nn
