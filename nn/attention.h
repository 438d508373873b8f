// attention: multi-head self-attention with separate q, k and v projections, each with its own step.
#pragma once

#include "nn/layers.h"

namespace vvtq::nn {

/// Tokens that attend to one another: windows of a picture, slices of a sequence.
struct TokenGroups : autograd::TokenGrouping {
    Tensor bias_index;  // (n, n)? i32 entry of the position bias for a pair of a group's tokens
    Tensor mask;        // (count, n, n)? added to the scores
};

/// quant_input(x) (B, N, C) -> (B, N, C), head h at columns hD..(h+1)D, D = C / heads:
/// quant_output(quant_attn(softmax(q k^T D^-1/2)) v) through `proj`, with q =
/// quant_q(proj_q(quant_input(x))), and so k and v (specification section 3). With `bias_entries` a learned
/// relative_position_bias_table (entries, heads), which TokenGroups::bias_index reads, is added to the
/// scores. Throws where heads do not divide C.
class Attention : public Module {
  public:
    Attention(int64_t width, int64_t heads, engine::DType dtype, int64_t bias_entries = 0);

    /// x behind `quant_input`. Throws where the groups do not divide N.
    Variable forward(const Quantized& x, const TokenGroups& groups = {});
    QuantizerSlot& quant_input() { return quant_input_; }
    /// Lets head-wise steps apply here: to the activations of the heads and to the four projections.
    void allow_head_wise();

  private:
    /// The heads' output behind `quant_output`; in one op where the quantizers allow it.
    Quantized heads(const Quantized& x, const autograd::ScoreTerms& terms, const TokenGroups& groups);
    /// The same op by op, of x (B, N, C) whose N tokens attend to one another.
    Quantized composed_heads(const Quantized& x, const autograd::ScoreTerms& terms);

    int64_t heads_;
    double scale_;               // D^-1/2
    Variable* table_ = nullptr;  // (entries, heads)
    QuantizerSlot quant_input_{Values::activation, Bits::configured};
    Linear proj_q_, proj_k_, proj_v_;
    QuantizerSlot quant_q_, quant_k_, quant_v_, quant_attn_, quant_output_;
    Linear proj_;
};

}  // namespace vvtq::nn
