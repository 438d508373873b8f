// attention: what the two attention kernels share. One block works on one head of one sample: q, k, v lie in
// shared memory as bf16 codes (the values themselves without a quantizer), and warps multiply 16 x 16 pieces
// of them on the tensor cores. Probabilities are kept in units of their step, w = P / a_p, so that a code is
// round(min(w, Qp)).
#pragma once

#include "engine/cuda/device.cuh"

namespace vvtq::engine::cuda {

inline constexpr float kLog2e = 1.44269504f, kLn2 = 0.69314718f;
inline constexpr int kMostWarps = 7;  // of a block: 13 tiles of 16 rows (N = 197) in two turns

/// How an attention kernel is handed its problem. Index t of three arrays: q, k, v.
struct AttentionArguments {
    const bf16* z;  // (B, N, 3C)
    const float* input_alpha;
    const float* weight_alpha[3];
    const float* bias[3];
    StepArgument step[3], probability, output;
    int tokens, heads, width;  // N, H, D
    float scale;
    bool aligned;  // rows of a head are 16-byte vectors

    __host__ __device__ int channels() const { return heads * width; }
};

__device__ inline float min_nan(float a, float b) {
    float y;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
__device__ inline float max_nan(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
__device__ inline float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/// To the nearest integer, ties to even, for |x| < 2^22.
__device__ inline float nearest(float x) {
    constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: the sum has no bits behind the point
    return __fadd_rn(__fadd_rn(x, kShift), -kShift);
}

/// What Step computes, in fewer instructions. The quotient is rounded correctly: x * (1 / a) corrected by its
/// exact remainder.
struct Quantizer : Step {
    __device__ explicit Quantizer(const StepArgument& argument) : Step(argument.load()) {}
    __device__ float scaled(float x) const {
        const float v = x * inverse;
        return fmaf(fmaf(-v, a, x), inverse, v);
    }
    __device__ float code_of(float v) const { return nearest(min_nan(max_nan(v, low), high)); }
    /// the code; x itself without a quantizer
    __device__ float code(float x) const { return on ? code_of(scaled(x)) : x; }
};

/// Products of a projection and what becomes of them.
struct Projection {
    Quantizer quantizer;
    float weight, factor;  // a_w, a_x a_w

    __device__ Projection(const AttentionArguments& s, int t)
        : quantizer(s.step[t]),
          weight(s.weight_alpha[t] != nullptr ? *s.weight_alpha[t] : 1.0f),
          factor((s.input_alpha != nullptr ? *s.input_alpha : 1.0f) * weight) {}
    __device__ float value(float z, float bias) const { return fmaf(factor, z, bias); }
};

/// From products of codes of q and k to probabilities: w = 2^(s * factor - shift(lse)). Forward and backward
/// must agree to the bit, or their codes differ.
struct Scores {
    float factor, log2_step;
    __device__ Scores(const AttentionArguments& s, const Step& q, const Step& k, const Step& probability)
        : factor(s.scale * q.a * k.a * kLog2e), log2_step(log2f(probability.a)) {}
    __device__ float shift(float lse) const { return fmaf(lse, kLog2e, log2_step); }
    __device__ float weight(float s, float shift) const { return power_of_two(fmaf(s, factor, -shift)); }
};

/// dw / a_v of a probability through its quantizer; e = do . v codes.
template <bool quantized>
__device__ float through_probability(float e, float w, float high) {
    return !quantized || w <= high ? e : 0.0f;
}

// --- rows of eight columns in device memory

using Eight = Pack<bf16, 8>;

__device__ inline Eight zeros() {
    Eight y;
#pragma unroll
    for (int i = 0; i < 8; ++i) y.at[i] = __float2bfloat16_rn(0.0f);
    return y;
}
/// The first `count` of eight columns, zeros behind them.
__device__ inline Eight load_eight(const bf16* from, int count, bool aligned) {
    if (aligned && count == 8) return *reinterpret_cast<const Eight*>(from);
    Eight y = zeros();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        if (i < count) y.at[i] = from[i];
    }
    return y;
}
__device__ inline void store_eight(bf16* to, const Eight& x, int count, bool aligned) {
    if (aligned && count == 8) {
        *reinterpret_cast<Eight*>(to) = x;
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        if (i < count) to[i] = x.at[i];
    }
}

/// Two neighbouring columns; where `count` is 1, only the first is memory of theirs.
using Pair = Pack<bf16, 2>;

__device__ inline Pair load_pair(const bf16* from, int count, bool aligned) {
    if (aligned) return *reinterpret_cast<const Pair*>(from);
    return {from[0], from[count - 1]};
}
__device__ inline void store_pair(bf16* to, const Pair& x, int count, bool aligned) {
    if (aligned) {
        *reinterpret_cast<Pair*>(to) = x;
        return;
    }
    to[0] = x.at[0];
    if (count == 2) to[1] = x.at[1];
}

// --- matrices (rows, D) of bf16 in shared memory

/// Sixteen-byte pieces of a row are permuted by the row's number, so that the eight rows that one phase of
/// ldmatrix reads lie in different banks.
template <int D>
__device__ constexpr int swizzle(int row) {
    constexpr int pieces = D / 8;
    return pieces % 8 == 0 ? row & 7 : pieces % 4 == 0 ? (row >> 1) & 3 : (row >> 2) & 1;
}
template <int D>
__device__ Eight& piece_of(bf16* matrix, int row, int piece) {
    return *reinterpret_cast<Eight*>(matrix + row * D + (piece ^ swizzle<D>(row)) * 8);
}

/// How the threads of a block share the pieces of a matrix: consecutive lanes take the pieces of a row.
template <int D>
struct Share {
    static constexpr int pieces = D / 8;
    static constexpr int lanes = pieces <= 2 ? 2 : pieces <= 4 ? 4 : pieces <= 8 ? 8 : 16;
    int piece, row, stride, count;  // of the thread: its piece, first row, rows to the next, columns < width

    __device__ explicit Share(int width)
        : piece(static_cast<int>(threadIdx.x) % lanes),
          row(static_cast<int>(threadIdx.x) / lanes),
          stride(static_cast<int>(blockDim.x) / lanes),
          count(min(8, max(0, width - piece * 8))) {}
    __device__ bool idle() const { return piece >= pieces; }
};

/// Codes of q, k or v (t) of this block's head into shared memory; rows N..rows are zeros.
template <int D>
__device__ void load_codes(const AttentionArguments& s, int t, int sample, int head, int rows, bf16* to) {
    constexpr int kBatch = 4;  // loads in flight
    const Share<D> share(s.width);
    if (share.idle()) return;
    const Projection projection(s, t);
    const int column = head * s.width + share.piece * 8, ld = 3 * s.channels();
    const bf16* from = s.z + static_cast<int64_t>(sample) * s.tokens * ld + t * s.channels() + column;
    float bias[8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
        bias[i] = s.bias[t] != nullptr && i < share.count ? s.bias[t][column + i] : 0.0f;

    for (int first = share.row; first < rows; first += kBatch * share.stride) {
        Eight x[kBatch];
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
            const int row = first + u * share.stride;
            x[u] = row < s.tokens ? load_eight(from + static_cast<int64_t>(row) * ld, share.count, s.aligned)
                                  : zeros();
        }
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
            const int row = first + u * share.stride;
            if (row >= rows) break;
            if (row < s.tokens) {
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    const float y = projection.value(to_float(x[u].at[i]), bias[i]);
                    x[u].at[i] = from_float<bf16>(projection.quantizer.code(y));
                }
            }
            piece_of<D>(to, row, share.piece) = x[u];
        }
    }
}

// --- pieces for the tensor cores. With g = lane / 4 and p = lane % 4, an accumulator (16, 8) holds at [0],
// [1] row g, columns 2p, 2p + 1, at [2], [3] row g + 8

using Accumulator = float[4];

__device__ inline uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// Reads 16 x 16 pieces of matrices (rows, D), each as four registers of ldmatrix.
template <int D>
class Reader {
  public:
    /// Rows and columns in the order of the left factor (16, 16), or of the right one (k, n) stored as it is.
    __device__ static Reader straight() {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        return Reader(lane % 16, lane / 16);
    }
    /// In the order of a right factor (k, n) stored as (n, k).
    __device__ static Reader crossed() {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        return Reader(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    }
    /// The piece at rows `row`.., columns 16 * column.. ; row is a multiple of 16.
    __device__ void read(uint32_t matrix, int row, int column, uint32_t (&y)[4]) const {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(y[0]), "=r"(y[1]), "=r"(y[2]), "=r"(y[3])
                     : "r"(address(matrix, row, column)));
    }
    __device__ void read_transposed(uint32_t matrix, int row, int column, uint32_t (&y)[4]) const {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(y[0]), "=r"(y[1]), "=r"(y[2]), "=r"(y[3])
                     : "r"(address(matrix, row, column)));
    }

  private:
    __device__ Reader(int row, int half) : row_(row * D * 2), piece_((half ^ swizzle<D>(row)) * 16) {}
    __device__ uint32_t address(uint32_t matrix, int row, int column) const {
        return matrix + row * D * 2 + row_ + ((column * 32) ^ piece_);
    }
    int row_, piece_;  // bytes
};

/// y += a . b, (16, 16) . (16, 8)
__device__ inline void multiply(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Accumulator& y) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(y[0]), "+f"(y[1]), "+f"(y[2]), "+f"(y[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void clear(Accumulator& y) { y[0] = y[1] = y[2] = y[3] = 0.0f; }

/// Two floats as bf16, `low` in the low half.
__device__ inline uint32_t pack(float low, float high) {
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
/// The same for floats that are exact in bf16 (integers up to 256).
__device__ inline uint32_t pack_exact(float low, float high) {
    return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}
/// Two accumulators side by side as a left factor (16, 16).
__device__ inline void to_left(const Accumulator (&x)[2], bool exact, uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const Accumulator& half = x[i / 2];
        const float low = half[i % 2 * 2], high = half[i % 2 * 2 + 1];
        a[i] = exact ? pack_exact(low, high) : pack(low, high);
    }
}

/// 16 rows of a matrix as left factors, in registers, or read anew each time where these do not suffice.
template <int D, bool kept>
struct Left {
    uint32_t piece[kept ? D / 16 : 1][4];
    uint32_t matrix;
    int row;

    __device__ Left(const Reader<D>& straight, uint32_t matrix_at, int first)
        : matrix(matrix_at), row(first) {
        if constexpr (kept) {
#pragma unroll
            for (int c = 0; c < D / 16; ++c) straight.read(matrix, row, c, piece[c]);
        }
    }
    /// y = these rows . the 16 rows of `right` at `other`, transposed
    __device__ void times(const Reader<D>& straight, const Reader<D>& crossed, uint32_t right, int other,
                          Accumulator (&y)[2]) const {
        clear(y[0]);
        clear(y[1]);
#pragma unroll
        for (int c = 0; c < D / 16; ++c) {
            uint32_t r[4];
            crossed.read(right, other, c, r);
            if constexpr (kept) {
                multiply(piece[c], r[0], r[1], y[0]);
                multiply(piece[c], r[2], r[3], y[1]);
            } else {
                uint32_t l[4];
                straight.read(matrix, row, c, l);
                multiply(l, r[0], r[1], y[0]);
                multiply(l, r[2], r[3], y[1]);
            }
        }
    }
};

/// y += a (16, 16) . the 16 rows of `right` at `row`
template <int D>
__device__ void accumulate(const uint32_t (&a)[4], const Reader<D>& straight, uint32_t right, int row,
                           Accumulator (&y)[D / 8]) {
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
        uint32_t r[4];
        straight.read_transposed(right, row, c, r);
        multiply(a, r[0], r[1], y[c * 2]);
        multiply(a, r[2], r[3], y[c * 2 + 1]);
    }
}
template <int D>
__device__ void clear_all(Accumulator (&y)[D / 8]) {
#pragma unroll
    for (int c = 0; c < D / 8; ++c) clear(y[c]);
}

/// Sums and maxima over the four lanes that share a row of an accumulator.
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// --- launching

AttentionArguments attention_arguments(const Tensor& z, const AttentionSteps& steps);

/// Calls f.operator()<D>() with the least compiled D that holds a head of `width` columns; false if none
/// does.
template <typename F>
bool with_width(int64_t width, F&& f) {
    if (width <= 16) {
        f.template operator()<16>();
    } else if (width <= 32) {
        f.template operator()<32>();
    } else if (width <= 48) {
        f.template operator()<48>();
    } else if (width <= 64) {
        f.template operator()<64>();
    } else if (width <= 96) {
        f.template operator()<96>();
    } else if (width <= 128) {
        f.template operator()<128>();
    } else {
        return false;
    }
    return true;
}

/// Warps of a block for so many units of work, in the fewest turns.
inline int warps_for(int64_t units) { return static_cast<int>(ceil_div(units, ceil_div(units, kMostWarps))); }

}  // namespace vvtq::engine::cuda
