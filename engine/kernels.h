// kernels: every computation the program knows, one field each, with shapes and equation. A device fills the
// table with its own functions.
//
// Conventions. Inputs first, preallocated outputs last and overwritten; only `accumulate_*` adds to its
// output. Floating tensors of one call share one dtype unless said otherwise. Sums are taken in f32 (f64 for
// f64) over chunks that depend on the shape alone, so results do not depend on the number of threads. A
// tensor marked
// `?` may be undefined, which means "none". Shapes are checked at entry: Error(Fault::internal).
#pragma once

#include <cstdint>
#include <vector>

#include "engine/tensor.h"

namespace vvtq::engine {

/// The integers a quantizer maps to: Qn <= q <= Qp.
struct CodeRange {
    int low;   // Qn
    int high;  // Qp
    /// b-bit two's complement: -2^(b-1) .. 2^(b-1) - 1.
    static CodeRange signed_bits(int bits) { return {-(1 << (bits - 1)), (1 << (bits - 1)) - 1}; }
    /// 0 .. 2^b - 1.
    static CodeRange unsigned_bits(int bits) { return {0, (1 << bits) - 1}; }
    int count() const { return high - low + 1; }
};

/// A quantizer's step is raised to this before use (specification section 1).
inline constexpr double kLeastStep = 1e-4;

/// Where the matrices of a batched product lie in a tensor: matrix (i, j) starts at i * outer + j * inner and
/// has rows of stride `ld`; `transposed` swaps its two dimensions. All in elements.
struct MatrixLayout {
    int64_t outer;
    int64_t inner;
    int64_t ld;
    bool transposed = false;
};

/// y[i,j] (m, n) = a[i,j] (m, k) . b[i,j] (k, n) for i < outer, j < inner; (m, k) and so on are the sizes
/// after transposition; y is never transposed.
struct BatchedShape {
    int64_t outer, inner, m, n, k;
    MatrixLayout a, b, y;
};

/// One parameter of the optimizer: value p, gradient g, moments m and v, all of one shape.
struct AdamwItem {
    Tensor p, g, m, v;
    bool decay;  // whether weight decay applies
};

/// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  p *= 1 - lr weight_decay (where decay);
/// p -= lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)
struct AdamwStep {
    double lr, beta1, beta2, eps, weight_decay;
    int64_t step;       // counted from 1
    double grad_scale;  // gradients are multiplied by this first (clipping); 1 for none
};

/// A kernel's entry in the table. It cannot be left out: a table without it does not compile.
template <typename Signature>
struct Entry;
template <typename... Args>
struct Entry<void(Args...)> {
    Entry() = delete;
    constexpr Entry(void (*function)(Args...)) : call(function) {}  // implicit, so that tables read plainly
    void operator()(Args... args) const { call(args...); }
    void (*call)(Args...);
};

struct Kernels {
    using T = const Tensor&;  // inputs, and outputs: the handle is const, the memory is written

    // --- memory
    Entry<void(double value, T y)> fill;  // y = value
    Entry<void(T x, T y)> copy;           // y = x, same dtype and numel
    Entry<void(T x, T y)> cast;           // y = x converted to y's dtype (f32, f64, u8, i32, i64 -> f32, f64)

    // --- elementwise
    Entry<void(T a, T b, T y)> add;               // y = a + b
    Entry<void(T x, T y)> accumulate_add;         // y += x
    Entry<void(T x, double s, T y)> scale;        // y = s x
    Entry<void(T x, T s, T y)> scale_by;          // y = s x, s (1)
    Entry<void(T x, T p, T y)> add_broadcast;     // x (R, C) + p (C), p repeated; R = numel x / numel p
    Entry<void(T x, T f, T keep, T y)> residual;  // y_b = x_b + keep_b f_b; keep (B)?, x (B, ...)
    Entry<void(T x, T s, T y)> scale_samples;     // y_b = s_b x_b, s (B), x (B, ...)
    Entry<void(T x, T y)> gelu;                   // y = x Phi(x), Phi the normal distribution (erf form)
    Entry<void(T dy, T x, T dx)> gelu_backward;   // dx = dy (Phi(x) + x phi(x))

    // --- reductions
    Entry<void(T x, T y)> sum_rows;          // x (R, C), y (C): y_c = sum_r x_rc; R = numel x / numel y
    Entry<void(T x, T y)> sum;               // y (1) = sum x
    Entry<void(T x, T y)> sum_abs;           // y (1) f64 = sum |x|
    Entry<void(T x, T y)> sum_squares;       // y (1) f64 = sum x^2
    Entry<void(T x, T y)> count_not_finite;  // y (1) i64

    // --- normalization; rows are the last dimension
    // mean, rstd (R): y = (x - mean) rstd gamma + beta, rstd = 1 / sqrt(var + eps), var with n
    Entry<void(T x, T gamma, T beta, double eps, T y, T mean, T rstd)> layer_norm;
    Entry<void(T dy, T x, T gamma, T mean, T rstd, T dx, T dgamma, T dbeta)> layer_norm_backward;
    Entry<void(T x, double s, T y)> softmax;                  // y = softmax(s x) over the last dimension
    Entry<void(T dy, T y, double s, T dx)> softmax_backward;  // dx = s y (dy - sum dy y)
    // z, p (B, K): loss (1) = -1/B sum p . log_softmax(z);  dz (B, K) = (softmax(z) sum_k p - p) / B
    Entry<void(T z, T p, T loss, T dz)> soft_cross_entropy;

    // --- products
    // x (M, K), w (N, K), bias (N)?, y (M, N): y = x w^T + bias
    Entry<void(T x, T w, T bias, T y)> linear;
    Entry<void(T dy, T w, T dx)> linear_backward_input;   // dx (M, K) = dy (M, N) . w (N, K)
    Entry<void(T dy, T x, T dw)> linear_backward_weight;  // dw (N, K) = dy^T . x
    Entry<void(const BatchedShape& shape, T a, T b, T y)> batched_matmul;

    // --- tokens
    // x (B, C, H, W) -> y (B, N, C P P), N = (H/P)(W/P) in row order, a patch as (C, P, P); H, W divisible by
    // P
    Entry<void(T x, int64_t patch, T y)> patchify;
    Entry<void(T y, int64_t patch, T x)> unpatchify;     // the inverse
    Entry<void(T token, T x, T y)> prepend_token;        // token (C), x (B, N, C), y (B, N+1, C)
    Entry<void(T x, T y)> drop_first_token;              // x (B, N+1, C), y (B, N, C)
    Entry<void(T x, int64_t index, T y)> select_token;   // x (B, N, C), y (B, C)
    Entry<void(T x, int64_t index, T y)> scatter_token;  // x (B, C), y (B, N, C) zero elsewhere

    // --- quantizers (specification section 1): a = max(alpha, 1e-4); v = (x - o) / a; q = round(clamp(v))
    // alpha (1), beta (1)?: y = q a + o
    Entry<void(T x, T alpha, T beta, CodeRange range, T y)> lsq;
    // in = (Qn <= v <= Qp): dx = dy in; dalpha (1) = g sum dy (q - in v); dbeta (1)? = sum dy (1 - in); g (1)
    Entry<void(T dy, T x, T alpha, T beta, CodeRange range, T g, T dx, T dalpha, T dbeta)> lsq_backward;
    // q as i32, for inspection
    Entry<void(T x, T alpha, T beta, CodeRange range, T q)> lsq_codes;
    // g (1) = 1 / sqrt(sum |w| Qp)
    Entry<void(T w, CodeRange range, T g)> lsq_weight_grad_scale;
    // q taken at step a and offset o: sums (3) f64 = {sum (x - o) q, sum q q, sum (x - a q)}
    Entry<void(T x, double a, double o, CodeRange range, T sums)> lsq_fit_sums;
    // x (B, R, D); s (B) is the mean over R and D, s (B, D) the mean over R, of |x|
    Entry<void(T x, T s)> binary_scale;
    Entry<void(T x, T s, T y)> binary;             // y = s sign(x), sign(0) = 0
    Entry<void(T dy, T x, T dx)> binary_backward;  // dx = dy where |x| <= 1
    // specification section 5, of one weight: loss (1); stats (bins, 3) f64, of d = u - y in
    // each bin: {count, mean, sum (d - mean)^2}; within a bin u and d differ by a constant
    Entry<void(T w, T alpha, CodeRange range, T loss, T stats)> bin_regularizer;
    // dy (1); dw like w; dalpha (1) through clipped weights, times g (1)
    Entry<void(T dy, T w, T alpha, CodeRange range, T stats, T g, T dw, T dalpha)> bin_regularizer_backward;

    // --- optimizer
    Entry<void(const std::vector<AdamwItem>& items, const AdamwStep& step)> adamw;
};

/// The table of a device. Throws Error(Fault::input) where this build or machine has no such device.
const Kernels& kernels(Device device);

}  // namespace vvtq::engine
