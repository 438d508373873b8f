#include "nn/optimizer.h"

#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <string_view>

namespace vvtq::nn {

namespace {

constexpr const char* kExpAvg = ".exp_avg";
constexpr const char* kExpAvgSq = ".exp_avg_sq";

}  // namespace

bool has_weight_decay(const NamedParameter& parameter) {
    return parameter.parameter.shape().rank() >= 2 && !std::string_view(parameter.name).ends_with(".bias");
}

Adamw::Adamw(std::vector<NamedParameter> parameters, const AdamwOptions& options) : options_(options) {
    VVTQ_CHECK(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1, "betas ",
               options.beta1, ", ", options.beta2);
    VVTQ_CHECK(options.eps > 0 && options.weight_decay >= 0 && options.clip_grad >= 0, "eps ", options.eps,
               ", weight decay ", options.weight_decay, ", clip ", options.clip_grad);
    std::set<const void*> known;  // parameters that several modules share have one memory
    for (NamedParameter& p : parameters) {
        const Tensor& value = p.parameter.value();
        if (!p.parameter.requires_grad() || !known.insert(value.raw()).second) continue;
        exp_avg_.push_back(Tensor::zeros(value.shape(), value.dtype(), value.device()));
        exp_avg_sq_.push_back(Tensor::zeros(value.shape(), value.dtype(), value.device()));
        parameters_.push_back(std::move(p));
    }
    const auto device = parameters_.empty() ? engine::Device::cpu : exp_avg_[0].device();
    schedule_ = Tensor::zeros({4}, engine::DType::f64, device);
    found_inf_ = Tensor::from({0}, {1}, engine::DType::i32, device);
    to_schedule_ = engine::upload_to(schedule_);
}

void Adamw::step(double lr) {
    schedule(lr);
    update();
}

void Adamw::schedule(double lr) {
    ++step_;
    const auto t = static_cast<double>(step_);
    const double values[4] = {lr, 1.0 - std::pow(options_.beta1, t), 1.0 - std::pow(options_.beta2, t), 1.0};
    std::memcpy(to_schedule_->host(), values, sizeof values);
    to_schedule_->send();
}

void Adamw::update() {
    std::vector<engine::AdamwItem> items;
    items.reserve(parameters_.size());
    for (size_t i = 0; i < parameters_.size(); ++i) {
        const NamedParameter& p = parameters_[i];
        if (!p.parameter.grad().defined()) continue;
        items.push_back(
            {p.parameter.value(), p.parameter.grad(), exp_avg_[i], exp_avg_sq_[i], has_weight_decay(p)});
    }
    if (items.empty()) return;
    const auto& kernel = engine::kernels(items[0].p.device());
    kernel.clip_gradients(items, options_.clip_grad, schedule_, found_inf_);
    kernel.adamw(items, {options_.beta1, options_.beta2, options_.eps, options_.weight_decay}, schedule_,
                 found_inf_);
}

void Adamw::clear_grad() {
    for (NamedParameter& p : parameters_) p.parameter.clear_grad();
}

std::vector<std::pair<std::string, Tensor>> Adamw::state() const {
    std::vector<std::pair<std::string, Tensor>> state;
    for (size_t i = 0; i < parameters_.size(); ++i) {
        state.emplace_back(parameters_[i].name + kExpAvg, exp_avg_[i]);
        state.emplace_back(parameters_[i].name + kExpAvgSq, exp_avg_sq_[i]);
    }
    return state;
}

void Adamw::load_state(const std::vector<std::pair<std::string, Tensor>>& state, int64_t steps_done) {
    VVTQ_CHECK(steps_done >= 0, "steps ", steps_done);
    std::map<std::string, Tensor> given(state.begin(), state.end());
    std::string wrong;
    const auto own = this->state();
    for (const auto& [name, moment] : own) {
        const auto found = given.find(name);
        if (found != given.end() && found->second.defined() && found->second.shape() == moment.shape())
            continue;
        if (!wrong.empty()) wrong += ", ";
        wrong += found == given.end() || !found->second.defined()
                     ? name + " (missing)"
                     : engine::concat(name, ' ', found->second.shape().str(), " instead of ",
                                      moment.shape().str());
    }
    if (!wrong.empty()) {
        engine::input_error("the optimizer state does not fit this model: ", wrong,
                            "; resume with the flags of the run that wrote it");
    }
    for (const auto& [name, moment] : own) {
        const Tensor value = given.at(name).to(moment.dtype()).to(moment.device());
        engine::kernels(moment.device()).copy(value, moment);
    }
    step_ = steps_done;
}

}  // namespace vvtq::nn
