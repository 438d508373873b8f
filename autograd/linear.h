// linear: the products of linear layers on codes, shared by ops_linear.cpp and ops_block.cpp.
#pragma once

#include "autograd/integer_codes.h"

namespace vvtq::autograd {

/// A product's operand as its backward needs it: saved codes, or how to recompute them.
class Saved {
  public:
    explicit Saved(const Quantized& x) : recompute_(x.recompute) {
        if (!recompute_) q_ = x.q.value();
    }
    Tensor get() const { return recompute_ ? recompute_() : q_; }

  private:
    std::function<Tensor()> recompute_;
    Tensor q_;
};

/// A linear layer's forward product and its gradients, on tensors.
class LinearProduct {
  public:
    /// Throws Error(Fault::internal) where the shapes do not fit.
    LinearProduct(const Quantized& x, const Quantized& w, const Variable& bias);

    /// y (R, O) from codes x (R, K): of x's dtype, of f32 where x is integer.
    Tensor forward(const Tensor& x) const;
    /// The codes (R, O) of gelu(y) from integer codes x.
    Tensor forward_gelu(const Tensor& x, const engine::QuantParams& quantizer) const;
    /// Whether x and w are integer.
    bool integer() const { return packed_.defined(); }
    /// Gradient of x (R, K) from dy (R, O).
    Tensor input_gradient(const Tensor& dy) const;
    /// Gradient of w (O, K), of master dtype, from dy and the codes x; dbias (O) where x has an offset.
    Tensor weight_gradient(const Tensor& dy, const Tensor& x, const Tensor& dbias) const;
    /// Gradient of the bias (O): column sums of dy.
    Tensor bias_gradient(const Tensor& dy) const;

    bool needs_bias_gradient() const { return x_offset_.defined(); }
    engine::Device device() const { return w_.device(); }
    int64_t outputs() const { return w_.shape()[0]; }
    int64_t inputs() const { return w_.shape()[1]; }

  private:
    /// Factor and bias of the sums.
    std::pair<Tensor, Tensor> scale_and_bias(engine::DType dtype) const;

    Tensor w_;       // codes of x's dtype, i8 where x is integer
    Tensor packed_;  // of these
    Tensor w_scale_, x_scale_, x_offset_, bias_;
};

/// (..., C) as (R, C).
Tensor as_rows(const Tensor& x);

}  // namespace vvtq::autograd
