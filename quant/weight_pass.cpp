#include "quant/weight_pass.h"

#include "quant/attach.h"

namespace vvtq::quant {

WeightPass::WeightPass(nn::Module& model) {
    for (const auto& [path, slot] : slots(model)) {
        auto* quantizer = dynamic_cast<Lsq*>(slot->get());
        if (quantizer == nullptr) continue;
        quantizers_.push_back(quantizer);
        if (slot->values() != nn::Values::weight) continue;
        weights_.push_back({slot, quantizer});
        layers_.push_back(path);
    }
}

void WeightPass::prepare(engine::DType dtype) {
    regularizer_ = {};
    terms_.clear();
    std::vector<nn::Tensor> alphas;
    std::vector<autograd::WeightParameters> weights;
    for (const Weight& weight : weights_) {
        weight.quantizer->start_from(weight.slot->weight().value());
        weights.push_back({weight.slot->weight(), weight.quantizer->alpha(), weight.quantizer->range()});
    }
    for (Lsq* quantizer : quantizers_) {
        quantizer->leave_raising(true);
        if (quantizer->ready()) alphas.push_back(quantizer->alpha().value());
    }
    if (!alphas.empty()) engine::kernels(alphas[0].device()).raise_steps(alphas);
    if (weights.empty()) return;
    autograd::QuantizedWeights quantized = autograd::quantize_weights(weights, dtype, regularize_);
    for (size_t i = 0; i < weights_.size(); ++i) weights_[i].slot->prepare(quantized.weights[i]);
    regularizer_ = quantized.regularizer;
    terms_ = std::move(quantized.terms);
}

void WeightPass::release() {
    for (const Weight& weight : weights_) weight.slot->prepare({});
    for (Lsq* quantizer : quantizers_) quantizer->leave_raising(false);
}

}  // namespace vvtq::quant
