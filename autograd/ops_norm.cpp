// Ops along rows, a row being the last dimension.
#include "autograd/ops.h"
#include "autograd/trace.h"

namespace vvtq::autograd {

using engine::kernels;
using engine::Shape;

Variable layer_norm(const Variable& x, const Variable& gamma, const Variable& beta, double eps) {
    // x: (..., C), gamma, beta: (C)
    const Tensor& value = x.value();
    const Shape channels({value.shape().cols()});
    VVTQ_CHECK(gamma.shape() == channels && beta.shape() == channels, "x ", value.shape().str(), ", gamma ",
               gamma.shape().str(), ", beta ", beta.shape().str());
    const Tensor y = value.like();
    const Tensor mean({value.shape().rows()}, engine::master_of(value.dtype()), value.device());
    const Tensor rstd = mean.like();
    kernels(y.device()).layer_norm(value, gamma.value(), beta.value(), eps, y, mean, rstd);
    tell_trace([&] { return OpArguments{{"eps", eps}}; });
    return record(
        "layer_norm", y, {x, gamma, beta},
        [x = value, gamma = gamma.value(), mean, rstd](const Tensor& dy, Gradients& dx) {
            const Tensor gradient = x.like();
            const Tensor dgamma = gamma.like();
            const Tensor dbeta = gamma.like();
            kernels(dy.device()).layer_norm_backward(dy, x, gamma, mean, rstd, gradient, dgamma, dbeta);
            dx.set(0, gradient);
            dx.set(1, dgamma);
            dx.set(2, dbeta);
        });
}

Variable softmax(const Variable& x, double s) {
    const Tensor y = x.value().like();
    kernels(y.device()).softmax(x.value(), s, y);
    tell_trace([&] { return OpArguments{{"s", s}}; });
    return record("softmax", y, {x}, [y, s](const Tensor& dy, Gradients& dx) {
        const Tensor gradient = dy.like();
        kernels(dy.device()).softmax_backward(dy, y, s, gradient);
        dx.set(0, gradient);
    });
}

Variable soft_cross_entropy(const Variable& z, const Tensor& p) {
    // z, p: (B, K)
    VVTQ_CHECK(z.shape().rank() == 2 && z.shape() == p.shape(), "logits ", z.shape().str(), ", targets ",
               p.shape().str());
    const Tensor& value = z.value();
    const Tensor loss({1}, value.dtype(), value.device());
    const Tensor dz = value.like();
    kernels(loss.device()).soft_cross_entropy(value, p, loss, dz);
    return record("soft_cross_entropy", loss, {z}, [dz](const Tensor& dy, Gradients& dx) {
        const Tensor gradient = dz.like();
        kernels(dy.device()).scale_by(dz, dy, gradient);
        dx.set(0, gradient);
    });
}

}  // namespace vvtq::autograd
