// quantizer: the place in a layer where a quantizer may sit. quant/attach fills it; empty it does nothing.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "nn/module.h"

namespace vvtq::nn {

using autograd::Quantized;

/// What a quantizer is, for tables and files.
struct QuantizerDescription {
    std::string kind;  // "lsq", "binary": the name it is attached by
    int bits = 0;
    engine::CodeRange range;  // of its codes
    std::vector<double> scale,
        offset;  // y = scale code + offset, one for each group; empty where they depend on x
    bool is_signed = true, weight = false;
};

/// Maps a tensor to its quantized values. Implementations: quant::Lsq, quant::Binary, and yours: see
/// quant/registry.h. A quantizer that learns nothing and has no start value overrides operator() and
/// describe.
class Quantizer : public Module {
  public:
    /// x of any shape -> the same shape, with a gradient.
    virtual Variable operator()(const Variable& x) = 0;
    virtual QuantizerDescription describe() const = 0;

    /// Whether its start values are set; until then the first x sets them.
    virtual bool ready() const { return true; }
    /// Sets the start values from x. Throws Error(Fault::run) naming the layer where they are not finite.
    virtual void calibrate([[maybe_unused]] const Tensor& x) {}
    /// Forgets them: the next x sets them again.
    virtual void reset() {}
    /// The names of its parameters in state files, below the slot's path: "alpha".
    virtual std::vector<std::string> state_names() const { return {}; }
    /// Its steps, which a model raises to engine::kLeastStep before each forward pass.
    virtual std::vector<Tensor> steps() const { return {}; }
    /// Called after its parameters were read from a file.
    virtual void state_loaded() {}
    /// The parameters with which another op can quantize a tensor of `numel` elements itself; none where the
    /// quantizer has to see the tensor. A weight's lack grad_scale.
    virtual std::optional<autograd::QuantParams> params([[maybe_unused]] int64_t numel) { return {}; }
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
    /// The parameters with which an op can quantize a tensor of `numel` elements itself: undefined ones where
    /// the slot is empty, none where the quantizer has to see the tensor.
    std::optional<autograd::QuantParams> fusable_params(int64_t numel) const;

    /// The layer's weight (O, K), quantized: what `prepare` was given, else by the quantizer.
    Quantized quantized_weight();
    /// Codes of the weight that were computed together with those of other layers, until `release`. `matrix`
    /// has the rows of this weight and, behind them, those of the slots that follow it.
    void prepare(Quantized codes, autograd::WeightMatrix matrix) {
        prepared_ = std::move(codes);
        matrix_ = std::move(matrix);
    }
    void release() {
        prepared_.reset();
        matrix_ = {};
    }
    /// What `prepare` was given; undefined outside.
    const autograd::WeightMatrix& matrix() const { return matrix_; }
    /// Says that a product takes this weight's rows right behind those of `previous`.
    void follow(const QuantizerSlot& previous) { previous_ = &previous; }
    const QuantizerSlot* previous() const { return previous_; }

    /// While `watcher` is set, it sees each x before the quantizer does, and no op quantizes in its place.
    void watch(std::function<void(const Tensor& x)> watcher) { watcher_ = std::move(watcher); }
    /// Says that the model never calls it: it is in the state files and quantizes nothing.
    void leave_idle() { idle_ = true; }
    bool idle() const { return idle_; }
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
    /// What quantizes here: the stand-in where there is one, else the slot's own quantizer; null: nothing.
    Quantizer* get() const { return stand_in_ != nullptr ? stand_in_ : quantizer_.get(); }
    /// Lets another quantizer take the place of the slot's own, in passes that begin from now on; null: no
    /// longer. It is not part of the module tree.
    void stand_in(Quantizer* quantizer) { stand_in_ = quantizer; }
    /// Once. The quantizer's parameters appear under the slot's path.
    void fill(std::unique_ptr<Quantizer> quantizer);

  private:
    Values values_;
    Bits bits_;
    int64_t heads_ = 0, step_heads_ = 0;
    bool head_columns_ = false, idle_ = false;
    Variable weight_;
    std::unique_ptr<Quantizer> quantizer_;
    Quantizer* stand_in_ = nullptr;
    std::optional<Quantized> prepared_;
    autograd::WeightMatrix matrix_;
    const QuantizerSlot* previous_ = nullptr;
    std::function<void(const Tensor&)> watcher_;
};

}  // namespace vvtq::nn
