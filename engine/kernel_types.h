// kernel_types: what kernels take beside tensors: quantizers, sizes of attention and convolutions, and the
// items of the passes over all weights. T, M and `?` as in engine/kernels.h.
#pragma once

#include <array>
#include <cstdint>

#include "engine/tensor.h"

namespace vvtq::engine {

/// The integers a quantizer maps to: Qn <= q <= Qp.
struct CodeRange {
    int low = 0;   // Qn
    int high = 0;  // Qp
    /// b-bit two's complement: -2^(b-1) .. 2^(b-1) - 1.
    static CodeRange signed_bits(int bits) { return {-(1 << (bits - 1)), (1 << (bits - 1)) - 1}; }
    /// 0 .. 2^b - 1.
    static CodeRange unsigned_bits(int bits) { return {0, (1 << bits) - 1}; }
    int count() const { return high - low + 1; }
};

/// A quantizer's step is raised to this before use (specification section 1).
inline constexpr double kLeastStep = 1e-4;

/// The parameters of an LSQ quantizer (specification section 1), as kernels take them. It has G steps: one
/// for the tensor, or one for each of its heads or rows; runs of `inner` neighbouring elements belong to
/// group 0, 1,
/// .., G - 1, 0, ... An undefined one (no scale) lets x pass as it is. Kernels that fuse a quantizer take G
/// = 1.
struct QuantParams {
    Tensor scale;       // (G) M: the steps, alpha
    Tensor offset;      // (G)? M: beta
    Tensor range;       // (2) i32: Qn, Qp, which a kernel reads while it runs
    Tensor grad_scale;  // (1)? M: g; read by backward only
    int64_t inner = 1;  // of G > 1
    bool defined() const { return scale.defined(); }
    int64_t groups() const { return scale.numel(); }
};

/// Bytes of a weight (rows, columns) of i8 codes in the layout of products (kernel pack_codes).
int64_t packed_bytes(int64_t rows, int64_t columns);
/// Whether this processor's instructions for products of codes are used where the build has them (the
/// default), or plain loops, which give the same sums.
void use_code_instructions(bool on);

/// {Qn, Qp} as QuantParams::range has them.
inline Tensor range_tensor(CodeRange range, Device device) {
    return Tensor::from({static_cast<double>(range.low), static_cast<double>(range.high)}, {2}, DType::i32,
                        device);
}

/// What attention's kernels know beside the raw products z (B, N, 3C) of codes: columns 0..C belong to q,
/// C..2C to k, 2C..3C to v, head h to columns hD..(h+1)D of each, D = C / heads. Tokens attend within groups
/// of n = N / groups: group w of a sample is its rows order[w n] .. order[w n + n - 1].
struct AttentionProblem {
    Tensor input_scale;                // (1)? step of the projections' input
    Tensor weight_scale[3];            // (1)? steps of the three projections' weights
    Tensor bias[3];                    // (C)? of the projections
    QuantParams q, k, v, probability;  // without offset
    QuantParams output;                // without offset
    int64_t heads;
    double scale;  // D^-1/2
    int64_t groups = 1;
    Tensor order, inverse;  // (N)? i32 permutations, one the inverse of the other; rows as they are without
    Tensor score_bias;      // (H, n, n)? M, added to the scaled scores of every group
    Tensor mask;            // (groups, n, n)? M, added to those of each group
    /// In the order of attention_backward's dscales.
    std::array<const QuantParams*, 5> quantizers() const { return {&q, &k, &v, &probability, &output}; }
};

/// A 3 x 3 convolution with padding 1 over pictures (B, C, height, width), or (B, height, width, C) where
/// `channels_last`. Its output is (B, positions, ...), positions in row order.
struct Convolution {
    int64_t channels, height, width, stride;
    bool channels_last;
    int64_t out_height() const { return (height - 1) / stride + 1; }
    int64_t out_width() const { return (width - 1) / stride + 1; }
    int64_t positions() const { return out_height() * out_width(); }
};

/// One weight of `quantize_weights`.
struct WeightItem {
    Tensor w;            // M, any shape
    QuantParams params;  // G = 1, no offset; grad_scale (1) is an output: 1 / sqrt(sum |w| Qp)
    Tensor codes;        // like w, of T: round(clamp(w / a))
    Tensor reg;          // (1)? the bin regularizer (specification section 5); with `stats`
    Tensor stats;        // (bins, 3)? f64, of each bin {count, mean of d = u - y, sum (d - mean)^2}
};

/// One weight of `quantize_weights_backward`.
struct WeightGradientItem {
    Tensor w;
    QuantParams params;
    Tensor stats;       // ? where the regularizer was computed
    Tensor dy;          // ? like w: gradient of the quantized weight y = a codes
    Tensor dw, dscale;  // like w; (1)
};

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

/// What `track_codes` notes of a weight beside its code: the direction of its latest change, or one of the
/// last two.
enum class CodeMark : uint8_t { none = 0, up = 1, down = 2, frozen = 3, unseen = 4 };

/// One weight of `track_codes`; all but `w` and `params` keep what earlier calls left.
struct CodeTrackItem {
    Tensor w;            // M, any shape
    QuantParams params;  // without offset; undefined: one bit, whose code is sign(w) and whose Qn is -1
    Tensor code;         // u8 like w: q - Qn
    Tensor mark;         // u8 like w: CodeMark
    Tensor frequency;    // f32 like w: f, how often the code turns back
    Tensor mean;         // f32 like w?: running mean of q; where weights are frozen, with `params`
};

/// One gradient of `clear_frozen`.
struct FrozenItem {
    Tensor gradient;  // M, any shape
    Tensor mark;      // u8 like gradient: CodeMark
};

/// One parameter of the optimizer: value p, gradient g, moments m and v, all of one shape.
struct AdamwItem {
    Tensor p, g, m, v;
    bool decay;  // whether weight decay applies
};

/// One part of a flat buffer: flat[begin .. begin + part.numel()].
struct PackItem {
    Tensor part;  // M, any shape
    int64_t begin;
};

/// What AdamW keeps through a run.
struct AdamwRates {
    double beta1, beta2, eps, weight_decay;
};

}  // namespace vvtq::engine
