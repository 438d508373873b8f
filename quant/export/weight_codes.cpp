#include "quant/export/weight_codes.h"

#include <algorithm>
#include <cmath>

#include "quant/lsq.h"

namespace vvtq::quant {

using engine::DType;
using engine::kernels;
using engine::Tensor;

namespace {

WeightCodes codes_of(const Lsq& quantizer, const Tensor& w) {
    const engine::QuantParams params = quantizer.values_for(w.shape());
    kernels(w.device()).clamp_steps({params.scale});  // as a forward pass does
    const Tensor q(w.shape(), DType::i32);
    kernels(w.device()).lsq_codes(w, params, q);
    WeightCodes result{quantizer.describe().bits, {}, {}, params.inner, true};
    const int32_t* codes = q.data<int32_t>();
    result.codes.assign(codes, codes + q.numel());
    const float* steps = params.scale.data<float>();
    result.steps.assign(steps, steps + params.groups());
    return result;
}

std::optional<WeightCodes> signs_of(nn::Quantizer& quantizer, const Tensor& w) {
    const autograd::NoGrad off_tape;
    const Tensor y = quantizer(nn::Variable(w)).value();
    const float* values = y.data<float>();
    const float step = std::fabs(values[0]);
    WeightCodes result{1, {}, {step}, 1, false};
    for (int64_t i = 0; i < y.numel(); ++i) {
        if (values[i] == 0 || std::fabs(values[i]) != step) return std::nullopt;
        result.codes.push_back(values[i] > 0 ? 1 : -1);
    }
    return result;
}

}  // namespace

std::optional<WeightCodes> weight_codes(const nn::QuantizerSlot& slot) {
    if (slot.get() == nullptr || slot.values() != nn::Values::weight) return std::nullopt;
    const Tensor& w = slot.weight().value();
    if (w.numel() == 0) return std::nullopt;
    if (const auto* lsq = as_lsq(slot.get())) {
        return lsq->ready() ? std::optional(codes_of(*lsq, w)) : std::nullopt;
    }
    if (slot.get()->describe().bits == 1) return signs_of(*slot.get(), w);
    return std::nullopt;
}

}  // namespace vvtq::quant
