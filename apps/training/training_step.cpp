#include "apps/training/training_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "apps/training/explain.h"
#include "autograd/ops.h"
#include "nn/losses.h"
#include "quant/bin_regularizer.h"

namespace vvtq::apps {
namespace {

constexpr const char* kRemedy = "; a smaller `lr` may help";

std::string value_of(double value) { return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf"; }

template <typename T>
void send(engine::Upload& upload, T value) {
    std::memcpy(upload.host(), &value, sizeof value);
    upload.send();
}

}  // namespace

TrainingStep::TrainingStep(nn::Model& model, nn::Adamw& optimizer, const DeviceBatch& batch,
                           const StepOptions& options)
    : model_(model),
      optimizer_(optimizer),
      batch_(batch),
      options_(options),
      results_(optimizer.found_inf().device()) {
    const engine::Device device = optimizer.found_inf().device();
    const engine::DType master = engine::master_of(options.dtype);
    key_ = nn::Tensor({1}, engine::DType::i64, device);
    lambda_ = nn::Tensor({1}, engine::DType::f64, device);
    loss_ = nn::Tensor({1}, master, device);
    regularizer_ = nn::Tensor({1}, master, device);
    counts_ = nn::Tensor({2}, engine::DType::i64, device);
    none_found_ = nn::Tensor::from({0}, {1}, engine::DType::i32, device);
    to_key_ = engine::upload_to(key_);
    to_lambda_ = engine::upload_to(lambda_);
}

nn::Variable TrainingStep::loss_of(const nn::Variable& logits) const {
    const nn::Tensor soft = batch_.soft_targets(logits.value().dtype());
    return soft.defined() ? nn::soft_cross_entropy(logits, soft)
                          : nn::cross_entropy(logits, batch_.labels(), options_.smoothing);
}

TrainingStep::Losses TrainingStep::losses(bool regularize) const {
    Losses out;
    out.logits = model_.forward(batch_.pictures(options_.dtype), key_);
    out.loss = out.total = loss_of(out.logits);
    if (regularize) {
        out.term = autograd::scale_by(quant::bin_regularizer(model_).total, lambda_.to(loss_.dtype()));
        out.total = autograd::add(out.loss, out.term);
    }
    return out;
}

void TrainingStep::compute(bool regularize) {
    const auto& kernel = engine::kernels(loss_.device());
    if (options_.skip) kernel.copy(none_found_, optimizer_.found_inf());
    optimizer_.clear_grad();
    quant::regularize(model_, regularize);
    const Losses step = losses(regularize);
    kernel.find_not_finite(step.loss.value(), optimizer_.found_inf());
    kernel.copy(step.loss.value(), loss_);
    if (regularize) {
        kernel.find_not_finite(step.term.value(), optimizer_.found_inf());
        kernel.copy(step.term.value(), regularizer_);
    } else {
        kernel.fill(0.0, regularizer_);
    }
    step.total.backward();
    optimizer_.update();
    kernel.copy(nn::count_top(step.logits.value(), batch_.labels()), counts_);
}

void TrainingStep::submit(const StepRates& rates) {
    constexpr int kEagerSteps = 1;  // they create GEMM plans, scales and pool blocks
    send(*to_key_, rates.random_key);
    send(*to_lambda_, rates.regularizer_weight);
    optimizer_.schedule(rates.lr);
    if (rates.regularize != graph_regularizes_) {
        graph_.reset();
        graph_regularizes_ = rates.regularize;
        eager_ = 0;
    }
    if (graph_ == nullptr && options_.graph && eager_ >= kEagerSteps) {
        optimizer_.clear_grad();
        graph_batch_ = batch_.size();
        graph_ = engine::runtime(loss_.device()).record_graph([&] { compute(rates.regularize); });
    }
    if (graph_ != nullptr) {
        VVTQ_CHECK(batch_.size() == graph_batch_, "a batch of ", batch_.size(), " for steps of ",
                   graph_batch_);
        graph_->replay();
    } else {
        compute(rates.regularize);
        ++eager_;
    }
    results_.send({loss_, regularizer_, counts_, optimizer_.found_inf()});
}

StepResult TrainingStep::take() {
    const std::vector<double> values = results_.receive();
    return {values[0], values[1], static_cast<int64_t>(values[2]), static_cast<int64_t>(values[3]),
            static_cast<int>(values[4])};
}

std::string TrainingStep::bad_gradient(const StepRates& rates) {
    optimizer_.clear_grad();
    losses(rates.regularize).total.backward();
    const std::vector<nn::NamedParameter> parameters = model_.parameters();
    std::string text = "a gradient is not finite, but all are when the step is repeated";
    // backwards: what is not finite spreads from the loss towards the first layer
    for (auto p = parameters.rbegin(); p != parameters.rend(); ++p) {
        const nn::Tensor& gradient = p->parameter.grad();
        if (!gradient.defined()) continue;
        const nn::Tensor squares({1}, engine::DType::f64, gradient.device());
        engine::kernels(gradient.device()).sum_squares(gradient, squares);
        if (std::isfinite(squares.item())) continue;
        double worst = 0;
        for (const double value : gradient.to_vector()) {
            if (!(std::abs(value) <= std::abs(worst))) worst = value;
            if (std::isnan(worst)) break;
        }
        text = std::isfinite(worst)
                   ? engine::concat("the gradient of ", p->name, " is too large (", worst, ")")
                   : "the gradient of " + p->name + " is not finite (" + value_of(worst) + ")";
        break;
    }
    optimizer_.clear_grad();
    return text;
}

std::string TrainingStep::reason(const StepRates& rates, const StepResult& bad) {
    if ((bad.found_inf & 2) != 0) {
        for (const nn::NamedParameter& p : model_.parameters()) {
            if (p.parameter.value().numel() == 1 && !is_finite(p.parameter.value())) {
                return p.name + " is not finite after the update (" + value_of(p.parameter.value().item()) +
                       ")";
            }
        }
    }
    const bool loss = !std::isfinite(bad.loss);
    const std::string what = std::string(loss ? "the loss" : "the bin regularizer") + " is not finite (" +
                             value_of(loss ? bad.loss : bad.regularizer) + "): ";
    if (const std::string name = parameter_not_finite(model_); !name.empty()) {
        return what + "parameter " + name + " has values that are not finite";
    }
    send(*to_key_, rates.random_key);
    send(*to_lambda_, rates.regularizer_weight);
    quant::regularize(model_, rates.regularize);
    std::vector<std::pair<nn::Tensor, nn::Tensor>> buffers;  // running statistics see a batch once
    for (const auto& [name, buffer] : model_.buffers()) {
        buffers.emplace_back(buffer, buffer.like());
        engine::kernels(buffer.device()).copy(buffer, buffers.back().second);
    }
    const std::string text = (bad.found_inf & 4) != 0
                                 ? bad_gradient(rates)
                                 : what + where_not_finite([&] {
                                       loss_of(model_.forward(batch_.pictures(options_.dtype), key_));
                                   });
    for (const auto& [buffer, before] : buffers) engine::kernels(buffer.device()).copy(before, buffer);
    return text;
}

void TrainingStep::explain(const StepRates& rates, const StepResult& bad) {
    engine::run_error(reason(rates, bad), kRemedy);
}

void check_state_finite(const nn::Model& model, const nn::Adamw& optimizer) {
    if (const std::string bad = parameter_not_finite(model); !bad.empty()) {
        engine::run_error("parameter ", bad, " has values that are not finite", kRemedy);
    }
    for (const auto& [name, buffer] : model.buffers()) {
        if (!is_finite(buffer)) engine::run_error(name, " has values that are not finite", kRemedy);
    }
    for (const auto& [name, moment] : optimizer.state()) {
        if (!is_finite(moment)) {
            engine::run_error("the optimizer's ", name, " has values that are not finite", kRemedy);
        }
    }
}

}  // namespace vvtq::apps
