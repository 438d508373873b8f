// Linear layers on plain or quantized tensors.
#include "autograd/linear.h"

namespace vvtq::autograd {

using engine::DType;
using engine::kernels;
using engine::master_of;
using engine::Shape;

namespace {

DType float_dtype(const Tensor& codes) { return is_integer(codes) ? DType::f32 : codes.dtype(); }

}  // namespace

Tensor as_rows(const Tensor& x) { return x.reshape({x.shape().rows(), x.shape().cols()}); }

LinearProduct::LinearProduct(const Quantized& x, const Quantized& w, const Variable& bias)
    : w_(w.q.value()),
      w_scale_(w.scale),
      x_scale_(x.scale),
      x_offset_(x.offset),
      bias_(bias.defined() ? bias.value() : Tensor()) {
    // x: (..., K), w: (O, K), bias: (O)
    VVTQ_CHECK(w_.shape().rank() == 2 && x.q.shape().cols() == inputs(), "x ", x.q.shape().str(), ", w ",
               w_.shape().str());
    VVTQ_CHECK(!bias.defined() || bias.shape() == Shape({outputs()}), "w ", w_.shape().str(), ", bias ",
               bias.shape().str());
    const Tensor& codes = x.q.value();
    constexpr int64_t kMostInputs = (int64_t{1} << 31) / (255 * 128);  // whose sums fit into 32 bits
    if (is_integer(codes) && is_integer(w_) && inputs() <= kMostInputs) {
        packed_ = w.packed.defined() ? w.packed : packed_codes(w_);
    } else {
        w_ = w_.to(float_dtype(codes));
    }
}

std::pair<Tensor, Tensor> LinearProduct::scale_and_bias(DType dtype) const {
    const Tensor scale({1}, master_of(dtype), w_.device());
    const Tensor shifted({outputs()}, dtype, w_.device());
    kernels(w_.device()).linear_scale(x_scale_, x_offset_, w_, w_scale_, bias_, scale, shifted);
    return {scale, shifted};
}

Tensor LinearProduct::forward(const Tensor& x) const {
    const Tensor rows = as_rows(x);
    const DType dtype = float_dtype(x);
    const Tensor y({rows.shape()[0], outputs()}, dtype, x.device());
    const auto& kernel = kernels(y.device());
    if (integer()) {
        const auto [scale, shifted] = scale_and_bias(dtype);
        kernel.linear_codes(rows, packed_, scale, shifted, false, {}, y);
        return y;
    }
    const bool other_dtype = bias_.defined() && bias_.dtype() != dtype;
    if (!x_scale_.defined() && !w_scale_.defined() && !other_dtype) {
        kernel.linear(rows.to(dtype), w_, {}, bias_, y);
        return y;
    }
    const auto [scale, shifted] = scale_and_bias(dtype);
    kernel.linear(rows.to(dtype), w_, scale, shifted, y);
    return y;
}

Tensor LinearProduct::forward_gelu(const Tensor& x, const engine::QuantParams& quantizer) const {
    const Tensor rows = as_rows(x);
    const Tensor q({rows.shape()[0], outputs()}, code_dtype(quantizer, DType::f32, x.device()), x.device());
    const auto [scale, shifted] = scale_and_bias(DType::f32);
    kernels(q.device()).linear_codes(rows, packed_, scale, shifted, true, quantizer, q);
    return q;
}

Tensor LinearProduct::input_gradient(const Tensor& dy) const {
    const Tensor dx({dy.shape()[0], inputs()}, dy.dtype(), dy.device());
    kernels(dy.device()).linear_backward_input(dy, w_, w_scale_, dx);
    return dx;
}

Tensor LinearProduct::weight_gradient(const Tensor& dy, const Tensor& x, const Tensor& dbias) const {
    const auto& kernel = kernels(dy.device());
    const Tensor dw({outputs(), inputs()}, master_of(dy.dtype()), dy.device());
    kernel.linear_backward_weight(dy, as_rows(x), x_scale_, dw);
    if (x_offset_.defined())
        kernel.accumulate_outer(dbias, x_offset_, dw);  // the offset's part: offset sum_r dy_ro
    return dw;
}

Tensor LinearProduct::bias_gradient(const Tensor& dy) const {
    const Tensor dbias({outputs()}, master_of(dy.dtype()), dy.device());
    kernels(dy.device()).sum_rows(dy, dbias);
    return dbias;
}

Variable linear(const Quantized& x, const Quantized& w, const Variable& bias) {
    const LinearProduct product(x, w, bias);
    std::vector<int64_t> sizes = x.q.shape().vec();
    sizes.back() = product.outputs();
    const Tensor y = product.forward(x.q.value()).reshape(Shape(sizes));
    return record("linear", y, {x.q, w.q, bias},
                  [product, codes = Saved(x), x_shape = x.q.shape()](const Tensor& dy, Gradients& dx) {
                      const Tensor rows = as_rows(dy);
                      const bool biased = dx.wanted(2) || (dx.wanted(1) && product.needs_bias_gradient());
                      const Tensor dbias = biased ? product.bias_gradient(rows) : Tensor();
                      if (dx.wanted(0)) dx.set(0, product.input_gradient(rows).reshape(x_shape));
                      if (dx.wanted(1)) dx.set(1, product.weight_gradient(rows, codes.get(), dbias));
                      if (dx.wanted(2)) dx.set(2, dbias);
                  });
}

}  // namespace vvtq::autograd
