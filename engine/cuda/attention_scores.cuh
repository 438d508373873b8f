// attention_scores: the two passes over scores of attention's backward kernel, by queries and by keys.
#pragma once

#include "engine/cuda/attention_gradients.cuh"

namespace vvtq::engine::cuda {

/// Tiles of 16 rows that a warp works on at a time. One beyond the end repeats the last one and counts for
/// nothing: end = 0.
template <int D>
struct Unit {
    static constexpr int tiles = kBackwardTiles<D>;
    int row[tiles], end[tiles];  // first row; rows that count are below

    __device__ Unit(int number, int rows, int tokens) {
#pragma unroll
        for (int r = 0; r < tiles; ++r) {
            const int first = (number * tiles + r) * 16;
            row[r] = min(first, rows - 16);
            end[r] = first < rows ? tokens : 0;
        }
    }
};

enum : int { kQ, kK, kV, kD };  // the matrices: codes of q, k and v; do

/// What both phases of the backward kernel work with.
template <int D, bool grouped>
struct BackwardContext {
    QueryRow* query;
    Reader<D, 4> straight, crossed;
    Scores<grouped> scores;
    uint32_t high;                      // of the probability's codes, twice as bf16
    const float *terms, *terms_by_key;  // of the head and group, or null
    float* score_sums;  // sums of the gradients of scores, divided by a_p a_v, in pieces by key; or null
};

/// Gradient of a unit's query rows; completes their delta. `x` is divided by scale a_p a_v a_k. Returns the
/// thread's part of sum w dPq in(w) / a_v. With f = w (dw - estimate) and E = sum_j w_j k_j, the exact
/// gradient is sum_j f_j k_j - (delta - estimate) E: one pass over the keys gives delta and the gradient.
/// The row's factor of w = 2^(exponent - top) * factor comes last.
template <int D, bool quantized, bool grouped>
__device__ float query_gradient(const AttentionArguments& s, const BackwardContext<D, grouped>& context,
                                float step, const Unit<D>& unit, int keys,
                                Accumulator (&x)[kBackwardTiles<D>][D / 8]) {
    constexpr int tiles = kBackwardTiles<D>;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const Left<D, 4, tiles> q(context.straight, kQ, unit.row), d(context.straight, kD, unit.row);
    QueryRow own[tiles][2];
    float delta[tiles][2];
#pragma unroll
    for (int i = 0; i < tiles * 2; ++i) {
        own[i / 2][i % 2] = context.query[unit.row[i / 2] + i % 2 * 8 + lane / 4];
        delta[i / 2][i % 2] = 0.0f;
    }
    Accumulator expected[tiles][D / 8];
    clear_all(x);
    if constexpr (quantized) clear_all(expected);
#pragma unroll 1
    for (int key = 0; key < keys; key += 16) {
        Accumulator w[tiles][2], e[tiles][2];
        q.times(context.crossed, kK, key, w);
        d.times(context.crossed, kV, key, e);
#pragma unroll
        for (int r = 0; r < tiles; ++r)
            to_exponents(s, context.scores, context.terms, unit.row[r], key, w[r]);
        uint32_t f[tiles][4], p[tiles][4];
#pragma unroll
        for (int r = 0; r < tiles; ++r) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const QueryRow& row = own[r][i / 2 % 2];
                float& weight = w[r][i / 4][i % 4];
                float& gradient = e[r][i / 4][i % 4];
                weight = context.scores.exponential(weight, row.top);
                const float through = through_probability<quantized>(gradient, weight, row.limit);
                if constexpr (quantized) delta[r][i / 2 % 2] = fmaf(through, weight, delta[r][i / 2 % 2]);
                gradient = weight * (through - row.delta);
            }
            to_left(e[r], f[r]);
            if constexpr (quantized) to_left(w[r], p[r]);
        }
        if constexpr (quantized) {
#pragma unroll
            for (int c = 0; c < D / 16; ++c) {
                uint32_t b[4];
                context.straight.read_transposed(kK, key, c, b);
#pragma unroll
                for (int r = 0; r < tiles; ++r) {
                    multiply(f[r], b[0], b[1], x[r][c * 2]);
                    multiply(f[r], b[2], b[3], x[r][c * 2 + 1]);
                    multiply(p[r], b[0], b[1], expected[r][c * 2]);
                    multiply(p[r], b[2], b[3], expected[r][c * 2 + 1]);
                }
            }
        } else {
            accumulate<D, 4, tiles>(f, context.straight, kK, key, x);
        }
    }
    float passed = 0.0f;
    __syncwarp();  // four lanes have read each row of `query`, one of them overwrites it
#pragma unroll
    for (int i = 0; i < tiles * 2; ++i) {
        const int r = i / 2, half = i % 2;
        const QueryRow& row = own[r][half];
        float exact = row.delta;
        if constexpr (quantized) {
            if (unit.end[r] > 0) passed = fmaf(delta[r][half], row.factor, passed);
            exact = row_sum(delta[r][half]) * row.factor * step;
#pragma unroll
            for (int c = 0; c < D / 8; ++c) {
#pragma unroll
                for (int j = half * 2; j < half * 2 + 2; ++j) {
                    x[r][c][j] = fmaf(row.delta - exact, expected[r][c][j], x[r][c][j]);
                }
            }
        }
#pragma unroll
        for (int c = 0; c < D / 8; ++c) {
            x[r][c][half * 2] *= row.factor;
            x[r][c][half * 2 + 1] *= row.factor;
        }
        if (lane % 4 == 0 && unit.end[r] > 0) {
            context.query[unit.row[r] + half * 8 + lane / 4].delta = exact * row.factor;
        }
    }
    return passed;
}

/// Gradients of a unit's rows of keys, divided by scale a_p a_v a_q, and of values, divided by a_p.
template <int D, bool quantized, bool grouped>
__device__ void key_gradient(const AttentionArguments& s, const BackwardContext<D, grouped>& context,
                             const Unit<D>& unit, int queries, Accumulator (&dk)[kBackwardTiles<D>][D / 8],
                             Accumulator (&dv)[kBackwardTiles<D>][D / 8]) {
    constexpr int tiles = kBackwardTiles<D>;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const Left<D, 4, tiles> k(context.straight, kK, unit.row), v(context.straight, kV, unit.row);
    clear_all(dk);
    clear_all(dv);
#pragma unroll 1
    for (int query = 0; query < queries; query += 16) {
        Accumulator w[tiles][2], e[tiles][2];
        k.times(context.crossed, kQ, query, w);
        v.times(context.crossed, kD, query, e);
        if constexpr (grouped) {
#pragma unroll
            for (int r = 0; r < tiles; ++r) {
                to_exponents_by_key(s, context.scores.unit, context.terms_by_key, unit.row[r], query, w[r]);
            }
        }
        uint32_t a[tiles][4];  // P by key
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const QueryRow* const own = context.query + query + half * 8 + lane % 4 * 2;
            const QueryRow two[2] = {own[0], own[1]};
#pragma unroll
            for (int i = 0; i < tiles * 4; i += 2) {
                float p[2];
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    float& gradient = e[i / 4][half][i % 4 + j];
                    const float x = context.scores.exponential(w[i / 4][half][i % 4 + j], two[j].top);
                    p[j] = quantized ? nearest_product(x, two[j].factor) : x * two[j].factor;
                    const float through = through_probability<quantized>(gradient, x, two[j].limit);
                    gradient = x * fmaf(through, two[j].factor, -two[j].delta);
                }
                uint32_t& pair = a[i / 4][half * 2 + i % 4 / 2];
                pair = pack(p[0], p[1]);
                if constexpr (quantized) pair = min_nan_pair(pair, context.high);
            }
        }
        if (grouped && context.score_sums != nullptr) {
#pragma unroll
            for (int i = 0; i < tiles * 2; ++i) {
                if (unit.end[i / 2] == 0) continue;
                const float* const x = e[i / 2][i % 2];
                float4& four = four_of_piece(context.score_sums, queries / 16, unit.row[i / 2], query, i % 2);
                const float4 sum = four;
                four = {sum.x + x[0], sum.y + x[1], sum.z + x[2], sum.w + x[3]};
            }
        }
        accumulate<D, 4, tiles>(a, context.straight, kD, query, dv);
#pragma unroll
        for (int r = 0; r < tiles; ++r) to_left(e[r], a[r]);
        accumulate<D, 4, tiles>(a, context.straight, kQ, query, dk);
    }
}

}  // namespace vvtq::engine::cuda
