// Elementwise ops, sums and shapes.
#include "autograd/ops.h"
#include "autograd/trace.h"

namespace vvtq::autograd {

using engine::kernels;
using engine::Shape;

Variable add(const Variable& a, const Variable& b) {
    VVTQ_CHECK(a.shape() == b.shape(), "shapes ", a.shape().str(), " and ", b.shape().str());
    const Tensor y = a.value().like();
    kernels(y.device()).add(a.value(), b.value(), y);
    return record("add", y, {a, b}, [](const Tensor& dy, Gradients& dx) {
        dx.set(0, dy);
        dx.set(1, dy);
    });
}

Variable scale(const Variable& x, double s) {
    const Tensor y = x.value().like();
    kernels(y.device()).scale(x.value(), s, y);
    tell_trace([&] { return OpArguments{{"s", s}}; });
    return record("scale", y, {x}, [s](const Tensor& dy, Gradients& dx) {
        const Tensor gradient = dy.like();
        kernels(dy.device()).scale(dy, s, gradient);
        dx.set(0, gradient);
    });
}

Variable scale_by(const Variable& x, const Tensor& s) {
    const Tensor y = x.value().like();
    kernels(y.device()).scale_by(x.value(), s, y);
    return record("scale_by", y, {x}, [s](const Tensor& dy, Gradients& dx) {
        const Tensor gradient = dy.like();
        kernels(dy.device()).scale_by(dy, s, gradient);
        dx.set(0, gradient);
    });
}

Variable sum(const Variable& x) {
    const Tensor& value = x.value();
    const Tensor y({1}, engine::master_of(value.dtype()), value.device());
    kernels(y.device()).sum(value, y);
    return record("sum", y, {x},
                  [shape = value.shape(), dtype = value.dtype()](const Tensor& dy, Gradients& dx) {
                      const Tensor ones = Tensor::full(shape, 1.0, dtype, dy.device());
                      const Tensor gradient = ones.like();
                      kernels(dy.device()).scale_by(ones, dy, gradient);
                      dx.set(0, gradient);
                  });
}

Variable reshape(const Variable& x, const Shape& shape) {
    const Shape before = x.shape();
    return record("reshape", Output(x.value().reshape(shape), x.gradient_dtype()), {x},
                  [before](const Tensor& dy, Gradients& dx) { dx.set(0, dy.reshape(before)); });
}

Variable add_broadcast(const Variable& x, const Variable& p) {
    // x: (..., P), p: (P), where P may be several dimensions, or the whole of x's with leading ones
    const int64_t repeat = p.shape().numel();
    VVTQ_CHECK(repeat > 0 && x.shape().numel() % repeat == 0, "shapes ", x.shape().str(), " and ",
               p.shape().str());
    const Tensor y = x.value().like();
    kernels(y.device()).add_broadcast(x.value(), p.value(), y);
    const Shape p_shape = p.shape();
    return record("add_broadcast", y, {x, p}, [p_shape](const Tensor& dy, Gradients& dx) {
        dx.set(0, dy);
        if (dx.wanted(1)) {
            const Tensor dp(p_shape, engine::master_of(dy.dtype()), dy.device());
            kernels(dy.device()).sum_rows(dy, dp);
            dx.set(1, dp);
        }
    });
}

Variable residual(const Variable& x, const Variable& f, const Tensor& keep) {
    // x, f: (B, ...), keep: (B)
    VVTQ_CHECK(x.shape() == f.shape(), "shapes ", x.shape().str(), " and ", f.shape().str());
    VVTQ_CHECK(!keep.defined() || keep.shape() == Shape({x.shape()[0]}), "keep ", keep.shape().str(),
               " for x ", x.shape().str());
    const Tensor y = x.value().like();
    kernels(y.device()).residual(x.value(), f.value(), keep, y);
    return record("residual", y, {x, f}, [keep](const Tensor& dy, Gradients& dx) {
        dx.set(0, dy);
        if (!keep.defined()) {
            dx.set(1, dy);
        } else if (dx.wanted(1)) {
            const Tensor df = dy.like();
            kernels(dy.device()).scale_samples(dy, keep, df);
            dx.set(1, df);
        }
    });
}

Variable gelu(const Variable& x) {
    const Tensor y = x.value().like();
    kernels(y.device()).gelu(x.value(), y);
    return record("gelu", y, {x}, [x = x.value()](const Tensor& dy, Gradients& dx) {
        const Tensor gradient = dy.like();
        kernels(dy.device()).gelu_backward(dy, x, gradient);
        dx.set(0, gradient);
    });
}

Variable cast(const Variable& x, engine::DType dtype) {
    if (x.value().dtype() == dtype) return x;
    return record(
        "cast", x.value().to(dtype), {x},
        [before = x.value().dtype()](const Tensor& dy, Gradients& dx) { dx.set(0, dy.to(before)); });
}

}  // namespace vvtq::autograd
