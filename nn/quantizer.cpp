#include "nn/quantizer.h"

#include <utility>

namespace vvtq::nn {

Variable QuantizerSlot::operator()(const Variable& x) {
    if (!quantizer_) return x;
    const autograd::Scope scope(name());
    return (*quantizer_)(x);
}

void QuantizerSlot::fill(std::unique_ptr<Quantizer> quantizer) {
    VVTQ_CHECK(quantizer != nullptr, "no quantizer given");
    VVTQ_CHECK(quantizer_ == nullptr, "the slot is filled already");
    quantizer_ = std::move(quantizer);
    add_module("", *quantizer_);
}

}  // namespace vvtq::nn
