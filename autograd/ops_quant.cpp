// Quantizers with straight-through gradients, specification sections 1 and 5.
#include "autograd/ops.h"

namespace vvtq::autograd {

using engine::CodeRange;
using engine::DType;
using engine::kernels;
using engine::Shape;

namespace {

const Shape kOne({1});

}  // namespace

Variable lsq(const Variable& x, const Variable& alpha, const Variable& beta, CodeRange range,
             const Tensor& g) {
    // x: any, alpha, beta, g: (1)
    VVTQ_CHECK(alpha.shape() == kOne && g.shape() == kOne && (!beta.defined() || beta.shape() == kOne),
               "alpha ", alpha.shape().str(), ", g ", g.shape().str());
    const Tensor offset = beta.defined() ? beta.value() : Tensor();
    const Tensor y = x.value().like();
    kernels(y.device()).lsq(x.value(), alpha.value(), offset, range, y);
    return record(
        "lsq", y, {x, alpha, beta},
        [x = x.value(), alpha = alpha.value(), offset, range, g](const Tensor& dy, Gradients& dx) {
            const Tensor gradient = x.like();
            const Tensor dalpha = alpha.like();
            const Tensor dbeta = offset.defined() ? offset.like() : Tensor();
            kernels(dy.device()).lsq_backward(dy, x, alpha, offset, range, g, gradient, dalpha, dbeta);
            dx.set(0, gradient);
            dx.set(1, dalpha);
            dx.set(2, dbeta);
        });
}

Variable binary(const Variable& x, const Shape& scale_shape) {
    // x: (B, R, D), scale: (B) or (B, D)
    const Shape& shape = x.shape();
    VVTQ_CHECK(
        shape.rank() == 3 && (scale_shape == Shape({shape[0]}) || scale_shape == Shape({shape[0], shape[2]})),
        "x ", shape.str(), ", scale ", scale_shape.str());
    const Tensor& value = x.value();
    const auto& kernel = kernels(value.device());
    const Tensor s(scale_shape, value.dtype(), value.device());
    kernel.binary_scale(value, s);
    const Tensor y = value.like();
    kernel.binary(value, s, y);
    return record("binary", y, {x}, [x = value](const Tensor& dy, Gradients& dx) {
        const Tensor gradient = x.like();
        kernels(dy.device()).binary_backward(dy, x, gradient);
        dx.set(0, gradient);
    });
}

Variable bin_regularizer(const Variable& w, const Variable& alpha, CodeRange range, const Tensor& g) {
    // w: any, alpha, g: (1)
    VVTQ_CHECK(alpha.shape() == kOne && g.shape() == kOne, "alpha ", alpha.shape().str(), ", g ",
               g.shape().str());
    const Tensor& value = w.value();
    const Tensor loss(kOne, value.dtype(), value.device());
    const Tensor stats({range.count(), 3}, DType::f64, value.device());
    kernels(loss.device()).bin_regularizer(value, alpha.value(), range, loss, stats);
    return record(
        "bin_regularizer", loss, {w, alpha},
        [w = value, alpha = alpha.value(), range, stats, g](const Tensor& dy, Gradients& dx) {
            const Tensor dw = w.like();
            const Tensor dalpha = alpha.like();
            kernels(dy.device()).bin_regularizer_backward(dy, w, alpha, range, stats, g, dw, dalpha);
            dx.set(0, dw);
            dx.set(1, dalpha);
        });
}

}  // namespace vvtq::autograd
