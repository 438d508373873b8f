// ops: every differentiable operation. Each has a row in tests/op_cases.
//
// Shapes as in engine/kernels.h. Constants are Tensors, differentiable inputs are Variables.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "autograd/variable.h"
#include "engine/kernels.h"

namespace vvtq::engine {
class Communicator;
}

namespace vvtq::autograd {

/// The parameters of an LSQ quantizer as an op takes them (engine::QuantParams). Without scale there is no
/// quantizer.
struct QuantParams {
    Variable scale;     // (G): alpha
    Variable offset;    // (G) or undefined: beta
    Tensor range;       // (2) i32: Qn, Qp
    Tensor grad_scale;  // (1) g; undefined for a weight that `quantize_weights` takes, which computes it
    int64_t inner = 1;  // of G > 1
    engine::QuantParams values() const;
};

/// A tensor as a product takes it: y = scale q + offset with codes q; without scale y = q. The gradient of
/// `q` is that of y, straight through.
struct Quantized {
    Quantized(Variable values) : q(std::move(values)) {}  // implicit: a tensor that is not quantized
    Variable q;
    Tensor scale, offset;               // (1)
    std::function<Tensor()> recompute;  // where set, backward computes q again with it instead of saving q
    Tensor packed;  // of a weight's integer codes: their layout for products; may be undefined
};

// --- ops_basic.cpp
/// y = a + b, same shapes.
Variable add(const Variable& a, const Variable& b);
/// y = s x.
Variable scale(const Variable& x, double s);
/// y = s x, s (1) a constant of master dtype that lies on x's device.
Variable scale_by(const Variable& x, const Tensor& s);
/// y (1) = sum x.
Variable sum(const Variable& x);
Variable reshape(const Variable& x, const engine::Shape& shape);
/// y = x + p, p repeated over the leading dimensions of x: position embeddings. x (..., shape of p).
Variable add_broadcast(const Variable& x, const Variable& p);
/// y_b = x_b + keep_b f_b: a residual branch under stochastic depth. keep (B), undefined for all ones.
Variable residual(const Variable& x, const Variable& f, const Tensor& keep = {});
/// y = x Phi(x), erf form.
Variable gelu(const Variable& x);
/// y = x in another floating dtype.
Variable cast(const Variable& x, engine::DType dtype);

// --- ops_norm.cpp
Variable layer_norm(const Variable& x, const Variable& gamma, const Variable& beta, double eps);
/// y = softmax(s x) over the last dimension.
Variable softmax(const Variable& x, double s = 1.0);
/// loss (1) = -1/B sum p . log_softmax(z), z and p (B, K). p is a constant.
Variable soft_cross_entropy(const Variable& z, const Tensor& p);

// --- ops_matmul.cpp
/// y (..., O) = x (..., C) w^T + bias of quantized or plain x and w (O, C); bias (O) or undefined. Codes
/// multiply as they are; steps and offset are applied to the sums.
Variable linear(const Quantized& x, const Quantized& w, const Variable& bias);
/// s (B, H, N, N) = q k^T per head; q, k (B, N, H D), head h at columns hD..(h+1)D. Unscaled.
Variable attention_scores(const Variable& q, const Variable& k, int64_t heads);
/// y (B, N, H D) = p v per head; p (B, H, N, N), v (B, N, H D).
Variable attention_apply(const Variable& p, const Variable& v);

// --- ops_tokens.cpp
/// x (B, C, H, W) -> (B, N, C P P), patches in row order.
Variable patchify(const Variable& x, int64_t patch);
/// token (1, 1, C) before x (B, N, C) -> (B, N+1, C).
Variable prepend_token(const Variable& token, const Variable& x);
/// x (B, N, C) -> (B, C).
Variable select_token(const Variable& x, int64_t index);

// --- ops_quant.cpp, specification sections 1 and 5
/// y = q a + o with straight-through gradients, of G >= 1 groups.
Variable lsq(const Variable& x, const QuantParams& quantizer);
/// The codes of `lsq`, for products; G = 1.
Quantized quantize(const Variable& x, const QuantParams& quantizer);
/// y = s sign(x), dx = dy where |x| <= 1. x (B, R, D) with s (B) or (B, D), the mean of |x|.
Variable binary(const Variable& x, const engine::Shape& scale_shape);

/// The codes of one weight or of several below one another, and their layout for integer products, which
/// may be undefined.
struct WeightMatrix {
    Tensor codes;
    Tensor packed = {};
};
struct WeightParameters {
    Variable w;  // (O, ...)
    QuantParams quantizer;
    int64_t bins;                   // codes that the range can have
    bool follows_previous = false;  // its rows lie behind the previous weight's, in one matrix with them
};
struct QuantizedWeights {
    std::vector<Quantized> weights;      // codes (O, K) of activation dtype, or i8 under IntegerCodes
    std::vector<WeightMatrix> matrices;  // (sum O, K): of each weight and those that follow it; one memory
    Variable regularizer;  // (1) sum of the bin regularizer over all weights; undefined where not asked for
    std::vector<Tensor> terms;  // (1) of each weight
};
/// All weights of a model in one pass, each quantized as by `lsq` with g = 1 / sqrt(sum |w| Qp), G = 1; with
/// `regularize` also their bin regularizer, of each mean((y - u)^2) + sum over bins of var(u in bin).
QuantizedWeights quantize_weights(const std::vector<WeightParameters>& weights, engine::DType dtype,
                                  bool regularize);

// --- ops_block.cpp: the passes of a transformer block, each one op
struct NormedResidual {
    Variable y;   // x + keep f; x itself without f
    Quantized n;  // quantized layer_norm(y)
};
/// f and keep (B) may be undefined.
NormedResidual residual_norm(const Variable& x, const Variable& f, const Tensor& keep, const Variable& gamma,
                             const Variable& beta, double eps, const QuantParams& quantizer);
/// y = quantize(gelu(x weight1^T + bias1)) weight2^T + bias2
Variable mlp(const Quantized& x, const Quantized& weight1, const Variable& bias1, const QuantParams& hidden,
             const Quantized& weight2, const Variable& bias2);

/// A projection of attention and the quantizer behind it.
struct Projection {
    Quantized w;  // (C, C)
    Variable bias;
    QuantParams quantizer;  // without offset
};
/// The projections of queries, keys and values.
struct Projections {
    Projection q, k, v;
    WeightMatrix matrix;  // (3C, C) of all three below one another, where they lie so; else they are copied
};
/// An order of N tokens and its inverse, both (N) i32.
struct TokenOrder {
    Tensor index, inverse;
};
/// Which tokens of a sample attend to one another: `count` groups of n = N / count consecutive ones of
/// `order` (none: as they are).
struct TokenGrouping {
    int64_t count = 1;
    TokenOrder order;
};
/// What is added to the scaled scores s q k^T (B W, H, n, n) of W groups before their softmax. Either may be
/// undefined.
struct ScoreTerms {
    Variable bias;  // (H, n, n), to every group
    Tensor mask;    // (W, n, n), to group b at [b mod W]; a constant
};
/// x (B, N, C) -> quantize(quantize(softmax(s q k^T + terms)) v) in each group, head h at columns hD..(h+1)D;
/// q, k, v the quantized projections of x. Keeps no (n, n) matrix where the device has a kernel for that.
Quantized attention(const Quantized& x, const Projections& projections, const QuantParams& probability,
                    const QuantParams& output, int64_t heads, double s, const ScoreTerms& terms = {},
                    const TokenGrouping& groups = {});

// --- ops_stages.cpp: what models with stages need beside
/// y[b, n] = x[b, index[n]], x (B, N, C).
Variable gather_tokens(const Variable& x, const TokenOrder& order);
Quantized gather_tokens(const Quantized& x, const TokenOrder& order);
Quantized reshape(const Quantized& x, const engine::Shape& shape);
/// x (B, N, C) -> its mean over tokens (B, C).
Variable mean_tokens(const Variable& x);
/// x (R, C) -> (C, R).
Variable transpose(const Variable& x);
/// y (H, N, N) = table[index, h] of a table (E, H), index (N, N) i32: relative position biases.
Variable table_bias(const Variable& table, const Tensor& index);
/// y = softmax(s x + bias_h + mask_(b mod W)) over the last dimension of x (B, H, N, N); bias and mask as in
/// ScoreTerms.
Variable biased_softmax(const Variable& x, double s, const Variable& bias, const Tensor& mask);
/// y_b = k1 x + keep_b k2 f, k1 and k2 (1); keep (B) may be undefined.
Variable weighted_sum(const Variable& x, const Variable& f, const Tensor& keep, const Variable& k1,
                      const Variable& k2);
/// What a batch normalization remembers of the batches it saw.
struct RunningMoments {
    Tensor mean, variance;  // (C)
    Tensor count;           // (1) batches
};
/// y = max(0, (x - mean) / sqrt(variance + eps) gamma + beta), x (..., C). In training with the moments of x,
/// which are added to the running ones with momentum 0.1 (there the variance with n - 1), else with those.
/// `processes`: in training, while ops are recorded, moments and dx are those of the joined batch of all of
/// them, each with as many rows; dgamma and dbeta are the sums over the rows of this one. It must outlive the
/// tape. Null: alone.
Variable batch_norm_relu(const Variable& x, const Variable& gamma, const Variable& beta, double eps,
                         const RunningMoments& running, bool training, engine::Communicator* processes);
/// Pictures x -> the windows of a convolution (B, positions, 9 C), each as (3, 3, C), so that `linear` with a
/// weight (O, 3, 3, C) is the convolution. x has no offset.
Quantized unfold(const Quantized& x, const engine::Convolution& shape);
/// x (B, height width, C), w (O, 9), bias (O) -> (B, positions, O): one group for each channel, output o from
/// channel o C / O.
Variable grouped_convolution(const Quantized& x, const engine::Convolution& shape, const Quantized& w,
                             const Variable& bias);

}  // namespace vvtq::autograd
