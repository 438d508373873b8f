#include "apps/training/training_step.h"

#include <cmath>
#include <cstring>

#include "apps/training/explain.h"
#include "autograd/ops.h"
#include "nn/losses.h"
#include "quant/bin_regularizer.h"

namespace vvtq::apps {
namespace {

constexpr const char* kRemedy = "; a smaller `lr` may help";

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
    to_key_ = engine::upload_to(key_);
    to_lambda_ = engine::upload_to(lambda_);
}

nn::Variable TrainingStep::loss_of(const nn::Variable& logits) const {
    const nn::Tensor soft = batch_.soft_targets(logits.value().dtype());
    return soft.defined() ? nn::soft_cross_entropy(logits, soft)
                          : nn::cross_entropy(logits, batch_.labels(), options_.smoothing);
}

void TrainingStep::compute(bool regularize) {
    const auto& kernel = engine::kernels(loss_.device());
    optimizer_.clear_grad();
    quant::regularize(model_, regularize);
    const nn::Variable logits = model_.forward(batch_.pictures(options_.dtype), key_);
    const nn::Variable loss = loss_of(logits);
    kernel.find_not_finite(loss.value(), optimizer_.found_inf());
    kernel.copy(loss.value(), loss_);
    if (regularize) {
        const nn::Variable term =
            autograd::scale_by(quant::bin_regularizer(model_).total, lambda_.to(loss_.dtype()));
        kernel.find_not_finite(term.value(), optimizer_.found_inf());
        kernel.copy(term.value(), regularizer_);
        autograd::add(loss, term).backward();
    } else {
        kernel.fill(0.0, regularizer_);
        loss.backward();
    }
    optimizer_.update();
    kernel.copy(nn::count_top(logits.value(), batch_.labels()), counts_);
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

void TrainingStep::explain(const StepRates& rates, const StepResult& bad) {
    const bool loss = !std::isfinite(bad.loss);
    if ((bad.found_inf & 1) == 0) {
        for (const nn::NamedParameter& p : model_.parameters()) {
            if (p.parameter.value().numel() == 1 && !is_finite(p.parameter.value())) {
                engine::run_error(p.name, " is not finite after the update", kRemedy);
            }
        }
    }
    const std::string name = parameter_not_finite(model_);
    const std::string where =
        !name.empty() ? "parameter " + name + " has values that are not finite" : where_not_finite([&] {
            send(*to_key_, rates.random_key);
            quant::regularize(model_, rates.regularize);
            loss_of(model_.forward(batch_.pictures(options_.dtype), key_));
        });
    engine::run_error(loss ? "the loss" : "the bin regularizer", " is not finite: ", where, kRemedy);
}

void check_state_finite(const nn::Model& model, const nn::Adamw& optimizer) {
    if (const std::string bad = parameter_not_finite(model); !bad.empty()) {
        engine::run_error("parameter ", bad, " has values that are not finite", kRemedy);
    }
    for (const auto& [name, moment] : optimizer.state()) {
        if (!is_finite(moment)) {
            engine::run_error("the optimizer's ", name, " has values that are not finite", kRemedy);
        }
    }
}

}  // namespace vvtq::apps
