// quant/: learned step size quantization. Reading this folder top to bottom teaches the method:
// lsq (the quantizer) -> binary (one bit) -> registry (quantizers by name) -> calibrate (where steps start)
// -> attach (which layer gets which) -> bin_regularizer (against oscillating weights) -> oscillation (which
// weights do) -> inspect (what a quantizer did); export/ writes models for other programs. docs/method.md
// walks along.
//
// lsq: integer codes with a learned step size (Esser et al. 2020) and module-dependent gradient scale.
#pragma once

#include <map>
#include <optional>

#include "quant/inspect/inspect.h"
#include "quant/registry.h"

namespace vvtq::quant {

/// y = round(clamp((x - beta) / alpha, Qn, Qp)) alpha + beta with straight-through gradients, one step for
/// the tensor or one for each of G = `step_heads` heads (specification section 1). Usable alone: `quant::Lsq
/// q({.bits = 2}); auto y = q(x);` sets its step from the first x it sees. Parameters alpha (G) and, with an
/// offset, beta (G). Which values are head h's:
///   x (B, N, heads D)                                    columns hD..(h+1)D
///   x (B, heads, N, M)                                   index h
///   weight (O, C), `head_columns` off: a projection to heads   rows h O / heads .. (h + 1) O / heads
///   weight (O, C), `head_columns` on: one that reads heads     columns h C / heads .. (h + 1) C / heads
/// Gradient scale g of the steps: weights 1 / sqrt(sum |w| Qp), activations 1 / (sqrt(numel x) Qp); with
/// heads 1 / sqrt(sum |x| / heads Qp) of both. Where processes share a batch, x is that of all of them.
class Lsq : public nn::Quantizer {
  public:
    /// Throws Error(Fault::internal) for bits outside 2..8, and for an offset together with heads.
    explicit Lsq(const QuantizerOptions& options);

    /// x of any shape (of one of those above with heads) -> the same shape. Throws Error(Fault::run) naming
    /// the layer where x gives a start step that is not finite.
    nn::Variable operator()(const nn::Variable& x) override;
    nn::QuantizerDescription describe() const override;
    bool ready() const override { return ready_; }
    /// Activations start at a = 2 mean |x| / sqrt(2^(b-1) - 1) with o = 0, weights at the fixed point of
    /// their mean-squared error (quant/calibrate.h), head by head.
    void calibrate(const nn::Tensor& x) override;
    void reset() override { ready_ = false; }
    std::vector<std::string> state_names() const override;
    std::vector<nn::Tensor> steps() const override { return {alpha_->value()}; }
    void state_loaded() override;
    /// None before the step has its start value, and none with heads, whose gradient scale is of the values.
    std::optional<autograd::QuantParams> params(int64_t numel) override;

    /// Of every head. Steps below engine::kLeastStep are raised to it.
    void set_step(double alpha, double beta = 0.0);
    /// Of the first head; waits for the device.
    double step() const { return alpha_->value().slice(0, 1).item(); }
    double offset() const { return beta_ == nullptr ? 0.0 : beta_->value().item(); }

    engine::CodeRange range() const { return range_; }
    /// The parameters for x of this shape as a kernel takes them, without the gradient scale.
    engine::QuantParams values_for(const engine::Shape& x) const {
        return params_with({}, inner(x)).values();
    }
    const nn::Variable& alpha() const { return *alpha_; }
    /// The gradient scale g (1) for x.
    nn::Tensor grad_scale(const nn::Tensor& x) const;
    /// Codes, occupancy, clipped share and signal-to-noise of x.
    Inspection inspect(const nn::Tensor& x) const;

  private:
    /// Values of a head that follow one another in x.
    int64_t inner(const engine::Shape& x) const;
    autograd::QuantParams params_with(nn::Tensor grad_scale, int64_t inner) const;
    /// g for `part` elements of this process.
    const nn::Tensor& activation_scale(int64_t part) const;

    QuantizerOptions options_;
    engine::CodeRange range_;
    int64_t groups_;
    nn::Tensor range_tensor_;
    nn::Variable* alpha_ = nullptr;
    nn::Variable* beta_ = nullptr;  // null without an offset
    bool ready_ = false;
    mutable std::map<int64_t, nn::Tensor> activation_scales_;  // g by the number of elements
};

/// The quantizer as one of this kind; null where it is another.
inline const Lsq* as_lsq(const nn::Quantizer* quantizer) { return dynamic_cast<const Lsq*>(quantizer); }

}  // namespace vvtq::quant
