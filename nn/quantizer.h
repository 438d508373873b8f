// quantizer: the place in a layer where a quantizer may sit. quant/attach fills it; empty it does nothing.
#pragma once

#include <memory>

#include "engine/kernels.h"
#include "nn/module.h"

namespace vvtq::nn {

/// Maps a tensor to its quantized values. Implementations: quant::Lsq, quant::Binary.
class Quantizer : public Module {
  public:
    virtual Variable operator()(const Variable& x) = 0;
};

/// What a slot's values are, which decides the quantizer (specification section 3).
enum class Values {
    weight,       // of a linear layer or convolution; signed
    activation,   // signed
    probability,  // >= 0, attention after softmax: unsigned, no offset
    activated,    // after GELU: unsigned with offset
};

/// Whether the slot follows --wbits / --abits or always has 8 bits (first and last layer).
enum class Bits { configured, always_8 };

/// A nullable quantizer, a module whose path is the quantizer's: "blocks.0.attn.quant_q".
class QuantizerSlot : public Module {
  public:
    /// Of activations. `heads` > 0 where the values belong to attention heads: (B, N, heads D) with head h at
    /// columns hD..(h+1)D, or (B, heads, N, N).
    QuantizerSlot(Values values, Bits bits, int64_t heads = 0)
        : values_(values), bits_(bits), heads_(heads) {}
    /// Of a layer's weight.
    QuantizerSlot(const Variable& weight, Bits bits)
        : values_(Values::weight), bits_(bits), weight_(weight) {}

    /// The quantized x, or x itself where the slot is empty.
    Variable operator()(const Variable& x);

    Values values() const { return values_; }
    Bits bits() const { return bits_; }
    int64_t heads() const { return heads_; }
    /// The layer's weight; undefined for activations.
    const Variable& weight() const { return weight_; }
    Quantizer* get() const { return quantizer_.get(); }
    /// Once. The quantizer's parameters appear under the slot's path.
    void fill(std::unique_ptr<Quantizer> quantizer);

  private:
    Values values_;
    Bits bits_;
    int64_t heads_ = 0;
    Variable weight_;
    std::unique_ptr<Quantizer> quantizer_;
};

}  // namespace vvtq::nn
