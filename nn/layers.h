// layers: the parts models are made of.
#pragma once

#include "nn/quantizer.h"

namespace vvtq::nn {

/// y (..., O) = x (..., K) W^T + bias, with a weight quantizer slot. `weight_shape` is the shape in state
/// files: (O, K), or (O, C, P, P) for a convolution whose patches do not overlap, K = C P P. Parameters
/// weight, bias (O) where it has one, and the quantizer's under the layer's own path ("<layer>.alpha"). The
/// weight has no start value: make_model draws it, or a file gives it.
class Linear : public Module {
  public:
    Linear(const engine::Shape& weight_shape, engine::DType dtype, Bits bits = Bits::configured,
           bool biased = true);

    Variable forward(const Quantized& x);
    /// The quantized weight (O, K), and the bias.
    Quantized weight();
    const Variable& bias() const { return bias_; }
    QuantizerSlot& weight_slot() { return quant_weight_; }

  private:
    Variable& weight_;
    Variable bias_;  // undefined without one
    QuantizerSlot quant_weight_;
};

/// A residual stream x with a branch that is not added yet: the value is x + keep branch, sample by sample.
/// branch and keep (B) may be undefined.
struct Residual {
    Variable x;
    Variable branch;
    Tensor keep;
};

/// y = (x - mean) / sqrt(var + eps) weight + bias over the last dimension, of size `width`.
class LayerNorm : public Module {
  public:
    LayerNorm(int64_t width, double eps, engine::DType dtype);

    Variable forward(const Variable& x);
    /// The sum of the stream, and its norm behind the quantizer of the layer that takes it: `slot` of
    /// `owner`.
    autograd::NormedResidual forward(const Residual& stream, const Module& owner, QuantizerSlot& slot);
    /// The sum of the stream and its norm.
    autograd::NormedResidual forward(const Residual& stream);

  private:
    Variable& weight_;
    Variable& bias_;
    double eps_;
};

/// Pictures (B, in_chans, S, S) -> tokens (B, (S/P)^2, width): picture quantizer, patches, projection; 8 bits
/// always.
class PatchEmbed : public Module {
  public:
    PatchEmbed(int64_t in_chans, int64_t patch_size, int64_t width, engine::DType dtype);

    Variable forward(const Variable& pictures);

  private:
    int64_t patch_size_;
    QuantizerSlot quant_{Values::activation, Bits::always_8};
    Linear proj_;
};

/// quant1(x) (B, N, C) -> fc1 -> GELU -> quant2 -> fc2 -> (B, N, C).
class Mlp : public Module {
  public:
    Mlp(int64_t width, int64_t hidden, engine::DType dtype);

    /// x behind `quant1`.
    Variable forward(const Quantized& x);
    QuantizerSlot& quant1() { return quant1_; }

  private:
    QuantizerSlot quant1_{Values::activation, Bits::configured};
    Linear fc1_;
    QuantizerSlot quant2_{Values::activated, Bits::configured};
    Linear fc2_;
};

}  // namespace vvtq::nn
