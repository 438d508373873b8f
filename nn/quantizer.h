// quantizer: the place in a layer where a quantizer may sit. quant/attach fills it; empty it does nothing.
#pragma once

#include <memory>
#include <optional>

#include "autograd/ops.h"
#include "nn/module.h"

namespace vvtq::nn {

using autograd::Quantized;

/// Maps a tensor to its quantized values. Implementations: quant::Lsq, quant::Binary.
class Quantizer : public Module {
  public:
    virtual Variable operator()(const Variable& x) = 0;
    /// The parameters with which another op can quantize a tensor of `numel` elements on its way; none for a
    /// quantizer that has to see the tensor itself.
    virtual std::optional<autograd::LsqParameters> lsq([[maybe_unused]] int64_t numel) { return {}; }
};

/// What a slot's values are, which decides the quantizer (specification section 3).
enum class Values {
    weight,       // of a linear layer or convolution; signed
    activation,   // signed
    probability,  // >= 0, attention after softmax: unsigned, no offset
    activated,    // after GELU: unsigned with offset
};

/// Whether the slot has the width that was configured, or always has 8 bits (first and last layer).
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
    /// The same for a product: codes where the quantizer gives them.
    Quantized quantized(const Variable& x);
    /// What an op needs to quantize a tensor of `numel` elements on its way: parameters without alpha where
    /// the slot is empty, none where the quantizer has to see the tensor itself.
    std::optional<autograd::LsqParameters> on_the_way(int64_t numel) const;

    /// The layer's weight (O, K), quantized: what `prepare` was given, else by the quantizer.
    Quantized quantized_weight();
    /// Codes of the weight that were computed together with those of other layers; undefined ones are
    /// forgotten.
    void prepare(std::optional<Quantized> codes) { prepared_ = std::move(codes); }

    Values values() const { return values_; }
    Bits bits() const { return bits_; }
    int64_t heads() const { return heads_; }
    /// The layer's weight; undefined for activations.
    const Variable& weight() const { return weight_; }
    /// With head-wise steps, each of so many heads has a step of its own; a weight's heads are its rows, or
    /// its `columns`.
    void give_steps_to_heads(int64_t heads, bool columns = false) {
        step_heads_ = heads;
        head_columns_ = columns;
    }
    /// 0 where there is one step in every configuration.
    int64_t step_heads() const { return step_heads_; }
    bool head_columns() const { return head_columns_; }
    Quantizer* get() const { return quantizer_.get(); }
    /// Once. The quantizer's parameters appear under the slot's path.
    void fill(std::unique_ptr<Quantizer> quantizer);

  private:
    Values values_;
    Bits bits_;
    int64_t heads_ = 0, step_heads_ = 0;
    bool head_columns_ = false;
    Variable weight_;
    std::unique_ptr<Quantizer> quantizer_;
    std::optional<Quantized> prepared_;
};

}  // namespace vvtq::nn
