#include "quant/lsq.h"

#include <cmath>

#include "autograd/ops.h"
#include "quant/calibrate.h"

namespace vvtq::quant {

using engine::CodeRange;
using engine::Shape;
using engine::Tensor;
using nn::Variable;

namespace {

CodeRange range_of(const LsqOptions& options) {
    VVTQ_CHECK(options.bits >= 2 && options.bits <= 8, "bits ", options.bits, ", not within 2..8");
    return options.is_signed ? CodeRange::signed_bits(options.bits) : CodeRange::unsigned_bits(options.bits);
}

/// a = 2 mean |x| / sqrt(2^(b-1) - 1), for unsigned codes too.
double activation_start(const Tensor& x, int bits) {
    const Tensor total(Shape{1}, engine::DType::f64, x.device());
    engine::kernels(x.device()).sum_abs(x, total);
    const double mean = total.item() / static_cast<double>(x.numel());
    return 2.0 * mean / std::sqrt(CodeRange::signed_bits(bits).high);
}

void overwrite(const Variable& parameter, double value) {
    engine::kernels(parameter.value().device()).fill(value, parameter.value());
}

}  // namespace

Lsq::Lsq(const LsqOptions& options) : options_(options), range_(range_of(options)) {
    const auto parameter = [&](const char* name) {
        Variable& added = add_parameter(name, Tensor::zeros(Shape{1}, options.dtype, options.device));
        if (options.fixed) added = Variable(added.value(), false);
        return &added;
    };
    alpha_ = parameter("alpha");
    if (options.offset) beta_ = parameter("beta");
}

Variable Lsq::operator()(const Variable& x) {
    VVTQ_CHECK(engine::master_of(x.value().dtype()) == options_.dtype, "x of ",
               engine::name_of(x.value().dtype()), " for a quantizer of ", engine::name_of(options_.dtype),
               "; see LsqOptions::dtype");
    start_from(x.value());
    // Into the parameter itself: an optimizer then starts its next update from here, not from far below.
    engine::kernels(x.value().device()).raise_steps({alpha_->value()});
    return autograd::lsq(x, *alpha_, beta_ == nullptr ? Variable() : *beta_, range_, grad_scale(x.value()));
}

std::optional<autograd::LsqParameters> Lsq::lsq(int64_t numel) {
    if (!ready_ || options_.weight) return {};
    if (!raised_elsewhere_) engine::kernels(alpha_->value().device()).raise_steps({alpha_->value()});
    return autograd::LsqParameters{*alpha_, beta_ == nullptr ? Variable() : *beta_, range_,
                                   activation_scale(numel)};
}

void Lsq::start_from(const Tensor& x) {
    if (ready_) return;
    StepAndOffset start{0.0, 0.0};
    if (!options_.weight) {
        start.step = activation_start(x, options_.bits);
    } else {
        start = options_.offset ? fit_step_and_offset(x, range_) : fit_step(x, range_);
    }
    if (!std::isfinite(start.step) || !std::isfinite(start.offset)) {
        const std::string scope = autograd::Scope::current();
        engine::run_error("the start step of ", scope.empty() ? "the quantizer" : scope,
                          " is not finite: its input ", x.shape().str(), " is empty, all zero or not finite");
    }
    set_step(start.step, start.offset);
}

void Lsq::set_step(double alpha, double beta) {
    VVTQ_CHECK(beta_ != nullptr || beta == 0.0, "offset ", beta, " for a quantizer without one");
    overwrite(*alpha_, alpha);
    if (beta_ != nullptr) overwrite(*beta_, beta);
    ready_ = true;
}

Tensor Lsq::grad_scale(const Tensor& x) const {
    const Shape one{1};
    if (options_.weight) {
        const Tensor g(one, options_.dtype, x.device());
        engine::kernels(x.device()).lsq_weight_grad_scale(x, range_, g);
        return g;
    }
    return activation_scale(x.numel());
}

const Tensor& Lsq::activation_scale(int64_t numel) const {
    Tensor& g = activation_scales_[numel];  // never given up: recorded graphs read it
    const engine::Device device = alpha_->value().device();
    if (!g.defined() || g.device() != device) {
        const double scale = 1.0 / (std::sqrt(static_cast<double>(numel)) * range_.high);
        g = Tensor::full(Shape{1}, scale, options_.dtype, device);
    }
    return g;
}

Inspection Lsq::inspect(const Tensor& x) const {
    VVTQ_CHECK(ready_, "the quantizer has no step yet: quantize a tensor first");
    return quant::inspect(x, alpha_->value(), beta_ == nullptr ? Tensor() : beta_->value(), range_);
}

}  // namespace vvtq::quant
