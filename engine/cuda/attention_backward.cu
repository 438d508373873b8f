#include "engine/composed.h"
#include "engine/cuda/attention.cuh"
#include "engine/cuda/families.h"

namespace vvtq::engine::cuda {
namespace {

/// What backward knows beside the forward problem.
struct BackwardArguments {
    AttentionArguments forward;
    const float* g[5];  // q, k, v, probability, output; null without a step
    const bf16 *dy, *o;
    const float* lse;
    bf16* dz;
    float* bias_parts;   // (B, 3C) of dbias
    float* alpha_parts;  // (B H, 5) of dalphas, before g
    bool paired;         // columns of a head start at 4-byte boundaries
};

/// What a score's gradient needs of its query row.
struct QueryRow {
    float shift;  // of Scores
    float delta;  // sum of P dP over keys, divided by a_v
};

/// do = dy in(o / a_o) into shared memory, and an estimate of delta: sum_j Pq dPq = do . o, which differs
/// from sum_j P dP by what the quantizer of P does. Returns the thread's part of sum dy (code - in v).
template <int D>
__device__ float load_gradient(const BackwardArguments& b, const Scores& scores, float value_step, int sample,
                               int head, int rows, bf16* to, QueryRow* query) {
    const AttentionArguments& s = b.forward;
    const Share<D> share(s.width);
    const Quantizer output(s.output);
    const int64_t base =
        (static_cast<int64_t>(sample) * s.tokens * s.heads + head) * s.width + share.piece * 8;
    float step_sum = 0.0f;
    constexpr int kBatch = 4;  // loads in flight
    for (int start = 0; start < rows;
         start += kBatch * share.stride) {  // as long for every lane: they exchange
        Eight dy[kBatch], o[kBatch];
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
            const int row = start + share.row + u * share.stride;
            const int count = row < s.tokens && !share.idle() ? share.count : 0;
            const int64_t at = base + static_cast<int64_t>(row) * s.channels();
            dy[u] = load_eight(b.dy + at, count, s.aligned);
            o[u] = load_eight(b.o + at, count, s.aligned);
        }
#pragma unroll
        for (int u = 0; u < kBatch; ++u) {
            const int row = start + share.row + u * share.stride;
            float product = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float y = to_float(o[u].at[i]), d = to_float(dy[u].at[i]);
                if (output.on) {
                    const float v = output.scaled(y);
                    const bool inside = output.inside(v);
                    step_sum += d * (output.code_of(v) - (inside ? v : 0.0f));
                    if (!inside) dy[u].at[i] = from_float<bf16>(0.0f);
                }
                product += to_float(dy[u].at[i]) * y;
            }
#pragma unroll
            for (int offset = 1; offset < Share<D>::lanes; offset *= 2) {
                product += __shfl_xor_sync(0xffffffffu, product, offset);
            }
            if (row >= rows || share.idle()) continue;
            piece_of<D>(to, row, share.piece) = dy[u];
            if (share.piece == 0) {
                const bool real = row < s.tokens;
                const float lse = real ? b.lse[static_cast<int64_t>(blockIdx.x) * s.tokens + row] : 0.0f;
                query[row] = {real ? scores.shift(lse) : 0.0f, real ? product / value_step : 0.0f};
            }
        }
    }
    return step_sum;
}

/// Gradients dyq = factor * x of 16 rows of quantized q, k or v (t): through the quantizer, out as dz, and
/// into the sums of bias and step. Returns the thread's part of sum dyq (code - in v).
template <int D>
__device__ float finish_rows(const BackwardArguments& b, int t, int sample, int head, int row,
                             const Accumulator (&x)[D / 8], float factor, float* bias_sum) {
    const AttentionArguments& s = b.forward;
    const Projection projection(s, t);
    const Quantizer& quantizer = projection.quantizer;
    const int lane = static_cast<int>(threadIdx.x) % 32, ld = 3 * s.channels();
    const int64_t base = static_cast<int64_t>(sample) * s.tokens * ld + t * s.channels() + head * s.width;
    const float* bias = s.bias[t] != nullptr ? s.bias[t] + head * s.width : nullptr;
    float step_sum = 0.0f;
#pragma unroll
    for (int c = 0; c < D / 8; ++c) {
        const int column = c * 8 + lane % 4 * 2, count = min(2, s.width - column);
        float sums[2] = {0.0f, 0.0f};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int at = row + half * 8 + lane / 4;
            if (at >= s.tokens || count <= 0) continue;
            const int64_t place = base + static_cast<int64_t>(at) * ld + column;
            Pair z = load_pair(s.z + place, count, b.paired);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float d = x[c][half * 2 + i] * factor;
                if (quantizer.on && i < count) {
                    const float offset = bias != nullptr ? bias[column + i] : 0.0f;
                    const float v = quantizer.scaled(projection.value(to_float(z.at[i]), offset));
                    const bool inside = quantizer.inside(v);
                    step_sum += d * (quantizer.code_of(v) - (inside ? v : 0.0f));
                    d = inside ? d : 0.0f;
                }
                sums[i] += d;
                z.at[i] = from_float<bf16>(projection.weight * d);
            }
            store_pair(b.dz + place, z, count, b.paired);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2)
                sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], offset);
            if (lane < 4) bias_sum[column + i] += sums[i];
        }
    }
    return step_sum;
}

/// What both phases of the backward kernel work with.
template <int D>
struct Room {
    uint32_t q, k, v, d;
    QueryRow* query;
    Reader<D> straight, crossed;
    Scores scores;
    float high;  // of the probability's codes
};

/// Gradient of 16 query rows; completes their delta. `x` is divided by scale a_p a_v a_k. Returns the
/// thread's part of sum dPq (code - in w) / a_v. With f = w (dw - estimate) and E = sum_j w_j k_j, the exact
/// gradient is sum_j f_j k_j - (delta - estimate) E: one pass over the keys gives delta and the gradient.
template <int D, bool quantized>
__device__ float query_gradient(const Room<D>& room, float step, int row, int keys, Accumulator (&x)[D / 8]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const Left<D, (D <= 64)> q(room.straight, room.q, row);
    const Left<D, (D <= 48)> d(room.straight, room.d, row);
    const QueryRow own[2] = {room.query[row + lane / 4], room.query[row + 8 + lane / 4]};
    Accumulator expected[D / 8];
    clear_all<D>(x);
    if constexpr (quantized) clear_all<D>(expected);
    float delta[2] = {0.0f, 0.0f}, step_sum = 0.0f;
    for (int key = 0; key < keys; key += 16) {
        Accumulator w[2], e[2];
        q.times(room.straight, room.crossed, room.k, key, w);
        d.times(room.straight, room.crossed, room.v, key, e);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int half = i / 2 % 2;
            float& weight = w[i / 4][i % 4];
            float& gradient = e[i / 4][i % 4];
            weight = room.scores.weight(weight, own[half].shift);
            const float through = through_probability<quantized>(gradient, weight, room.high);
            if constexpr (quantized) {
                const float code = nearest(min_nan(weight, room.high));
                step_sum = fmaf(gradient, code, step_sum);
                const float product = through * weight;
                step_sum -= product;
                delta[half] += product;
            }
            gradient = weight * (through - own[half].delta);
        }
        uint32_t a[4];
        to_left(e, false, a);
        if constexpr (quantized) {
            uint32_t p[4];
            to_left(w, false, p);
#pragma unroll
            for (int c = 0; c < D / 16; ++c) {
                uint32_t r[4];
                room.straight.read_transposed(room.k, key, c, r);
                multiply(a, r[0], r[1], x[c * 2]);
                multiply(a, r[2], r[3], x[c * 2 + 1]);
                multiply(p, r[0], r[1], expected[c * 2]);
                multiply(p, r[2], r[3], expected[c * 2 + 1]);
            }
        } else {
            accumulate<D>(a, room.straight, room.k, key, x);
        }
    }
    if constexpr (quantized) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            delta[half] = row_sum(delta[half]) * step;
            const float rest = delta[half] - own[half].delta;
#pragma unroll
            for (int c = 0; c < D / 8; ++c) {
                x[c][half * 2] -= rest * expected[c][half * 2];
                x[c][half * 2 + 1] -= rest * expected[c][half * 2 + 1];
            }
            if (lane % 4 == 0) room.query[row + half * 8 + lane / 4].delta = delta[half];
        }
    }
    return step_sum;
}

/// Gradients of 16 rows of keys, divided by scale a_p a_v a_q, and of values, divided by a_p.
template <int D, bool quantized>
__device__ void key_gradient(const Room<D>& room, int row, int queries, Accumulator (&dk)[D / 8],
                             Accumulator (&dv)[D / 8]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const Left<D, (D <= 64)> k(room.straight, room.k, row);
    const Left<D, (D <= 48)> v(room.straight, room.v, row);
    clear_all<D>(dk);
    clear_all<D>(dv);
    for (int query = 0; query < queries; query += 16) {
        Accumulator w[2], e[2];
        k.times(room.straight, room.crossed, room.q, query, w);
        v.times(room.straight, room.crossed, room.d, query, e);
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
            const float4 two = *reinterpret_cast<const float4*>(room.query + query + tile * 8 + lane % 4 * 2);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float& weight = w[tile][i];
                float& gradient = e[tile][i];
                weight = room.scores.weight(weight, i % 2 == 0 ? two.x : two.z);
                const float through = through_probability<quantized>(gradient, weight, room.high);
                gradient = weight * (through - (i % 2 == 0 ? two.y : two.w));
                if constexpr (quantized) weight = nearest(min_nan(weight, room.high));
            }
        }
        uint32_t a[4];
        to_left(w, quantized, a);
        accumulate<D>(a, room.straight, room.d, query, dv);
        to_left(e, false, a);
        accumulate<D>(a, room.straight, room.q, query, dk);
    }
}

/// Bytes of shared memory for so many rows.
template <int D>
size_t backward_memory(int64_t rows) {
    return static_cast<size_t>(rows) * (4 * D * sizeof(bf16) + sizeof(QueryRow)) +
           kMostWarps * (3 * D + 5) * sizeof(float);
}

template <int D, bool quantized>
__global__ void __launch_bounds__(kMostWarps * 32, D <= 64 ? 2 : 1)
    attention_backward_kernel(const BackwardArguments b, int rows) {
    const AttentionArguments& s = b.forward;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16* const q = reinterpret_cast<bf16*>(shared);
    bf16 *const k = q + rows * D, *const v = k + rows * D, *const d = v + rows * D;
    QueryRow* const query = reinterpret_cast<QueryRow*>(d + rows * D);
    float* const bias_sums = reinterpret_cast<float*>(query + rows);  // (warps, 3, D)
    float* const step_sums = bias_sums + kMostWarps * 3 * D;          // (warps, 5)
    const int sample = static_cast<int>(blockIdx.x) / s.heads, head = static_cast<int>(blockIdx.x) % s.heads;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int warps = static_cast<int>(blockDim.x) / 32;

    const Quantizer probability(s.probability);
    const float a_q = s.step[0].load().a, a_k = s.step[1].load().a, a_v = s.step[2].load().a;
    const Scores scores(s, s.step[0].load(), s.step[1].load(), probability);
    float sums[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    load_codes<D>(s, 0, sample, head, rows, q);
    load_codes<D>(s, 1, sample, head, rows, k);
    load_codes<D>(s, 2, sample, head, rows, v);
    sums[4] = load_gradient<D>(b, scores, a_v, sample, head, rows, d, query);
    for (int i = static_cast<int>(threadIdx.x); i < warps * 3 * D; i += static_cast<int>(blockDim.x)) {
        bias_sums[i] = 0.0f;
    }
    __syncthreads();

    const Room<D> room{shared_address(q),
                       shared_address(k),
                       shared_address(v),
                       shared_address(d),
                       query,
                       Reader<D>::straight(),
                       Reader<D>::crossed(),
                       scores,
                       probability.high};
    float* const bias_sum = bias_sums + warp * 3 * D;
    const float factor = s.scale * probability.a * a_v;
    for (int row = warp * 16; row < rows; row += warps * 16) {
        Accumulator dq[D / 8];
        sums[3] += query_gradient<D, quantized>(room, probability.a, row, rows, dq);
        sums[0] += finish_rows<D>(b, 0, sample, head, row, dq, factor * a_k, bias_sum);
    }
    sums[3] *= a_v;
    __syncthreads();
    for (int row = warp * 16; row < rows; row += warps * 16) {
        Accumulator dk[D / 8], dv[D / 8];
        key_gradient<D, quantized>(room, row, rows, dk, dv);
        sums[1] += finish_rows<D>(b, 1, sample, head, row, dk, factor * a_q, bias_sum + D);
        sums[2] += finish_rows<D>(b, 2, sample, head, row, dv, probability.a, bias_sum + 2 * D);
    }

#pragma unroll
    for (int i = 0; i < 5; ++i) {
        const float sum = warp_sum(sums[i]);
        if (lane == 0) step_sums[warp * 5 + i] = sum;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < 3 * D + 5; i += static_cast<int>(blockDim.x)) {
        const bool bias = i < 3 * D;
        float sum = 0.0f;
        for (int w = 0; w < warps; ++w) sum += bias ? bias_sums[w * 3 * D + i] : step_sums[w * 5 + i - 3 * D];
        if (!bias) {
            b.alpha_parts[static_cast<int64_t>(blockIdx.x) * 5 + i - 3 * D] = sum;
        } else if (i % D < s.width) {
            b.bias_parts[(static_cast<int64_t>(sample) * 3 + i / D) * s.channels() + head * s.width + i % D] =
                sum;
        }
    }
}

constexpr int kSumThreads = 256;

/// dbias (columns) = column sums of parts (samples, columns), 32 columns a block; the last block sums
/// dalphas.
__global__ void __launch_bounds__(kSumThreads)
    sum_parts_kernel(const BackwardArguments b, int samples, int columns, float* dbias, float* dalphas) {
    const int lane = static_cast<int>(threadIdx.x) % 32, slice = static_cast<int>(threadIdx.x) / 32;
    constexpr int slices = kSumThreads / 32;
    if (blockIdx.x + 1 == gridDim.x) {
        if (slice >= 5) return;
        float sum = 0.0f;
        for (int i = lane; i < samples * b.forward.heads; i += 32) sum += b.alpha_parts[i * 5 + slice];
        sum = warp_sum(sum);
        if (lane == 0) dalphas[slice] = b.g[slice] != nullptr ? sum * *b.g[slice] : 0.0f;
        return;
    }
    __shared__ float parts[slices][32];
    const int column = static_cast<int>(blockIdx.x) * 32 + lane;
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 8
        for (int i = slice; i < samples; i += slices)
            sum += b.bias_parts[static_cast<int64_t>(i) * columns + column];
    }
    parts[slice][lane] = sum;
    __syncthreads();
    if (slice > 0 || column >= columns) return;
    for (int i = 1; i < slices; ++i) sum += parts[i][lane];
    dbias[column] = sum;
}

}  // namespace

void attention_backward(In dy, In z, const AttentionSteps& steps, In o, In lse, In dz, In dbias, In dalphas,
                        In dscore_bias) {
    if (z.dtype() != DType::bf16 || steps.score_bias.defined() || steps.mask.defined()) {
        composed::attention_backward(dy, z, steps, o, lse, dz, dbias, dalphas, dscore_bias);
        return;
    }
    BackwardArguments b{};
    AttentionArguments& s = b.forward;
    s = attention_arguments(z, steps);
    const int64_t samples = z.shape()[0], blocks = samples * s.heads, columns = 3 * s.channels();
    check_size(o, samples * s.tokens * s.channels(), DType::bf16);
    check_size(lse, blocks * s.tokens, DType::f32);
    check_size(dbias, columns, DType::f32);
    check_size(dalphas, 5, DType::f32);
    check_like(dy, o);
    check_like(dz, z);
    const LsqStep* const quantizers[5] = {&steps.q, &steps.k, &steps.v, &steps.probability, &steps.output};
    for (int i = 0; i < 5; ++i)
        b.g[i] = quantizers[i]->defined() ? pointer<float>(quantizers[i]->g) : nullptr;
    b.dy = pointer<bf16>(dy);
    b.o = pointer<bf16>(o);
    b.lse = pointer<float>(lse);
    b.dz = pointer<bf16>(dz);
    b.paired = s.width % 2 == 0;

    bool done = false;
    with_width(s.width, [&]<int D>() {
        const int64_t tiles = ceil_div(s.tokens, 16);
        const size_t shared = backward_memory<D>(tiles * 16);
        if (shared > gpu().shared_memory) return;
        const Tensor bias_parts(Shape{samples, columns}, DType::f32, Device::cuda);
        const Tensor alpha_parts(Shape{blocks, 5}, DType::f32, Device::cuda);
        b.bias_parts = pointer<float>(bias_parts);
        b.alpha_parts = pointer<float>(alpha_parts);
        auto* const kernel = steps.probability.defined() ? attention_backward_kernel<D, true>
                                                         : attention_backward_kernel<D, false>;
        VVTQ_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(shared)));
        launch(kernel, dim3(static_cast<unsigned>(blocks)),
               dim3(static_cast<unsigned>(warps_for(tiles) * 32)), shared, b, tiles * 16);
        launch(sum_parts_kernel, dim3(static_cast<unsigned>(ceil_div(columns, 32) + 1)), dim3(kSumThreads), 0,
               b, samples, columns, pointer<float>(dbias), pointer<float>(dalphas));
        done = true;
    });
    if (!done) composed::attention_backward(dy, z, steps, o, lse, dz, dbias, dalphas, dscore_bias);
}

}  // namespace vvtq::engine::cuda
