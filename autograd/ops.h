// ops: every differentiable operation. Each has a row in tests/op_cases.
//
// Shapes as in engine/kernels.h. Constants are Tensors, differentiable inputs are Variables.
#pragma once

#include <cstdint>

#include "autograd/variable.h"
#include "engine/kernels.h"

namespace vvtq::autograd {

// --- ops_basic.cpp
/// y = a + b, same shapes.
Variable add(const Variable& a, const Variable& b);
/// y = s x.
Variable scale(const Variable& x, double s);
/// y (1) = sum x.
Variable sum(const Variable& x);
Variable reshape(const Variable& x, const engine::Shape& shape);
/// y = x + p, p repeated over the leading dimensions of x: position embeddings. x (..., shape of p).
Variable add_broadcast(const Variable& x, const Variable& p);
/// y_b = x_b + keep_b f_b: a residual branch under stochastic depth. keep (B), undefined for all ones.
Variable residual(const Variable& x, const Variable& f, const Tensor& keep = {});
/// y = x Phi(x), erf form.
Variable gelu(const Variable& x);

// --- ops_norm.cpp
Variable layer_norm(const Variable& x, const Variable& gamma, const Variable& beta, double eps);
/// y = softmax(s x) over the last dimension.
Variable softmax(const Variable& x, double s = 1.0);
/// loss (1) = -1/B sum p . log_softmax(z), z and p (B, K). p is a constant.
Variable soft_cross_entropy(const Variable& z, const Tensor& p);

// --- ops_matmul.cpp
/// y (..., O) = x (..., C) w^T + bias; w (O, C), bias (O) or undefined.
Variable linear(const Variable& x, const Variable& w, const Variable& bias);
/// s (B, H, N, N) = q k^T per head; q, k (B, N, H D), head h at columns hD..(h+1)D. Unscaled.
Variable attention_scores(const Variable& q, const Variable& k, int64_t heads);
/// y (B, N, H D) = p v per head; p (B, H, N, N), v (B, N, H D).
Variable attention_mix(const Variable& p, const Variable& v);

// --- ops_tokens.cpp
/// x (B, C, H, W) -> (B, N, C P P), patches in row order.
Variable patchify(const Variable& x, int64_t patch);
/// token (1, 1, C) before x (B, N, C) -> (B, N+1, C).
Variable prepend_token(const Variable& token, const Variable& x);
/// x (B, N, C) -> (B, C).
Variable select_token(const Variable& x, int64_t index);

// --- ops_quant.cpp, specification sections 1 and 5
/// y = q a + o with straight-through gradients; alpha (1), beta (1) or undefined, g (1) the gradient scale.
Variable lsq(const Variable& x, const Variable& alpha, const Variable& beta, engine::CodeRange range,
             const Tensor& g);
/// y = s sign(x), dx = dy where |x| <= 1. x (B, R, D) with s (B) or (B, D), the mean of |x|.
Variable binary(const Variable& x, const engine::Shape& scale_shape);
/// mean((y - u)^2) + sum over bins of var(u in bin), of one weight. Gradient to alpha through clipped
/// weights, times g.
Variable bin_regularizer(const Variable& w, const Variable& alpha, engine::CodeRange range, const Tensor& g);

}  // namespace vvtq::autograd
