// quant_params: the parameters of quantizers for ops and kernels under test.
#pragma once

#include "autograd/ops.h"

namespace vvtq::tests {

/// For an op; the range lies on the device of the scale.
inline autograd::QuantParams quant_params(const autograd::Variable& scale, const autograd::Variable& offset,
                                          engine::CodeRange range, const engine::Tensor& g = {},
                                          int64_t inner = 1) {
    return {scale, offset, engine::range_tensor(range, scale.value().device()), g, inner};
}

/// For a kernel.
inline engine::QuantParams kernel_params(const engine::Tensor& scale, const engine::Tensor& offset,
                                         engine::CodeRange range, const engine::Tensor& g = {},
                                         int64_t inner = 1) {
    return {scale, offset, engine::range_tensor(range, scale.device()), g, inner};
}

/// Qn and Qp of a quantizer.
inline engine::CodeRange range_of(const engine::QuantParams& quantizer) {
    const auto range = quantizer.range.to_vector();
    return {static_cast<int>(range[0]), static_cast<int>(range[1])};
}

}  // namespace vvtq::tests
