// attention: what the two attention kernels share. One block works on one head of one group of tokens at a
// time (AttentionProblem; without groups, of one sample): q, k, v lie in shared memory as bf16 codes (the
// values themselves without a quantizer), and warps multiply 16 x 16 pieces of them on the tensor cores.
// Probabilities are kept in units of their step, w = P / a_p, so that a code is round(min(w, Qp)).
#pragma once

#include "engine/cuda/attention_problem.cuh"

namespace vvtq::engine::cuda {

inline constexpr float kLog2e = 1.44269504f;

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
/// The same for two bf16.
__device__ inline uint32_t min_nan_pair(uint32_t a, uint32_t b) {
    uint32_t y;
    asm("min.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
    return y;
}
__device__ inline uint32_t max_nan_pair(uint32_t a, uint32_t b) {
    uint32_t y;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
    return y;
}
/// Two floats as bf16, `low` in the low half.
__device__ inline uint32_t pack(float low, float high) {
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
__device__ inline float low_half(uint32_t x) { return __uint_as_float(x << 16); }
__device__ inline float high_half(uint32_t x) { return __uint_as_float(x & 0xffff0000u); }
__device__ inline float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
inline constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23: a sum with it has no bits behind the point
/// To the nearest integer, ties to even, for |x| < 2^22.
__device__ inline float nearest(float x) { return __fadd_rn(__fadd_rn(x, kRounding), -kRounding); }

/// x y to the nearest integer, rounded once.
__device__ inline float nearest_product(float x, float y) {
    return __fadd_rn(__fmaf_rn(x, y, kRounding), -kRounding);
}

/// What Step computes, in fewer instructions. The quotient is rounded correctly: x * (1 / a) corrected by its
/// exact remainder.
struct Quantizer : Step {
    __device__ explicit Quantizer(const QuantArgument& argument) : Step(argument.load()) {}
    __device__ float scaled(float x) const {
        const float v = x * inverse;
        return fmaf(fmaf(-v, a, x), inverse, v);
    }
    __device__ float clamped(float v) const { return min_nan(max_nan(v, low), high); }
    /// Codes of two values, as bf16.
    __device__ uint32_t codes(float x, float y) const {
        const uint32_t pair = pack(nearest(scaled(x)), nearest(scaled(y)));
        return min_nan_pair(max_nan_pair(pair, pack(low, low)), pack(high, high));
    }
};

/// From products of a projection to codes, with the step folded into the scale of the products (as
/// QuickStep): without a quantizer v is the value itself and no v is clipped or rounded.
struct alignas(16) ProjectionQuantizer {
    float weight, slope, unit, rounding;  // unit: 1 / a
    float middle, reach;                  // in(v): |v - middle| <= reach
    uint32_t low, high;                   // twice, as bf16

    __device__ ProjectionQuantizer(const AttentionArguments& s, int t) {
        const Step step = s.step[t].load();
        weight = s.weight_scale[t] != nullptr ? *s.weight_scale[t] : 1.0f;
        unit = step.inverse;
        slope = (s.input_scale != nullptr ? *s.input_scale : 1.0f) * weight * unit;
        rounding = step.on ? kRounding : 0.0f;
        middle = step.on ? 0.5f * (step.low + step.high) : 0.0f;
        reach = step.on ? step.high - middle : INFINITY;
        low = step.on ? pack(step.low, step.low) : pack(-INFINITY, -INFINITY);
        high = step.on ? pack(step.high, step.high) : pack(INFINITY, INFINITY);
    }
    /// v of a product; `offset` is the bias in steps
    __device__ float scaled(float z, float offset) const { return fmaf(slope, z, offset); }
    __device__ float rounded(float v) const { return __fadd_rn(__fadd_rn(v, rounding), -rounding); }
    __device__ uint32_t codes(float v, float w) const {
        return min_nan_pair(max_nan_pair(pack(rounded(v), rounded(w)), low), high);
    }
    /// from v - middle; NaN counts as inside and so goes on
    __device__ bool inside(float distance) const { return !(fabsf(distance) > reach); }
};

/// From products s of codes of q and k to probabilities. An exponent is s * unit + term; a row's largest is
/// `top`, and its probabilities in steps are w = 2^(exponent - top) * factor. Forward hands top and factor of
/// each row to backward. Both must compute alike to the bit, or their codes differ. With `grouped` scores are
/// first made exponents.
template <bool grouped>
struct Scores {
    float unit;
    __device__ Scores(const AttentionArguments& s, const Step& q, const Step& k)
        : unit(s.scale * q.a * k.a * kLog2e) {}
    /// of a score in exponents
    __device__ float factor() const { return grouped ? 1.0f : unit; }
    __device__ float exponential(float s, float top) const { return power_of_two(fmaf(s, factor(), -top)); }
};

/// dw / a_v of a probability through its quantizer, from its exponential; e = do . v codes.
template <bool quantized>
__device__ float through_probability(float e, float exponential, float limit) {
    return !quantized || exponential <= limit ? e : 0.0f;
}

// --- M matrices (rows, D) of bf16 in shared memory, side by side: row r of all of them, then row r + 1.
// Columns are permuted within groups of 8 W: an accumulator (16, 8) gives a lane two columns, and those of W
// accumulators side by side are 2 W neighbours for it. Sixteen-byte pieces are permuted by the number of
// their row, so that the eight rows that one phase of ldmatrix reads lie in different banks.

using Words = Pack<uint32_t, 4>;  // eight columns

/// W of the comment above.
template <int D>
inline constexpr int kGroup = D % 32 == 0 ? 4 : 2;

template <int D, int M>
struct Matrices {
    static constexpr int pitch = (M * D + 63) / 64 * 64;  // elements from row to row
    bf16* base;                                           // at a multiple of 128 bytes

    /// Piece of row `row` of matrix t; turn = row % 8.
    __device__ Words& piece(int t, int row, int turn, int piece) const {
        return *reinterpret_cast<Words*>(base + row * pitch + ((t * (D / 8) + piece) ^ turn) * 8);
    }
    /// Eight neighbouring columns to their permuted places.
    __device__ void scatter(int t, int row, int turn, int number, const Words& x) const {
        const int group = number & -kGroup<D>, within = number % kGroup<D>;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            constexpr bool wide = kGroup<D> == 4;
            piece(t, row, turn, group + (wide ? i : i % 2)).at[wide ? within : within * 2 + i / 2] = x.at[i];
        }
    }
};

/// How the threads of a block share the pieces of a matrix: consecutive lanes take the pieces of a row, a
/// warp takes blocks of 8 or 16 rows in `steps` steps. All its lanes have a row below a multiple of 16, or
/// none.
template <int D>
struct Share {
    static constexpr int pieces = D / 8;
    static constexpr int lanes = pieces <= 2 ? 2 : pieces <= 4 ? 4 : pieces <= 8 ? 8 : 16;
    static constexpr int together = 32 / lanes, steps = together < 8 ? 8 / together : 1;
    int piece, count, first, warps;  // of the thread: its piece, columns < width, first row

    __device__ explicit Share(int width)
        : piece(static_cast<int>(threadIdx.x) % lanes),
          count(min(8, max(0, width - piece * 8))),
          first(static_cast<int>(threadIdx.x) / 32 * together * steps +
                static_cast<int>(threadIdx.x) % 32 / lanes),
          warps(static_cast<int>(blockDim.x) / 32) {}
    __device__ bool idle() const { return piece >= pieces; }
    __device__ int row(int turn, int u) const {  // turn is a multiple of steps
        return first + (turn / steps + u / steps) * warps * together * steps + u % steps * together;
    }
    /// First row of the warp's block with row(turn, 0).
    __device__ int block(int turn) const {
        return static_cast<int>(threadIdx.x) / 32 * together * steps +
               turn / steps * warps * together * steps;
    }
    /// row % 8
    __device__ int turn(int u) const {
        return (static_cast<int>(threadIdx.x) % 32 / lanes + u % steps * together) % 8;
    }
};

/// The first `count` of n columns, zeros behind them; where `whole`, that is all or none.
template <bool whole, int n>
__device__ Pack<uint32_t, n / 2> load_columns(const bf16* from, int count, bool paired) {
    Pack<uint32_t, n / 2> y;
    if constexpr (whole) {
        if (count > 0) {
            y = *reinterpret_cast<const Pack<uint32_t, n / 2>*>(from);
        } else {
#pragma unroll
            for (uint32_t& pair : y.at) pair = 0;
        }
    } else {
#pragma unroll
        for (int i = 0; i < n; i += 2) {
            if (paired) {
                y.at[i / 2] = i < count ? *reinterpret_cast<const uint32_t*>(from + i) : 0u;
            } else {
                const uint32_t low = i < count ? __bfloat16_as_ushort(from[i]) : 0u;
                const uint32_t high = i + 1 < count ? __bfloat16_as_ushort(from[i + 1]) : 0u;
                y.at[i / 2] = low | high << 16;
            }
        }
    }
    return y;
}
template <bool whole, int words>
__device__ void store_columns(const AttentionArguments& s, bf16* to, const Pack<uint32_t, words>& x,
                              int count) {
    if constexpr (whole) {
        *reinterpret_cast<Pack<uint32_t, words>*>(to) = x;
    } else {
#pragma unroll
        for (int i = 0; i < words; ++i) {
            if (i * 2 >= count) break;
            if (s.paired) {
                *reinterpret_cast<uint32_t*>(to + i * 2) = x.at[i];
            } else {
                to[i * 2] = __ushort_as_bfloat16(static_cast<unsigned short>(x.at[i]));
                if (i * 2 + 1 < count)
                    to[i * 2 + 1] = __ushort_as_bfloat16(static_cast<unsigned short>(x.at[i] >> 16));
            }
        }
    }
}

__device__ inline uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `left` of the thread's committed groups of copies are under way.
template <int left>
__device__ void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

/// Starts to copy the rows of tokens, stride `ld`, to matrix t; rows behind them are zeros. Each thread
/// copies the pieces of its Share, not permuted yet.
template <int D, int M, bool whole, bool grouped>
__device__ void fetch(const AttentionArguments& s, const TokenRows<grouped>& tokens, const bf16* from, int ld,
                      int rows, const Matrices<D, M>& matrices, int t) {
    constexpr int kBatch = 4;
    const Share<D> share(s.width);
    if (share.idle()) return;
    if (share.count > 0) from += share.piece * 8;
    for (int turn = 0; share.row(turn, 0) < rows; turn += kBatch) {
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
            const int row = share.row(turn, u);
            if (row >= rows) break;
            Words& piece = matrices.piece(t, row, share.turn(u), share.piece);
            const bool real = row < s.tokens;
            const bf16* const source = real ? from + tokens.row(row) * static_cast<int64_t>(ld) : from;
            if constexpr (whole) {
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(&piece)),
                             "l"(source), "r"(real ? 16 : 0)
                             : "memory");
            } else if (s.paired) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const bool some = real && i * 2 < share.count;
                    asm volatile(
                        "cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(&piece.at[i])),
                        "l"(some ? source + i * 2 : from), "r"(some ? 4 : 0)
                        : "memory");
                }
            } else {
                piece = load_columns<false, 8>(source, real ? share.count : 0, false);
            }
        }
    }
}
/// Where the products of q, k or v (t) of a head begin in the row `first`.
__device__ inline const bf16* products_of(const AttentionArguments& s, int t, int64_t first, int head) {
    return s.z + (first * 3 + t) * s.channels() + head * s.width;
}
/// Fetches the products of q, k or v (t) to matrix `to`; its own group of copies.
template <int D, int M, bool whole, bool grouped>
__device__ void fetch_products(const AttentionArguments& s, const Problems<grouped>& problems, int t,
                               int rows, const Matrices<D, M>& matrices, int to) {
    const TokenRows<grouped>& tokens = problems.tokens;
    fetch<D, M, whole>(s, tokens, products_of(s, t, tokens.first, problems.head), 3 * s.channels(), rows,
                       matrices, to);
    commit_copies();
}

/// Biases of a projection in steps, of columns from `column` of a head.
template <bool whole, int n>
__device__ void load_offsets(const AttentionArguments& s, int t, int head, int column, float unit,
                             float (&y)[n]) {
#pragma unroll
    for (int i = 0; i < n; ++i) y[i] = 0.0f;
    if (s.bias[t] == nullptr) return;
    const float* const from = s.bias[t] + head * s.width + column;
#pragma unroll
    for (int i = 0; i < n; i += 4) {
        if constexpr (whole) {
            const float4 four = *reinterpret_cast<const float4*>(from + i);
            y[i] = four.x * unit;
            y[i + 1] = four.y * unit;
            y[i + 2] = four.z * unit;
            y[i + 3] = four.w * unit;
        } else {
#pragma unroll
            for (int j = i; j < i + 4; ++j) y[j] = column + j < s.width ? from[j] * unit : 0.0f;
        }
    }
}

/// Makes codes of the products that this thread fetched to matrix `to`; rows behind the tokens stay zeros.
template <int D, int M, bool whole>
__device__ void make_codes(const AttentionArguments& s, int t, int head, const Matrices<D, M>& matrices,
                           int to) {
    constexpr int kBatch = Share<D>::steps > 1 ? 4 : 2;
    const Share<D> share(s.width);
    const ProjectionQuantizer projection(s, t);
    float offset[8];
    load_offsets<whole>(s, t, head, share.piece * 8, projection.unit, offset);
    for (int turn = 0; share.block(turn) < s.tokens; turn += kBatch) {
        Words x[kBatch];
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
            const int row = share.row(turn, u);
            if (row < s.tokens && !share.idle()) x[u] = matrices.piece(to, row, share.turn(u), share.piece);
        }
        __syncwarp();  // the lanes of a row exchange their places
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
            const int row = share.row(turn, u);
            if (row >= s.tokens || share.idle()) continue;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float low = projection.scaled(low_half(x[u].at[i]), offset[i * 2]);
                const float high = projection.scaled(high_half(x[u].at[i]), offset[i * 2 + 1]);
                x[u].at[i] = projection.codes(low, high);
            }
            matrices.scatter(to, row, share.turn(u), share.piece, x[u]);
        }
    }
}

/// Which columns of a matrix a lane has in accumulators (16, 8) over its width: in `groups` groups, `count`
/// neighbours from first(group).
template <int D>
struct Columns {
    static constexpr int count = 2 * kGroup<D>, groups = D / (4 * count);
    __device__ static int first(int group) {
        return group * 4 * count + static_cast<int>(threadIdx.x) % 4 * count;
    }
    /// where neighbour i is: accumulator at(group, i), element i % 2 of a row
    __device__ static constexpr int at(int group, int i) { return group * kGroup<D> + i / 2; }
};

}  // namespace vvtq::engine::cuda
