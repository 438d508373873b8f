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
constexpr const char* kAllFinite = "every output of the forward pass is finite when it is repeated";

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
      parallel_(options.parallel, optimizer.found_inf().device(), engine::master_of(options.dtype)),
      results_(optimizer.found_inf().device()) {
    const engine::Device device = optimizer.found_inf().device();
    key_ = nn::Tensor({1}, engine::DType::i64, device);
    lambda_ = nn::Tensor({1}, engine::DType::f64, device);
    stop_ = lambda_.like();
    totals_ = nn::Tensor({4}, engine::DType::f64, device);
    regularizer_ = nn::Tensor({1}, engine::master_of(options.dtype), device);
    none_found_ = nn::Tensor::from({0}, {1}, engine::DType::i32, device);
    to_key_ = engine::upload_to(key_);
    to_lambda_ = engine::upload_to(lambda_);
    to_stop_ = engine::upload_to(stop_);
}

nn::Variable TrainingStep::logits_of(Part part) const {
    return model_.forward(batch_.pictures(options_.dtype, part), {key_, batch_.places(part)});
}

nn::Variable TrainingStep::loss_of(const nn::Variable& logits, Part part) const {
    const nn::Tensor soft = batch_.soft_targets(logits.value().dtype(), part);
    return soft.defined() ? nn::soft_cross_entropy(logits, soft)
                          : nn::cross_entropy(logits, batch_.labels(part), options_.smoothing);
}

nn::Variable TrainingStep::regularizer_term() const {
    return autograd::scale_by(quant::bin_regularizer(model_).total, lambda_.to(regularizer_.dtype()));
}

void TrainingStep::compute_shards(const nn::PreparedWeights& weights) {
    const auto& kernel = engine::kernels(totals_.device());
    for (int64_t shard = 0; shard < parallel_.local_shards(); ++shard) {
        model_.share_batch(parallel_.share(shard));
        const nn::Variable logits = logits_of(part(shard));
        const nn::Variable loss = loss_of(logits, part(shard));
        const nn::Tensor sums = totals_.like();
        kernel.cast(loss.value(), sums.slice(0, 1));
        kernel.cast(nn::count_top(logits.value(), batch_.labels(part(shard))), sums.slice(1, 3));
        kernel.copy(stop_, sums.slice(3, 4));
        std::vector<nn::Variable> leaves = weights.codes();
        for (const nn::NamedParameter& p : optimizer_.parameters()) leaves.push_back(p.parameter);
        parallel_.backward(shard, loss, std::move(leaves), sums);
    }
    model_.share_batch({});
}

void TrainingStep::compute(bool regularize) {
    const auto& kernel = engine::kernels(totals_.device());
    if (options_.skip) kernel.copy(none_found_, optimizer_.found_inf());
    optimizer_.clear_grad();
    quant::regularize(model_, regularize);
    nn::PreparedWeights weights(model_, options_.dtype);
    quant::OscillationTracker* oscillation = options_.oscillation;
    if (oscillation != nullptr) oscillation->begin();
    compute_shards(weights);
    kernel.copy(parallel_.reduce(), totals_);
    kernel.find_not_finite(totals_.slice(0, 1).to(regularizer_.dtype()), optimizer_.found_inf());
    nn::Variable term;
    if (regularize) {
        term = regularizer_term();
        kernel.find_not_finite(term.value(), optimizer_.found_inf());
        kernel.copy(term.value(), regularizer_);
    } else {
        kernel.fill(0.0, regularizer_);
    }
    weights.backward(term);
    if (oscillation != nullptr) oscillation->clear_frozen();
    optimizer_.update();
    if (oscillation != nullptr) oscillation->follow(optimizer_.found_inf());
}

void TrainingStep::submit(const StepRates& rates) {
    constexpr int kEagerSteps = 1;  // they create GEMM plans, scales and pool blocks
    send(*to_key_, rates.random_key);
    send(*to_lambda_, rates.regularizer_weight);
    send(*to_stop_, rates.stop ? 1.0 : 0.0);
    optimizer_.schedule(rates.lr);
    if (options_.oscillation != nullptr && options_.oscillation->freezes()) {
        options_.oscillation->set_threshold(rates.freeze_threshold);
    }
    if (rates.regularize != graph_regularizes_) {
        graph_.reset();
        graph_regularizes_ = rates.regularize;
        eager_ = 0;
    }
    if (graph_ == nullptr && options_.graph && eager_ >= kEagerSteps) {
        optimizer_.clear_grad();
        graph_batch_ = batch_.size();
        graph_ = engine::runtime(totals_.device()).record_graph([&] { compute(rates.regularize); });
    }
    if (graph_ != nullptr) {
        VVTQ_CHECK(batch_.size() == graph_batch_, "a batch of ", batch_.size(), " for steps of ",
                   graph_batch_);
        graph_->replay();
    } else {
        compute(rates.regularize);
        ++eager_;
    }
    results_.send({totals_, regularizer_, optimizer_.found_inf()});
}

StepResult TrainingStep::take() {
    const std::vector<double> values = results_.receive();
    return {values[0] / static_cast<double>(parallel_.parts()),
            values[4],
            static_cast<int64_t>(values[1]),
            static_cast<int64_t>(values[2]),
            values[3] > 0,
            static_cast<int>(values[5])};
}

BadStep TrainingStep::bad_gradient(const StepRates& rates) {
    optimizer_.clear_grad();
    nn::PreparedWeights weights(model_, options_.dtype);
    for (int64_t shard = 0; shard < parallel_.local_shards(); ++shard) {
        loss_of(logits_of(part(shard)), part(shard)).backward();
    }
    weights.backward(rates.regularize ? regularizer_term() : nn::Variable());
    const std::vector<nn::NamedParameter> parameters = model_.parameters();
    BadStep bad{"a gradient is not finite, but all are when the step is repeated", false};
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
        bad = {std::isfinite(worst)
                   ? engine::concat("the gradient of ", p->name, " is too large (", worst, ")")
                   : "the gradient of " + p->name + " is not finite (" + value_of(worst) + ")",
               true};
        break;
    }
    optimizer_.clear_grad();
    return bad;
}

BadStep TrainingStep::reason(const StepRates& rates, const StepResult& bad) {
    if ((bad.found_inf & 2) != 0) {
        for (const nn::NamedParameter& p : model_.parameters()) {
            if (p.parameter.value().numel() == 1 && !is_finite(p.parameter.value())) {
                return {
                    p.name + " is not finite after the update (" + value_of(p.parameter.value().item()) + ")",
                    true};
            }
        }
    }
    const bool loss = !std::isfinite(bad.loss);
    const std::string what = std::string(loss ? "the loss" : "the bin regularizer") + " is not finite (" +
                             value_of(loss ? bad.loss : bad.regularizer) + "): ";
    if (const std::string name = parameter_not_finite(model_); !name.empty()) {
        return {what + "parameter " + name + " has values that are not finite", true};
    }
    send(*to_key_, rates.random_key);
    send(*to_lambda_, rates.regularizer_weight);
    quant::regularize(model_, rates.regularize);
    model_.share_batch({nullptr, false});  // running statistics see a batch once
    BadStep found;
    if ((bad.found_inf & 4) != 0) {
        found = bad_gradient(rates);
    } else {
        const std::string where = where_not_finite([&] {
            for (int64_t shard = 0; shard < parallel_.local_shards(); ++shard) {
                loss_of(logits_of(part(shard)), part(shard));
            }
        });
        found = {what + (where.empty() ? kAllFinite : where), !where.empty()};
    }
    model_.share_batch({});
    return found;
}

void TrainingStep::explain(const StepRates& rates, const StepResult& bad) {
    engine::run_error(reason(rates, bad).text, kRemedy);
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
