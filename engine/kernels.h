// kernels: every computation the program knows, one field each, with shapes and equation. A device fills the
// table with its own functions.
//
// Conventions. Inputs first, preallocated outputs last and overwritten; only `accumulate_*` adds to its
// output. Activations of one call share one dtype T: f32 or f64 on the CPU, f32 or bf16 on CUDA. Parameters
// (gamma, beta, bias, alpha, token, p of add_broadcast), their gradients, and what belongs to them (g, mean,
// rstd, keep, losses, scales) have the master dtype M: f64 where T is f64, else f32 (master_of in dtype.h).
// Sums are taken in f32 (f64 for f64) in an order that depends on the shape alone: the same bits run after
// run, for any number of threads. A tensor marked `?` may be undefined, which means "none". Shapes are
// checked at entry: Error(Fault::internal). No kernel waits for its device.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/kernel_types.h"

namespace vvtq::engine {

/// A kernel's argument, input or output: the handle is const, the memory of an output is written.
using Arg = const Tensor&;

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

/// "void(Arg x, Arg y)" of an entry.
template <typename T>
struct SignatureOf;
template <typename Signature>
struct SignatureOf<Entry<Signature>> {
    using type = Signature;
};

struct Kernels {
    // --- memory
    Entry<void(double value, Arg y)> fill;  // y = value
    Entry<void(Arg x, Arg y)> copy;         // y = x, same dtype and numel
    Entry<void(Arg x, Arg y)> cast;         // y = x converted to y's dtype, which is floating

    // --- elementwise
    Entry<void(Arg a, Arg b, Arg y)> add;            // y = a + b
    Entry<void(Arg x, Arg y)> accumulate_add;        // y += x
    Entry<void(Arg x, double s, Arg y)> scale;       // y = s x
    Entry<void(Arg x, Arg s, Arg y)> scale_by;       // y = s x, s (1) of M
    Entry<void(Arg x, Arg p, Arg y)> add_broadcast;  // x (R, C) + p (C), p repeated; R = numel x / numel p
    Entry<void(Arg x, Arg f, Arg keep, Arg y)> residual;  // y_b = x_b + keep_b f_b; keep (B)?, x (B, ...)
    Entry<void(Arg x, Arg s, Arg y)> scale_samples;       // y_b = s_b x_b, s (B) of M, x (B, ...)
    // z (R, W), y (R, C) = s t z[:, first .. first + C] + bias; s, t (1)?, bias (C)?
    Entry<void(Arg z, int64_t first, Arg s, Arg t, Arg bias, Arg y)> take_columns;
    Entry<void(Arg x, Arg s, int64_t first, Arg z)>
        put_columns;  // z[:, first .. first + C] = s x, s (1)?; the rest stays
    // x, y (R, C) of M, rows in as many equal parts as there are scales, each (1)?: y = x / scale of its part
    Entry<void(Arg x, const std::vector<Tensor>& scales, Arg y)> divide_parts;
    Entry<void(Arg u, Arg s, Arg y)> accumulate_outer;  // y (N, K) += s u (N), all of M; s (1)
    Entry<void(Arg x, Arg y)> gelu;                    // y = x Phi(x), Phi the normal distribution (erf form)
    Entry<void(Arg dy, Arg x, Arg dx)> gelu_backward;  // dx = dy (Phi(x) + x phi(x))

    // --- reductions
    Entry<void(Arg x, Arg y)> sum_rows;     // x (R, C), y (C) of M: y_c = sum_r x_rc; R = numel x / numel y
    Entry<void(Arg x, Arg y)> sum;          // y (1) of M = sum x
    Entry<void(Arg x, Arg y)> sum_abs;      // y (1) f64 = sum |x|
    Entry<void(Arg x, Arg y)> sum_squares;  // y (1) f64 = sum x^2
    Entry<void(Arg x, Arg y)> count_not_finite;  // y (1) i64

    // --- normalization; rows are the last dimension
    // mean, rstd (R) of M: y = (x - mean) rstd gamma + beta, rstd = 1 / sqrt(var + eps), var with n
    Entry<void(Arg x, Arg gamma, Arg beta, double eps, Arg y, Arg mean, Arg rstd)> layer_norm;
    Entry<void(Arg x, Arg mean, Arg rstd, Arg gamma, Arg beta, Arg y)>
        layer_norm_apply;  // y again, from mean and rstd
    Entry<void(Arg dy, Arg x, Arg gamma, Arg mean, Arg rstd, Arg dx, Arg dgamma, Arg dbeta)>
        layer_norm_backward;
    Entry<void(Arg x, double s, Arg y)> softmax;  // y = softmax(s x) over the last dimension
    Entry<void(Arg dy, Arg y, double s, Arg dx)> softmax_backward;  // dx = s y (dy - sum dy y)
    // x (B, H, N, N), bias (H, N, N)?, mask (W, N, N)? of M: y = softmax(s x + bias_h + mask_(b mod W)) over
    // the last dimension
    Entry<void(Arg x, double s, Arg bias, Arg mask, Arg y)> biased_softmax;
    // x (R, C); mean and variance (C) of M over the rows, variance with R
    Entry<void(Arg x, Arg mean, Arg variance)> column_moments;
    // r = (1 - momentum) r + momentum m for both, in columns where both are finite; variance with rows - 1;
    // count (1) += 1. All of M
    Entry<void(Arg mean, Arg variance, int64_t rows, double momentum, Arg running_mean, Arg running_variance,
               Arg count)>
        update_running_stats;
    // x (R, C): y = max(0, n), n = (x - mean) / sqrt(variance + eps) gamma + beta
    Entry<void(Arg x, Arg mean, Arg variance, Arg gamma, Arg beta, double eps, Arg y)> batch_norm_relu;
    // dn = dy where n > 0; dgamma (C) = sum_r dn xhat, dbeta (C) = sum_r dn, xhat = (x - mean) /
    // sqrt(variance
    // + eps)
    Entry<void(Arg dy, Arg x, Arg mean, Arg variance, Arg gamma, Arg beta, double eps, Arg dgamma, Arg dbeta)>
        batch_norm_relu_sums;
    // dx = gamma / sqrt(variance + eps) (dn - share (dbeta + xhat dgamma)); share: 1 / rows of the whole
    // batch, of which dgamma and dbeta are the sums; 0 where mean and variance are constants
    Entry<void(Arg dy, Arg x, Arg mean, Arg variance, Arg gamma, Arg beta, double eps, Arg dgamma, Arg dbeta,
               double share, Arg dx)>
        batch_norm_relu_backward;
    // parts (W, 2, C) of M: mean and variance of W parts with as many rows each -> those of all rows: mean =
    // avg_w mean_w, variance = avg_w (variance_w + (mean_w - mean)^2), added in the order of w
    Entry<void(Arg parts, Arg mean, Arg variance)> merge_moments;
    // z, p (B, K), all of M: loss (1) = -1/B sum p . log_softmax(z);  dz (B, K) = (softmax(z) sum_k p - p) /
    // B
    Entry<void(Arg z, Arg p, Arg loss, Arg dz)> soft_cross_entropy;
    // labels (B) i32 -> p (B, K) of M: 1 - s + s/K at the label, s/K elsewhere
    Entry<void(Arg labels, double s, Arg p)> smooth_targets;
    // z (B, K) of M, labels (B) i32 -> counts (2) i64: rows whose label is the largest, and among the 5 (or
    // K) largest logits; ties go to the lower index; NaN in a row counts as not found
    Entry<void(Arg z, Arg labels, Arg counts)> count_top;

    // --- products
    // scale (1)? of M multiplies products of codes
    // x (R, K), w (N, K) of T, y (R, N) of T or M, bias (N)? of y's dtype: y = scale x w^T + bias
    Entry<void(Arg x, Arg w, Arg scale, Arg bias, Arg y)> linear;
    Entry<void(Arg dy, Arg w, Arg scale, Arg dx)>
        linear_backward_input;  // dx (R, K) = scale dy (R, N) . w (N, K)
    Entry<void(Arg dy, Arg x, Arg scale, Arg dw)> linear_backward_weight;  // dw (N, K) of M = scale dy^T . x
    // of a layer on codes x and w (N, K): scale (1) = a_x a_w; shifted (N) of T = bias + o a_w sum_k w_nk.
    // Steps that are undefined count as 1, an offset or a bias as 0
    Entry<void(Arg x_scale, Arg x_offset, Arg w, Arg w_scale, Arg bias, Arg scale, Arg shifted)> linear_scale;
    Entry<void(const BatchedShape& shape, Arg a, Arg b, Arg y)> batched_matmul;

    // --- pictures and tokens
    // x (B, 3, S, S) u8 -> y = (x / 255 - mean_c) / std_c
    Entry<void(Arg x, const std::array<double, 3>& mean, const std::array<double, 3>& std, Arg y)>
        normalize_pixels;
    // x (B, C, H, W) -> y (B, N, C P P), N = (H/P)(W/P) in row order, a patch as (C, P, P); H, W divisible by
    // P
    Entry<void(Arg x, int64_t patch, Arg y)> patchify;
    Entry<void(Arg y, int64_t patch, Arg x)> unpatchify;     // the inverse
    Entry<void(Arg token, Arg x, Arg y)> prepend_token;      // token (C), x (B, N, C), y (B, N+1, C)
    Entry<void(Arg x, Arg y)> drop_first_token;              // x (B, N+1, C), y (B, N, C)
    Entry<void(Arg x, int64_t index, Arg y)> select_token;   // x (B, N, C), y (B, C)
    Entry<void(Arg x, int64_t index, Arg y)> scatter_token;  // x (B, C), y (B, N, C) zero elsewhere

    // y[b, n] = x[b, index[n]]; x (B, N, C), index (N) i32 a permutation
    Entry<void(Arg x, Arg index, Arg y)> gather_tokens;
    // key (1) i64 -> index (N) i32: the order of Random(mix_key({key, salt, n})).uniform(), equal ones by n;
    // inverse (N) i32
    Entry<void(Arg key, int64_t salt, Arg index, Arg inverse)> random_permutation;
    Entry<void(Arg x, Arg y)> mean_tokens;   // x (B, N, C), y (B, C) = mean over N
    Entry<void(Arg x, Arg y)> spread_token;  // x (B, C), y (B, N, C) = x / N
    Entry<void(Arg x, Arg y)> transpose;     // x (R, C), y (C, R)
    Entry<void(Arg t, Arg index, Arg y)>
        table_bias;  // t (E, H), index (I) i32, y (H, I) = t[index_i, h]; all of M
    Entry<void(Arg dy, Arg index, Arg dt)> table_bias_backward;  // dt (E, H) = sum of dy where index = e
    // y = k1 x + keep_b k2 f; x, f (B, ...), k1, k2 (1) of M, keep (B)?
    Entry<void(Arg x, Arg f, Arg keep, Arg k1, Arg k2, Arg y)> weighted_sum;
    Entry<void(Arg dy, Arg x, Arg f, Arg keep, Arg k1, Arg k2, Arg dx, Arg df, Arg dk1, Arg dk2)>
        weighted_sum_backward;
    // pictures x -> u (B, positions, 9 C), a window as (3, 3, C), 0 outside of the picture
    Entry<void(Arg x, const Convolution& shape, Arg u)> unfold;
    Entry<void(Arg u, const Convolution& shape, Arg x)> fold;  // the transpose of unfold
    // one group for each input channel; x channels last, w (O, 9) of T, output o from channel o C / O:
    // y (B, positions, O) = scale conv(x, w) + bias; scale (1)? of M, bias (O)? of T
    Entry<void(Arg x, const Convolution& shape, Arg w, Arg scale, Arg bias, Arg y)> grouped_convolution;
    Entry<void(Arg dy, const Convolution& shape, Arg w, Arg scale, Arg dx)>
        grouped_convolution_backward_input;
    // dw (O, 9) of M
    Entry<void(Arg dy, const Convolution& shape, Arg x, Arg scale, Arg dw)>
        grouped_convolution_backward_weight;

    // --- quantizers (specification section 1): a = max(alpha, 1e-4); v = (x - o) / a; q = round(clamp(v))
    Entry<void(Arg x, const QuantParams& quantizer, Arg y)> lsq;  // y = q a + o
    // in = (Qn <= v <= Qp): dx = dy in; dscale (G) = g sum dy (q - in v); doffset (G)? = sum dy (1 - in)
    Entry<void(Arg dy, Arg x, const QuantParams& quantizer, Arg dx, Arg dscale, Arg doffset)> lsq_backward;
    // q in its own dtype: any floating one, i32, or on the CPU i8 or u8, which must hold all codes
    Entry<void(Arg x, const QuantParams& quantizer, Arg q)> lsq_codes;
    // scale = max(scale, 1e-4) where finite, in place, of each
    Entry<void(const std::vector<Tensor>& scales)> clamp_steps;
    // g (1) = 1 / sqrt(sum |w| / G Qp), w of M
    Entry<void(Arg w, const QuantParams& quantizer, Arg g)> lsq_weight_grad_scale;
    // q taken at step a and offset o: sums (3) f64 = {sum (x - o) q, sum q q, sum (x - a q)}
    Entry<void(Arg x, double a, double o, CodeRange range, Arg sums)> lsq_fit_sums;
    // x (B, R, D); s (B) is the mean over R and D, s (B, D) the mean over R, of |x|
    Entry<void(Arg x, Arg s)> binary_scale;
    Entry<void(Arg x, Arg s, Arg y)> binary;             // y = s sign(x), sign(0) = 0
    Entry<void(Arg dy, Arg x, Arg dx)> binary_backward;  // dx = dy where |x| <= 1

    // --- fused passes; engine/composed.h builds each from the kernels above
    // y = x + keep f (y? and f? together; keep (B)?); n = layer_norm(y); q = codes of n, n itself without a
    // quantizer
    Entry<void(Arg x, Arg f, Arg keep, Arg gamma, Arg beta, double eps, const QuantParams& quantizer, Arg y,
               Arg q, Arg mean, Arg rstd)>
        residual_norm;
    // dq is the gradient of a q; y as stored. dx = dy? + layer_norm'(dq in(n)); df? = keep dx (given where
    // keep is); dscale? (1) = g sum dq (q - in v)
    Entry<void(Arg dq, Arg dy, Arg y, Arg keep, Arg gamma, Arg beta, Arg mean, Arg rstd,
               const QuantParams& quantizer, Arg dx, Arg df, Arg dgamma, Arg dbeta, Arg dscale)>
        residual_norm_backward;
    // z (R, C), h = gelu(z); q = codes of h, h itself without a quantizer
    Entry<void(Arg z, const QuantParams& quantizer, Arg q)> gelu_quantize;
    // dq is the gradient of a q + o. dz = dq in(h) gelu'(z); q again; dscale?, doffset? (1);
    // dbias (C) = sum_r dz_rc
    Entry<void(Arg dq, Arg z, const QuantParams& quantizer, Arg dz, Arg q, Arg dscale, Arg doffset,
               Arg dbias)>
        gelu_quantize_backward;
    // y_t = quantize(a_x a_t z_t + bias_t) for t = q, k, v; p = quantize(softmax(scale y_q y_k^T
    // + score_bias + mask)) per group and head; o (B, N, C) = p y_v; codes? like o: those of the output
    // quantizer; softmax (B groups, H, n, 2)? of M: what attention_backward needs to find the same p
    Entry<void(Arg z, const AttentionProblem& problem, Arg o, Arg codes, Arg softmax)> attention;
    // dy is the gradient of the quantized output. dz_t = a_t times the gradient of a_x a_t z_t + bias_t;
    // dbias (3C) = column sums of that gradient; dscales (5): of AttentionProblem::quantizers(), 0 without a
    // quantizer; dscore_bias (H, n, n)? of M, where the problem has one
    Entry<void(Arg dy, Arg z, const AttentionProblem& problem, Arg o, Arg softmax, Arg dz, Arg dbias,
               Arg dscales, Arg dscore_bias)>
        attention_backward;
    // all weights of a model at once
    Entry<void(const std::vector<WeightItem>& items)> quantize_weights;
    // dw = dy in(w) + dreg d reg / dw; dscale likewise; dreg (1)?: the gradient of the sum of all `reg`
    Entry<void(const std::vector<WeightGradientItem>& items, Arg dreg)> quantize_weights_backward;

    // --- integer codes, on the CPU alone: x, w and the codes in y are i8 or u8, what is not code is f32
    // packed: w (N, K) i8 as products take it, of packed_bytes(N, K) i8; made once for many products
    Entry<void(Arg w, Arg packed)> pack_codes;
    // x (R, K), packed (N, K): y (R, N) = scale x w^T + bias, or with a quantizer the codes of that or of its
    // GELU; scale (1)?, bias (N)?
    Entry<void(Arg x, Arg packed, Arg scale, Arg bias, bool gelu, const QuantParams& quantizer, Arg y)>
        linear_codes;
    // x (B, N, C), packed (3C, C) of q, k, v, whose z = x w^T are those of `attention`; y like x: the codes
    // of the output, or the output itself without its quantizer. q, k, v and p have quantizers; codes of q, k
    // and v fit i8
    Entry<void(Arg x, Arg packed, const AttentionProblem& problem, Arg y)> attention_codes;

    // --- training
    // key (1) i64, rates (R) f64 -> keep (R, B): 0 with probability rate_r, else 1 / (1 - rate_r); element
    // (r, b) from Random(mix_key({key, r, place_b})).uniform() < rate_r; places (B)? i32: the numbers of the
    // samples in the global batch, without: 0 .. B - 1
    Entry<void(Arg key, Arg rates, Arg places, Arg keep)> stochastic_depth;
    // flat[begin + i] = scale part[i] of every item; the rest of flat stays. flat of M, or bf16 (parts then
    // f32)
    Entry<void(const std::vector<PackItem>& items, double scale, Arg flat)> pack;
    // parts (S, n), y (n), both f32 or both f64, on CUDA as well: y = scale (((p_0 + p_1) + p_2) + ...); y
    // may be a row of parts
    Entry<void(Arg parts, double scale, Arg y)> sum_parts;
    // schedule (4) f64: learning rate, 1 - beta1^step, 1 - beta2^step, gradient scale. Sets the last one to
    // min(1, most / norm), norm the l2 norm of all gradients; most 0: no limit. Where the norm is not finite
    // it is 1, and bit 2 of found_inf (1) i32 is set unless a bit is set already
    Entry<void(const std::vector<AdamwItem>& items, double most, Arg schedule, Arg found_inf)> clip_gradients;
    // found_inf (1) i32: bit 0 is set where x has values that are not finite
    Entry<void(Arg x, Arg found_inf)> find_not_finite;
    // g = scale g; m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  p *= 1 - lr weight_decay
    // (where decay); p -= lr / (1 - beta1^step) m / (sqrt(v / (1 - beta2^step)) + eps). Nothing changes where
    // found_inf is not 0; its bit 1 is set where a p of one element (a step, an offset) is not finite
    // afterwards
    Entry<void(const std::vector<AdamwItem>& items, const AdamwRates& rates, Arg schedule, Arg found_inf)>
        adamw;

    // q = round(clamp(w / a)); m = momentum. d is the sign of q - code, 0 where mark is unseen. The code
    // oscillates where d is not 0 and opposite to mark. f = (1 - m) f + m [oscillates]; mean += m (q - mean),
    // q itself where unseen; mark = d where d is not 0, none instead of unseen; code = q. threshold (1)? f32,
    // with mean: where f > threshold, mark = frozen and code = round(mean). A frozen weight keeps its code,
    // oscillates no more, and w = a code, by at most 2 units in the last place nearer to 0 so that it is not
    // clipped. NaN keeps its code. Nothing changes where found_inf (1) i32 is not 0
    Entry<void(const std::vector<CodeTrackItem>& items, double momentum, Arg threshold, Arg found_inf)>
        track_codes;
    // gradient = 0 where mark is frozen
    Entry<void(const std::vector<FrozenItem>& items)> clear_frozen;

    // --- what suits the device
    bool recompute;     // backward computes codes anew instead of keeping them
    int64_t row_bytes;  // products are fast where rows of activations are a multiple of this
};

/// The table of a device. Throws Error(Fault::input) where this build or machine has no such device.
const Kernels& kernels(Device device);

}  // namespace vvtq::engine
