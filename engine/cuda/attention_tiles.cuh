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
    __device__ Reader(const Matrices<D, M>& matrices, int row, int half)
        : first_(shared_address(matrices.base) + row * kRow + (half ^ (row & 7)) * 16) {}
    __device__ uint32_t address(int t, int row, int column) const {
        const int piece = t * (D / 8) + column * 2;
        return ((first_ + row * kRow) ^ (piece % 8 * 16)) + piece / 8 * 128;
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
/// As codes: integers not above `high`, which is twice a bf16.
__device__ inline void to_codes(const Accumulator (&x)[2], uint32_t high, uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float* const pair = x[i / 2] + i % 2 * 2;
        a[i] = min_nan_pair(pack(nearest(pair[0]), nearest(pair[1])), high);
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

/// Scores of 16 queries from `row` and as many keys from `key` to exponents; -inf for columns that are no
/// keys. `terms` (R, R) is what is added to scores of the group and head, or null.
template <bool grouped>
__device__ void to_exponents(const AttentionArguments& s, const Scores<grouped>& scores, const float* terms,
                             int row, int key, Accumulator (&y)[2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32, column = key + lane % 4 * 2;
    if (grouped && terms != nullptr) {
        const float* const from = terms + (row + lane / 4) * s.rows() + column;
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // eight rows down, eight columns across
            const auto two = __ldg(reinterpret_cast<const float2*>(from + i % 2 * 8 * s.rows() + i / 2 * 8));
            float* const pair = y[i / 2] + i % 2 * 2;
            pair[0] = fmaf(pair[0], scores.unit, two.x);
            pair[1] = fmaf(pair[1], scores.unit, two.y);
        }
        return;
    }
    const bool last = key + 16 > s.tokens;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        float& score = y[i / 4][i % 4];
        if constexpr (grouped) score *= scores.unit;
        if (last && column + i / 4 * 8 + i % 2 >= s.tokens) score = -INFINITY;
    }
}
/// The same of 16 keys from `key` (rows) and as many queries from `query`, but for columns that are no
/// queries or rows that are no keys.
__device__ inline void to_exponents_by_key(const AttentionArguments& s, float unit, const float* terms,
                                           int key, int query, Accumulator (&y)[2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int row = key + lane / 4 + i / 2 % 2 * 8, column = query + lane % 4 * 2 + i / 4 * 8 + i % 2;
        float& score = y[i / 4][i % 4];
        score = fmaf(score, unit, terms != nullptr ? __ldg(terms + column * s.rows() + row) : 0.0f);
    }
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
