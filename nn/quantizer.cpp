#include "nn/quantizer.h"

#include <utility>

namespace vvtq::nn {

Variable QuantizerSlot::operator()(const Variable& x) {
    if (get() == nullptr) return x;
    const autograd::Scope scope(name());
    if (watcher_) watcher_(x.value());
    return (*get())(x);
}

Quantized QuantizerSlot::quantized(const Variable& x) {
    const auto params = fusable_params(x.shape().numel());
    if (!params) return (*this)(x);
    return params->scale.defined() ? autograd::quantize(x, *params) : Quantized(x);
}

std::optional<autograd::QuantParams> QuantizerSlot::fusable_params(int64_t numel) const {
    if (get() == nullptr) return autograd::QuantParams{};
    if (watcher_) return {};
    return get()->params(numel);
}

Quantized QuantizerSlot::quantized_weight() {
    if (prepared_) return *prepared_;
    const Variable w = (*this)(weight_);
    const engine::Shape& shape = w.shape();
    return shape.rank() == 2 ? w : autograd::reshape(w, {shape[0], shape.numel() / shape[0]});
}

void QuantizerSlot::fill(std::unique_ptr<Quantizer> quantizer) {
    VVTQ_CHECK(quantizer != nullptr, "no quantizer given");
    VVTQ_CHECK(quantizer_ == nullptr, "the slot is filled already");
    quantizer_ = std::move(quantizer);
    add_module("", *quantizer_);
}

}  // namespace vvtq::nn
