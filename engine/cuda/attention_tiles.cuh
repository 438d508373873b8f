// attention_tiles: products of 16 x 16 pieces of matrices in shared memory on the tensor cores.
#pragma once

#include "engine/cuda/attention.cuh"

namespace vvtq::engine::cuda {

// With g = lane / 4 and p = lane % 4, an accumulator (16, 8) holds at [0],
// [1] row g, columns 2p, 2p + 1, at [2], [3] row g + 8

using Accumulator = float[4];

/// Reads 16 x 16 pieces of matrices, each as four registers of ldmatrix.
template <int D, int M>
class Reader {
  public:
    /// Rows and columns in the order of the left factor (16, 16), or of the right one (k, n) stored as it is.
    __device__ static Reader straight(const Matrices<D, M>& matrices) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        return Reader(matrices, lane % 16, lane / 16);
    }
    /// In the order of a right factor (k, n) stored as (n, k).
    __device__ static Reader crossed(const Matrices<D, M>& matrices) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        return Reader(matrices, lane % 8 + lane / 16 * 8, lane / 8 % 2);
    }
    /// The piece of matrix t at rows `row`.., columns 16 * column.. ; row is a multiple of 16.
    __device__ void read(int t, int row, int column, uint32_t (&y)[4]) const {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(y[0]), "=r"(y[1]), "=r"(y[2]), "=r"(y[3])
                     : "r"(address(t, row, column)));
    }
    __device__ void read_transposed(int t, int row, int column, uint32_t (&y)[4]) const {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(y[0]), "=r"(y[1]), "=r"(y[2]), "=r"(y[3])
                     : "r"(address(t, row, column)));
    }

  private:
    static constexpr int kRow = Matrices<D, M>::pitch * 2;  // bytes
    static constexpr bool unrolled = M == 2;                // the forward kernel's
    __device__ Reader(const Matrices<D, M>& matrices, int row, int half)
        : first_(shared_address(matrices.base) + row * kRow + (half ^ (row & 7)) * 16) {}
    __device__ uint32_t address(int t, int row, int column) const {
        const int piece = t * (D / 8) + column * 2;
        // the same, as kRow is a multiple of 128; the second form costs no instruction where rows are
        // constants
        if constexpr (!unrolled) return ((first_ + row * kRow) ^ (piece % 8 * 16)) + piece / 8 * 128;
        return (first_ ^ (piece % 8 * 16)) + row * kRow + piece / 8 * 128;
    }
    uint32_t first_;
};

/// y += a . b, (16, 16) . (16, 8)
__device__ inline void multiply(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Accumulator& y) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(y[0]), "+f"(y[1]), "+f"(y[2]), "+f"(y[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void clear(Accumulator& y) { y[0] = y[1] = y[2] = y[3] = 0.0f; }

/// Two accumulators side by side as a left factor (16, 16).
__device__ inline void to_left(const Accumulator (&x)[2], uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = pack(x[i / 2][i % 2 * 2], x[i / 2][i % 2 * 2 + 1]);
}
/// Exponentials times the factors of their two rows as a left factor: as codes, which are integers not above
/// `high` (twice a bf16), or as they are.
template <bool quantized>
__device__ inline void to_probabilities(const Accumulator (&x)[2], const float (&factor)[2], uint32_t high,
                                        uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float* const pair = x[i / 2] + i % 2 * 2;
        const float f = factor[i % 2];
        if constexpr (quantized) {
            const float low = __fmaf_rn(pair[0], f, kRounding), up = __fmaf_rn(pair[1], f, kRounding);
            a[i] = min_nan_pair(pack(__fadd_rn(low, -kRounding), __fadd_rn(up, -kRounding)), high);
        } else {
            a[i] = pack(pair[0] * f, pair[1] * f);
        }
    }
}

/// Tiles of 16 rows of a matrix as left factors, which share each piece of a right factor that is read.
template <int D, int M, int tiles>
struct Left {
    uint32_t piece[tiles][D / 16][4];

    Left() = default;
    __device__ Left(const Reader<D, M>& straight, int t, const int (&row)[tiles]) {
#pragma unroll
        for (int r = 0; r < tiles; ++r) {
#pragma unroll
            for (int c = 0; c < D / 16; ++c) straight.read(t, row[r], c, piece[r][c]);
        }
    }
    /// y = these rows . the 16 rows of matrix t at `other`, transposed
    __device__ void times(const Reader<D, M>& crossed, int t, int other, Accumulator (&y)[tiles][2]) const {
#pragma unroll
        for (int r = 0; r < tiles; ++r) {
            clear(y[r][0]);
            clear(y[r][1]);
        }
#pragma unroll
        for (int c = 0; c < D / 16; ++c) {
            uint32_t b[4];
            crossed.read(t, other, c, b);
#pragma unroll
            for (int r = 0; r < tiles; ++r) {
                multiply(piece[r][c], b[0], b[1], y[r][0]);
                multiply(piece[r][c], b[2], b[3], y[r][1]);
            }
        }
    }
};

/// Where element (row, column) of a 16 x 16 piece lies among 256: lane by lane, two accumulators side by
/// side.
__host__ __device__ inline int place_in_piece(int row, int column) {
    const int lane = row % 8 * 4 + column % 8 / 2;
    return lane * 8 + column / 8 * 4 + row / 8 * 2 + column % 2;
}
/// The lane's four elements of piece (row, column) out of `pieces` x `pieces`, `half` 0 or 1; row and column
/// are those of its first element.
template <typename T>
__device__ auto& four_of_piece(T* all, int pieces, int row, int column, int half) {
    using Four = std::conditional_t<std::is_const_v<T>, const float4, float4>;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return reinterpret_cast<Four*>(all)[((row / 16 * pieces + column / 16) * 32 + lane) * 2 + half];
}

/// y unit + terms, of the piece at (row, column) of the terms of a group and head.
__device__ inline void add_terms(const float* terms, int pieces, int row, int column, float unit,
                                 Accumulator (&y)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float4 term = __ldg(&four_of_piece(terms, pieces, row, column, half));
        y[half][0] = fmaf(y[half][0], unit, term.x);
        y[half][1] = fmaf(y[half][1], unit, term.y);
        y[half][2] = fmaf(y[half][2], unit, term.z);
        y[half][3] = fmaf(y[half][3], unit, term.w);
    }
}
/// Scores of 16 queries from `row` and as many keys from `key` to exponents; -inf for columns that are no
/// keys. `terms` is what is added to scores of the group and head, or null.
template <bool grouped>
__device__ void to_exponents(const AttentionArguments& s, const Scores<grouped>& scores, const float* terms,
                             int row, int key, Accumulator (&y)[2]) {
    if (grouped && terms != nullptr) return add_terms(terms, s.rows() / 16, row, key, scores.unit, y);
    const int column = key + static_cast<int>(threadIdx.x) % 4 * 2;
    const bool last = key + 16 > s.tokens;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        float& score = y[i / 4][i % 4];
        if constexpr (grouped) score = __fmul_rn(score, scores.unit);  // as by key: never fused
        if (last && column + i / 4 * 8 + i % 2 >= s.tokens) score = -INFINITY;
    }
}
/// The same of 16 keys from `key` (rows) and as many queries from `query`, with the terms by key; keys that
/// are none are only -inf if there are terms.
__device__ inline void to_exponents_by_key(const AttentionArguments& s, float unit, const float* terms,
                                           int key, int query, Accumulator (&y)[2]) {
    if (terms != nullptr) return add_terms(terms, s.rows() / 16, key, query, unit, y);
#pragma unroll
    for (int i = 0; i < 8; ++i) y[i / 4][i % 4] = __fmul_rn(y[i / 4][i % 4], unit);
}

/// y += a (16, 16) . the 16 rows of matrix t at `row`
template <int D, int M, int tiles>
__device__ void accumulate(const uint32_t (&a)[tiles][4], const Reader<D, M>& straight, int t, int row,
                           Accumulator (&y)[tiles][D / 8]) {
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
        uint32_t b[4];
        straight.read_transposed(t, row, c, b);
#pragma unroll
        for (int r = 0; r < tiles; ++r) {
            multiply(a[r], b[0], b[1], y[r][c * 2]);
            multiply(a[r], b[2], b[3], y[r][c * 2 + 1]);
        }
    }
}
template <int tiles, int count>
__device__ void clear_all(Accumulator (&y)[tiles][count]) {
#pragma unroll
    for (int i = 0; i < tiles * count; ++i) clear(y[i / count][i % count]);
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

}  // namespace vvtq::engine::cuda
