// attention_gradients: what attention's backward kernel does row by row: it takes up the gradient of the
// output and hands out those of q, k and v.
#pragma once

#include "engine/cuda/attention_tiles.cuh"

namespace vvtq::engine::cuda {

/// Tiles of 16 rows that a warp works on at a time.
template <int D>
inline constexpr int kBackwardTiles = 1;

/// What backward knows beside the forward problem.
struct BackwardArguments {
    AttentionArguments forward;
    const float* g[5];  // q, k, v, probability, output; null without a step
    const bf16 *dy, *o;
    const float2* softmax;  // (P, H, n) top and factor of Scores
    bf16* dz;
    float* bias_parts;   // (P, 3C) of dbias, P problems at a time
    float* alpha_parts;  // (P H, 5) of dscales, before g
    float* score_parts;  // (P, H, n, n)? of dscore_bias
    float* score_sums;   // (P, H, R, R)? scratch for them, where shared memory has no context
};

/// What scores' gradients need of their query row.
struct alignas(16) QueryRow {
    float top, factor;  // of Scores
    float limit;        // exponentials up to here are not clipped by the quantizer
    float delta;  // an estimate of the sum of P dP over keys, divided by a_v; then that sum, times `factor`
};

/// What the three projections of a head are, in shared memory.
template <int D>
struct Projections {
    ProjectionQuantizer projection[3];
    float offset[3][D];  // bias in steps, less the middle of the codes

    __device__ void load(const AttentionArguments& s, int head) {
#pragma unroll
        for (int t = 0; t < 3; ++t) {
            const ProjectionQuantizer p(s, t);
            if (threadIdx.x == 0) projection[t] = p;
            for (int i = static_cast<int>(threadIdx.x); i < D; i += static_cast<int>(blockDim.x)) {
                const bool biased = s.bias[t] != nullptr && i < s.width;
                offset[t][i] = (biased ? s.bias[t][head * s.width + i] * p.unit : 0.0f) - p.middle;
            }
        }
    }
};

/// Where a head of o and its gradient begins in the problem's first row.
template <bool grouped>
__device__ int64_t head_at(const AttentionArguments& s, const Problems<grouped>& problems) {
    return (problems.tokens.first * s.heads + problems.head) * s.width;
}

/// do = dy in(o / a_o) as matrix t, from the dy that this thread fetched, and an estimate of delta:
/// sum_j Pq dPq = do . o, which differs from sum_j P dP by what the quantizer of P does. Returns the thread's
/// part of sum dy (code - in v). Waits for all but the latest three groups of copies.
template <int D, bool whole, bool grouped>
__device__ float load_gradient(const BackwardArguments& b, const Problems<grouped>& problems,
                               float value_unit, int rows, const Matrices<D, 4>& matrices, int t,
                               QueryRow* query) {
    constexpr int kBatch = 8;  // loads in flight
    const AttentionArguments& s = b.forward;
    const Share<D> share(s.width);
    const Quantizer output(s.output);
    const bf16* const from = b.o + head_at(s, problems) + share.piece * 8;
    float coded = 0.0f, passed = 0.0f;
    for (int turn = 0; share.row(turn, 0) < rows; turn += kBatch) {
        Words o[kBatch], dy[kBatch];
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
            const int row = share.row(turn, u);
            const int count = row < s.tokens && !share.idle() ? share.count : 0;
            const int64_t place = problems.tokens.row(grouped ? min(row, s.tokens - 1) : row);
            o[u] = load_columns<whole, 8>(from + place * s.channels(), count, s.paired);
        }
        await_copies<3>();
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
            const int row = share.row(turn, u);
            dy[u] = {0, 0, 0, 0};
            if (row < rows && !share.idle()) dy[u] = matrices.piece(t, row, share.turn(u), share.piece);
        }
        __syncwarp();  // the lanes of a row exchange their places
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
            const int row = share.row(turn, u);
            if (row >= rows) break;
            float product = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; i += 2) {
                uint32_t& pair = dy[u].at[i / 2];
                const float g[2] = {low_half(pair), high_half(pair)};
                const float y[2] = {low_half(o[u].at[i / 2]), high_half(o[u].at[i / 2])};
                float d[2];
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const float v = y[j] * output.inverse, c = output.clamped(v);
                    coded = fmaf(g[j], nearest(c), coded);
                    d[j] = c == v || !output.on ? g[j] : 0.0f;
                    product = fmaf(d[j], y[j], product);
                }
                pair = pack(d[0], d[1]);
            }
            passed += product;
#pragma unroll
            for (int offset = 1; offset < Share<D>::lanes; offset *= 2) {
                product += __shfl_xor_sync(0xffffffffu, product, offset);
            }
            if (share.idle()) continue;
            matrices.scatter(t, row, share.turn(u), share.piece, dy[u]);
            if (share.piece == 0) query[row].delta = product * value_unit;
        }
    }
    return coded - passed * output.inverse;
}

/// Sums of x over the eight rows that the lanes of a column have, each handed to `out` with its index by one
/// lane.
template <int count, int offset, typename F>
__device__ void column_sums(const float (&x)[count], int first, bool mine, const F& out) {
    if constexpr (offset == 2) {
#pragma unroll
        for (int i = 0; i < count; ++i) {
            if (mine) out(first + i, x[i]);
        }
    } else {
        const bool upper = (threadIdx.x & offset) != 0;
        constexpr bool halved = count % 2 == 0;
        float y[halved ? count / 2 : count];
        if constexpr (halved) {
#pragma unroll
            for (int i = 0; i < count / 2; ++i) {
                const float other = upper ? x[i] : x[i + count / 2];
                y[i] = (upper ? x[i + count / 2] : x[i]) + __shfl_xor_sync(0xffffffffu, other, offset);
            }
        } else {
#pragma unroll
            for (int i = 0; i < count; ++i) y[i] = x[i] + __shfl_xor_sync(0xffffffffu, x[i], offset);
        }
        const int next = halved && upper ? first + count / 2 : first;
        column_sums<halved ? count / 2 : count, offset / 2>(y, next, mine && (halved || !upper), out);
    }
}

/// The thread's part of what the gradient of a quantizer's step is made of, both divided by factor.
struct Finished {
    float coded;   // sum dyq code
    float passed;  // sum dyq in(v) v
};

/// Gradients dyq = factor * x of rows of quantized q, k or v (t): through the quantizer, out as dz, and into
/// the sums of the bias. Of tile r, rows row[r].. below end[r] count.
template <int D, bool whole, bool grouped>
__device__ Finished finish_rows(const BackwardArguments& b, const Problems<grouped>& problems,
                                const Matrices<D, 4>& matrices, const Projections<D>& projections, int t,
                                const int (&row)[kBackwardTiles<D>], const int (&end)[kBackwardTiles<D>],
                                const Accumulator (&x)[kBackwardTiles<D>][D / 8], float factor,
                                float* bias_sum) {
    using At = Columns<D>;
    constexpr int lines = kBackwardTiles<D> * 2, words = At::count / 2;
    const AttentionArguments& s = b.forward;
    const int lane = static_cast<int>(threadIdx.x) % 32, ld = 3 * s.channels();
    const bf16* const from = products_of(s, t, problems.tokens.first, problems.head);
    bf16* const to = b.dz + (from - s.z);
    Pack<uint32_t, words> z[lines][At::groups];
#pragma unroll
    for (int line = 0; line < lines; ++line) {
        const int at = row[line / 2] + line % 2 * 8 + lane / 4;
        // rows that do not count are loaded all the same
        const int place = problems.tokens.row(min(at, s.tokens - 1)) * ld;
#pragma unroll
        for (int group = 0; group < At::groups; ++group) {
            const int column = At::first(group), count = whole ? At::count : s.width - column;
            z[line][group] = load_columns<whole, At::count>(from + place + column, count, s.paired);
        }
    }
    const ProjectionQuantizer projection = projections.projection[t];
    const float out = projection.weight * factor;
    Finished sum{0.0f, 0.0f};
    float sums[At::groups * At::count];
#pragma unroll
    for (int group = 0; group < At::groups; ++group) {
        const int column = At::first(group);
        float offset[At::count];
#pragma unroll
        for (int i = 0; i < At::count; i += 4) {
            const float4 four = *reinterpret_cast<const float4*>(&projections.offset[t][column + i]);
            offset[i] = four.x;
            offset[i + 1] = four.y;
            offset[i + 2] = four.z;
            offset[i + 3] = four.w;
        }
#pragma unroll
        for (int i = 0; i < At::count; ++i) sums[group * At::count + i] = 0.0f;
#pragma unroll
        for (int line = 0; line < lines; ++line) {
            const int at = row[line / 2] + line % 2 * 8 + lane / 4;
            if (at >= end[line / 2]) continue;
            const int place = problems.tokens.row(at) * ld;
            Pack<uint32_t, words>& pairs = z[line][group];
#pragma unroll
            for (int i = 0; i < At::count; i += 2) {
                const int tile = At::at(group, i);
                const float* const gradient = x[line / 2][tile] + line % 2 * 2;
                uint32_t& pair = pairs.at[i / 2];
                const uint32_t code = matrices.piece(t, at, lane / 4, tile).at[lane % 4];
                sum.coded = fmaf(gradient[0], low_half(code), sum.coded);
                sum.coded = fmaf(gradient[1], high_half(code), sum.coded);
                float d[2];
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const float v =
                        projection.scaled(j == 0 ? low_half(pair) : high_half(pair), offset[i + j]);
                    d[j] = projection.inside(v) ? gradient[j] : 0.0f;
                    sum.passed = fmaf(d[j], v, sum.passed);
                    sums[group * At::count + i + j] += d[j];
                }
                pair = pack(d[0] * out, d[1] * out);
            }
            store_columns<whole>(s, to + place + column, pairs, s.width - column);
        }
    }
    column_sums<At::groups * At::count, 16>(sums, 0, true, [&](int i, float y) {
        sum.passed = fmaf(projection.middle, y, sum.passed);
        bias_sum[At::first(0) + i / At::count * 4 * At::count + i % At::count] += y * factor;
    });
    return sum;
}

}  // namespace vvtq::engine::cuda
