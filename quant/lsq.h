// quant/: learned step size quantization. Reading this folder top to bottom teaches the method:
// lsq (the quantizer) -> binary (one bit) -> calibrate (where steps start) -> attach (which layer gets which)
// -> bin_regularizer (against oscillating weights) -> inspect (what a quantizer did). docs/method.md walks
// along.
//
// lsq: integer codes with a learned step size (Esser et al. 2020) and module-dependent gradient scale.
#pragma once

#include <map>
#include <optional>

#include "nn/quantizer.h"
#include "quant/inspect.h"

namespace vvtq::quant {

/// What a quantizer is made of. specification section 1.
struct LsqOptions {
    int bits = 4;           // 2..8
    bool is_signed = true;  // codes -2^(b-1) .. 2^(b-1) - 1; otherwise 0 .. 2^b - 1
    bool offset = false;    // learned offset beta
    bool weight =
        false;           // gradient scale of weights, 1 / sqrt(sum |w| Qp), instead of 1 / (sqrt(numel x) Qp)
    bool fixed = false;  // step and offset are not trained
    engine::DType dtype =
        engine::DType::f32;  // of the step and the offset; x has this dtype, or bf16 beside f32
    engine::Device device = engine::Device::cpu;
};

/// y = round(clamp((x - beta) / alpha, Qn, Qp)) alpha + beta with straight-through gradients.
/// Usable alone: `quant::Lsq q({.bits = 2}); auto y = q(x);` sets its step from the first x it sees.
/// Parameters alpha (1) and, with an offset, beta (1).
class Lsq : public nn::Quantizer {
  public:
    /// Throws Error(Fault::internal) for bits outside 2..8.
    explicit Lsq(const LsqOptions& options);

    /// Step, offset and gradient scale for a tensor of `numel` elements; none before the step has its start
    /// value, and none for weights, whose gradient scale is of their values.
    std::optional<autograd::LsqParameters> lsq(int64_t numel) override;

    /// x of any shape -> the same shape. Raises alpha to engine::kLeastStep where training has brought it
    /// lower. Throws Error(Fault::run) naming the layer where x gives a start step that is not finite.
    nn::Variable operator()(const nn::Variable& x) override;

    /// Whether the step has its start value; until then the first x sets it: activations a = 2 mean |x| /
    /// sqrt(2^(b-1) - 1) with o = 0, weights the fixed point of their mean-squared error (quant/calibrate.h).
    bool ready() const { return ready_; }
    /// Forgets the step: the next x sets it again.
    void recalibrate() { ready_ = false; }
    void set_step(double alpha, double beta = 0.0);
    double step() const { return alpha_->value().item(); }
    double offset() const { return beta_ == nullptr ? 0.0 : beta_->value().item(); }
    /// Whether someone else raises the step for now: WeightPass does it for all quantizers at once.
    void leave_raising(bool leave) { raised_elsewhere_ = leave; }
    /// Called after parameters were loaded from a file.
    void mark_ready() { ready_ = true; }

    engine::CodeRange range() const { return range_; }
    const LsqOptions& options() const { return options_; }
    const nn::Variable& alpha() const { return *alpha_; }
    /// The gradient scale g (1) for x: 1 / sqrt(sum |x| Qp) of weights, 1 / (sqrt(numel x) Qp) of
    /// activations.
    nn::Tensor grad_scale(const nn::Tensor& x) const;
    /// Codes, occupancy, clipped share and signal-to-noise of x.
    Inspection inspect(const nn::Tensor& x) const;

    /// Sets the step from x where it has no start value yet; throws as operator() does.
    void start_from(const nn::Tensor& x);

  private:
    const nn::Tensor& activation_scale(int64_t numel) const;

    LsqOptions options_;
    engine::CodeRange range_;
    nn::Variable* alpha_ = nullptr;
    nn::Variable* beta_ = nullptr;  // null without an offset
    bool ready_ = false;
    bool raised_elsewhere_ = false;
    mutable std::map<int64_t, nn::Tensor> activation_scales_;  // g by the number of elements
};

}  // namespace vvtq::quant
