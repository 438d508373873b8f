#include "quant/weight_pass.h"

#include <algorithm>

#include "autograd/integer_codes.h"

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
    if (!kept_.empty()) return give_kept_codes();
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

void WeightPass::keep_codes(nn::QuantizerSlot& slot, const std::vector<int8_t>& codes) {
    nn::Variable w = slot.weight();
    const engine::Shape shape = w.shape();
    VVTQ_CHECK(static_cast<int64_t>(codes.size()) == shape.numel(), codes.size(), " codes of ", shape.str());
    const nn::Tensor kept({shape[0], shape.numel() / shape[0]}, engine::DType::i8);
    std::copy(codes.begin(), codes.end(), kept.data<int8_t>());
    kept_[&slot] = kept;
    const engine::ShapesOnly no_memory;
    w.set_value(nn::Tensor(shape, w.value().dtype()));
}

void WeightPass::give_kept_codes() {
    std::vector<nn::QuantizerSlot*> slots;
    for (nn::QuantizerSlot* slot : slots_) {
        if (kept_.count(slot) != 0) slots.push_back(slot);
    }
    for (size_t first = 0, end = 0; first < slots.size(); first = end) {
        int64_t rows = kept_.at(slots[first]).shape()[0];
        for (end = first + 1; end < slots.size() && slots[end]->previous() == slots[end - 1]; ++end) {
            rows += kept_.at(slots[end]).shape()[0];
        }
        const nn::Tensor codes({rows, kept_.at(slots[first]).shape()[1]}, engine::DType::i8);
        int64_t at = 0;
        for (size_t i = first; i < end; ++i) {
            nn::Tensor& own = kept_.at(slots[i]);
            const nn::Tensor place = codes.slice(at, at + own.shape()[0]);
            engine::kernels(codes.device()).copy(own, place);
            at += own.shape()[0];
            own = place;
        }
        const nn::Tensor packed = autograd::packed_codes(codes);
        at = 0;
        for (size_t i = first; i < end; ++i) {
            const nn::Tensor& own = kept_.at(slots[i]);
            const auto params = slots[i]->get()->params(own.numel());
            VVTQ_CHECK(params, "the quantizer of kept codes gives no parameters");
            nn::Quantized weight{nn::Variable(own)};
            weight.scale = params->scale.value();
            if (end == first + 1) weight.packed = packed;
            const autograd::WeightMatrix matrix{codes.slice(at, rows), i == first ? packed : nn::Tensor()};
            slots[i]->prepare(weight, matrix);
            prepared_.push_back(slots[i]);
            at += own.shape()[0];
        }
    }
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

WeightPass* weight_pass_of(const nn::Model& model) { return dynamic_cast<WeightPass*>(model.weight_pass()); }

}  // namespace vvtq::quant
