#include "quant/lsq.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops.h"
#include "quant/calibrate.h"

namespace vvtq::quant {

using engine::CodeRange;
using engine::kernels;
using engine::Shape;
using engine::Tensor;
using nn::Variable;

namespace {

CodeRange range_of(const QuantizerOptions& options) {
    VVTQ_CHECK(options.bits >= 2 && options.bits <= 8, "bits ", options.bits, ", not within 2..8");
    return options.is_signed ? CodeRange::signed_bits(options.bits) : CodeRange::unsigned_bits(options.bits);
}

/// Raises a step to the least one; not one that is not finite.
double raised(double step) { return step < engine::kLeastStep ? engine::kLeastStep : step; }

}  // namespace

Lsq::Lsq(const QuantizerOptions& options)
    : options_(options),
      range_(range_of(options)),
      groups_(std::max<int64_t>(1, options.step_heads)),
      range_tensor_(engine::range_tensor(range_, options.device)) {
    VVTQ_CHECK(groups_ == 1 || !options.offset, groups_, " heads with an offset");
    const auto parameter = [&](const char* name) {
        Variable& added = add_parameter(name, Tensor::zeros({groups_}, options.dtype, options.device));
        if (options.fixed) added = Variable(added.value(), false);
        return &added;
    };
    alpha_ = parameter("alpha");
    if (options.offset) beta_ = parameter("beta");
}

std::vector<std::string> Lsq::state_names() const {
    if (beta_ == nullptr) return {"alpha"};
    return {"alpha", "beta"};
}

nn::QuantizerDescription Lsq::describe() const {
    nn::QuantizerDescription description{"lsq", options_.bits, range_, {}, {}};
    if (ready_) description.scale = alpha_->value().to_vector();
    if (ready_ && beta_ != nullptr) description.offset = beta_->value().to_vector();
    description.is_signed = options_.is_signed;
    description.weight = options_.weight;
    return description;
}

int64_t Lsq::inner(const Shape& x) const {
    if (groups_ == 1) return 1;
    const bool scores = !options_.weight && x.rank() == 4 && x[1] == groups_;
    const bool rows = options_.weight && !options_.head_columns;
    const int64_t size = scores || rows ? x.numel() / (scores ? x[0] : 1) : x.cols();
    VVTQ_CHECK(x.rank() >= 2 && size > 0 && size % groups_ == 0 && (!rows || x[0] % groups_ == 0), "x ",
               x.str(), " with ", groups_, " heads");
    return size / groups_;
}

autograd::QuantParams Lsq::params_with(Tensor grad_scale, int64_t inner) const {
    return {*alpha_, beta_ == nullptr ? Variable() : *beta_, range_tensor_, std::move(grad_scale), inner};
}

Variable Lsq::operator()(const Variable& x) {
    VVTQ_CHECK(engine::master_of(x.value().dtype()) == options_.dtype, "x of ",
               engine::name_of(x.value().dtype()), " for a quantizer of ", engine::name_of(options_.dtype),
               "; see QuantizerOptions::dtype");
    if (!ready_) calibrate(x.value());
    // Into the parameter itself: an optimizer then starts its next update from here, not from far below.
    kernels(x.value().device()).clamp_steps({alpha_->value()});
    return autograd::lsq(x, params_with(grad_scale(x.value()), inner(x.shape())));
}

std::optional<autograd::QuantParams> Lsq::params(int64_t numel) {
    if (!ready_ || groups_ > 1) return {};
    return params_with(options_.weight ? Tensor() : activation_scale(numel), 1);
}

void Lsq::calibrate(const Tensor& x) {
    const int64_t width = groups_ == 1 ? x.numel() : inner(x.shape());
    Tensor values = x;
    for (int64_t group = 0; group < groups_; ++group) {
        if (groups_ > 1) {
            const Tensor rows = x.reshape({x.numel() / (groups_ * width), groups_ * width});
            values = Tensor({rows.shape()[0], width}, x.dtype(), x.device());
            kernels(x.device()).take_columns(rows, group * width, {}, {}, {}, values);
        }
        const StepAndOffset start = !options_.weight
                                        ? StepAndOffset{activation_start(values, options_.bits), 0.0}
                                    : options_.offset ? fit_step_and_offset(values, range_)
                                                      : fit_step(values, range_);
        if (!std::isfinite(start.step) || !std::isfinite(start.offset)) {
            const std::string scope = autograd::Scope::current();
            engine::run_error("the start step of ", scope.empty() ? "the quantizer" : scope,
                              " is not finite: its ", options_.weight ? "weights " : "input ",
                              x.shape().str(), options_.weight ? " are" : " is empty,",
                              " all zero or not finite");
        }
        kernels(x.device()).fill(raised(start.step), alpha_->value().slice(group, group + 1));
        if (beta_ != nullptr) kernels(x.device()).fill(start.offset, beta_->value());
    }
    ready_ = true;
}

void Lsq::set_step(double alpha, double beta) {
    VVTQ_CHECK(beta_ != nullptr || beta == 0.0, "offset ", beta, " for a quantizer without one");
    kernels(options_.device).fill(raised(alpha), alpha_->value());
    if (beta_ != nullptr) kernels(options_.device).fill(beta, beta_->value());
    ready_ = true;
}

void Lsq::state_loaded() {
    const std::vector<double> steps = alpha_->value().to_vector();
    // a step of 0 was saved before the quantizer saw a tensor: Swin's picture quantizer never does
    ready_ = std::none_of(steps.begin(), steps.end(), [](double step) { return step == 0; });
}

Tensor Lsq::grad_scale(const Tensor& x) const {
    if (!options_.weight && groups_ == 1) return activation_scale(x.numel());
    Tensor values = x;
    engine::Communicator* processes = batch_share().processes;
    if (!options_.weight && processes != nullptr && autograd::is_recording()) {
        values = Tensor({1}, engine::DType::f64, x.device());  // sum |x| over the whole batch
        kernels(x.device()).sum_abs(x, values);
        processes->all_reduce({values});
        processes->wait();
    }
    const Tensor g({1}, options_.dtype, x.device());
    kernels(x.device()).lsq_weight_grad_scale(values.to(options_.dtype), params_with({}, 1).values(), g);
    return g;
}

const Tensor& Lsq::activation_scale(int64_t part) const {
    const int64_t numel = part * batch_share().parts();
    Tensor& g = activation_scales_[numel];  // never given up: recorded graphs read it
    const engine::Device device = alpha_->value().device();
    if (!g.defined() || g.device() != device) {
        const double scale = 1.0 / (std::sqrt(static_cast<double>(numel)) * range_.high);
        g = Tensor::full({1}, scale, options_.dtype, device);
    }
    return g;
}

Inspection Lsq::inspect(const Tensor& x) const {
    VVTQ_CHECK(ready_, "the quantizer has no step yet: quantize a tensor first");
    return quant::inspect(x, values_for(x.shape()));
}

}  // namespace vvtq::quant
