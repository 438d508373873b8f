#include "quant/weight_pass.h"

#include "quant/attach.h"

namespace vvtq::quant {

WeightPass::WeightPass(nn::Module& model) {
    for (const auto& [path, slot] : slots(model)) {
        if (slot->get() == nullptr) continue;
        quantizers_.push_back(slot->get());
        if (slot->values() != nn::Values::weight) continue;
        slots_.push_back(slot);
        paths_.push_back(path);
        bins_.push_back(slot->get()->describe().range.count());
    }
}

void WeightPass::prepare(engine::DType dtype, bool collect) {
    release();
    regularizer_ = {};
    terms_.clear();
    layers_.clear();
    prepared_once_ = true;
    std::vector<autograd::WeightParameters> weights;
    for (size_t i = 0; i < slots_.size(); ++i) {
        nn::QuantizerSlot& slot = *slots_[i];
        nn::Quantizer& quantizer = *slot.get();
        const autograd::Scope scope(paths_[i]);
        if (!quantizer.ready()) quantizer.calibrate(slot.weight().value());
        const auto params = quantizer.params(slot.weight().shape().numel());
        if (!params) continue;
        const bool follows = !prepared_.empty() && slot.previous() == prepared_.back();
        weights.push_back({slot.weight(), *params, bins_[i], follows});
        prepared_.push_back(&slot);
        layers_.push_back(paths_[i]);
    }
    std::vector<nn::Tensor> steps;
    for (const nn::Quantizer* quantizer : quantizers_) {
        if (!quantizer->ready()) continue;
        for (nn::Tensor& step : quantizer->steps()) steps.push_back(std::move(step));
    }
    if (!steps.empty()) engine::kernels(steps[0].device()).clamp_steps(steps);
    if (weights.empty()) return;
    autograd::QuantizedWeights quantized = autograd::quantize_weights(weights, dtype, regularize_);
    for (size_t i = 0; i < prepared_.size(); ++i) {
        nn::Quantized& weight = quantized.weights[i];
        if (collect && weight.q.requires_grad()) {
            codes_.push_back(weight.q);
            weight.q = leaves_.emplace_back(weight.q.value(), weight.q.gradient_dtype());
        }
        prepared_[i]->prepare(weight, quantized.matrices[i]);
    }
    regularizer_ = quantized.regularizer;
    terms_ = std::move(quantized.terms);
}

void WeightPass::release() {
    for (nn::QuantizerSlot* slot : prepared_) slot->release();
    prepared_.clear();
    codes_.clear();
    leaves_.clear();
}

void WeightPass::backward(const nn::Variable& term) {
    std::vector<nn::Variable> ys;
    std::vector<nn::Tensor> gradients;
    for (size_t i = 0; i < codes_.size(); ++i) {
        if (!leaves_[i].grad().defined()) continue;
        ys.push_back(codes_[i]);
        gradients.push_back(leaves_[i].grad());
        leaves_[i].clear_grad();
    }
    if (term.requires_grad()) {
        ys.push_back(term);
        gradients.push_back(
            nn::Tensor::full(term.shape(), 1.0, term.gradient_dtype(), term.value().device()));
    }
    if (!ys.empty()) autograd::backward(ys, std::move(gradients));
}

}  // namespace vvtq::quant
