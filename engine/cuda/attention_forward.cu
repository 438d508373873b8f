#include "engine/composed.h"
#include "engine/cuda/attention.cuh"
#include "engine/cuda/families.h"

namespace vvtq::engine::cuda {

AttentionArguments attention_arguments(const Tensor& z, const AttentionSteps& steps) {
    const Shape& shape = z.shape();
    VVTQ_CHECK(shape.rank() == 3 && steps.heads > 0 && shape[2] % (3 * steps.heads) == 0, "z ", shape.str(),
               ", ", steps.heads, " heads");
    const int64_t channels = shape[2] / 3, width = channels / steps.heads;
    AttentionArguments s{};
    s.z = pointer<bf16>(z);
    s.input_alpha = pointer<float>(steps.input_alpha);
    const LsqStep* const quantizers[3] = {&steps.q, &steps.k, &steps.v};
    for (int t = 0; t < 3; ++t) {
        s.weight_alpha[t] = pointer<float>(steps.weight_alpha[t]);
        if (steps.bias[t].defined()) check_size(steps.bias[t], channels, DType::f32);
        s.bias[t] = pointer<float>(steps.bias[t]);
        s.step[t] = argument_of(*quantizers[t]);
    }
    s.probability = argument_of(steps.probability);
    s.output = argument_of(steps.output);
    s.tokens = static_cast<int>(shape[1]);
    s.heads = static_cast<int>(steps.heads);
    s.width = static_cast<int>(width);
    s.scale = static_cast<float>(steps.scale);
    s.aligned = width % 8 == 0 && reinterpret_cast<uintptr_t>(z.raw()) % 16 == 0;
    return s;
}

namespace {

/// Blocks of 16 query rows that a warp works on at a time: each piece of k and v it reads serves all of them.
template <int D>
constexpr int kTiles = D <= 64 ? 2 : 1;

/// What a warp keeps of its query rows.
template <int D>
struct Rows {
    static constexpr int tiles = kTiles<D>;
    uint32_t q[tiles][D / 16][4];

    __device__ Rows(uint32_t matrix, const Reader<D>& reader, int row) {
#pragma unroll
        for (int r = 0; r < tiles; ++r) {
#pragma unroll
            for (int c = 0; c < D / 16; ++c) reader.read(matrix, row + r * 16, c, q[r][c]);
        }
    }
    /// y = q . k^T for 16 keys
    __device__ void scores(uint32_t k, const Reader<D>& crossed, int key, Accumulator (&y)[tiles][2]) const {
#pragma unroll
        for (int r = 0; r < tiles; ++r) {
            clear(y[r][0]);
            clear(y[r][1]);
        }
#pragma unroll
        for (int c = 0; c < D / 16; ++c) {
            uint32_t b[4];
            crossed.read(k, key, c, b);
#pragma unroll
            for (int r = 0; r < tiles; ++r) {
                multiply(q[r][c], b[0], b[1], y[r][0]);
                multiply(q[r][c], b[2], b[3], y[r][1]);
            }
        }
    }
};

/// Rows of the head of the output, from accumulators through the warp's own rows of shared memory.
template <int D>
__device__ void store_rows(const AttentionArguments& s, const Accumulator (&y)[kTiles<D>][D / 8],
                           float factor, bf16* stage, int row, int64_t first, bf16* o, bf16* codes) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kTiles<D>; ++r) {
#pragma unroll
        for (int c = 0; c < D / 8; ++c) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int at = row + r * 16 + lane / 4 + half * 8;
                auto* pair = reinterpret_cast<uint32_t*>(&piece_of<D>(stage, at, c)) + lane % 4;
                *pair = pack(y[r][c][half * 2] * factor, y[r][c][half * 2 + 1] * factor);
            }
        }
    }
    __syncwarp();
    const Quantizer quantizer(s.output);
    constexpr int pieces = D / 8;
    for (int i = lane; i < kTiles<D> * 16 * pieces; i += 32) {
        const int at = row + i / pieces, piece = i % pieces, count = min(8, s.width - piece * 8);
        if (at >= s.tokens || count <= 0) continue;
        Eight x = piece_of<D>(stage, at, piece);
        const int64_t to = first + static_cast<int64_t>(at) * s.channels() + piece * 8;
        store_eight(o + to, x, count, s.aligned);
        if (codes == nullptr) continue;
#pragma unroll
        for (int e = 0; e < 8; ++e) x.at[e] = from_float<bf16>(quantizer.code(to_float(x.at[e])));
        store_eight(codes + to, x, count, s.aligned);
    }
}

template <int D, bool quantized>
__global__ void __launch_bounds__(kMostWarps * 32, D <= 64 ? 2 : 1)
    attention_kernel(const AttentionArguments s, int query_rows, int key_rows, bf16* o, bf16* codes,
                     float* lse) {
    constexpr int tiles = kTiles<D>;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16* const q = reinterpret_cast<bf16*>(shared);
    bf16* const k = q + query_rows * D;
    bf16* const v = k + key_rows * D;
    const int sample = static_cast<int>(blockIdx.x) / s.heads, head = static_cast<int>(blockIdx.x) % s.heads;
    load_codes<D>(s, 0, sample, head, query_rows, q);
    load_codes<D>(s, 1, sample, head, key_rows, k);
    load_codes<D>(s, 2, sample, head, key_rows, v);
    __syncthreads();

    const Quantizer probability(s.probability);
    const Step step_v = s.step[2].load();
    const Scores scores(s, s.step[0].load(), s.step[1].load(), probability);
    const Reader<D> straight = Reader<D>::straight(), crossed = Reader<D>::crossed();
    const uint32_t k_at = shared_address(k), v_at = shared_address(v);
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int rows = tiles * 16, stride = static_cast<int>(blockDim.x) / 32 * rows;

    for (int row = warp * rows; row < query_rows; row += stride) {
        const Rows<D> queries(shared_address(q), straight, row);
        // Every thread first takes the maximum and sum of what it sees itself of its rows.
        float most[tiles][2], sum[tiles][2], shift[tiles][2];
#pragma unroll
        for (int i = 0; i < tiles * 2; ++i) {
            most[i / 2][i % 2] = -1e30f;
            sum[i / 2][i % 2] = 0.0f;
        }
        for (int key = 0; key < key_rows; key += 16) {
            Accumulator y[tiles][2];
            queries.scores(k_at, crossed, key, y);
            if (key + 16 > s.tokens) {
#pragma unroll
                for (int i = 0; i < tiles * 8; ++i) {
                    const int column = key + i / 4 % 2 * 8 + lane % 4 * 2 + i % 2;
                    if (column >= s.tokens) y[i / 8][i / 4 % 2][i % 4] = -INFINITY;
                }
            }
#pragma unroll
            for (int r = 0; r < tiles; ++r) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float y0 = y[r][0][half * 2], y1 = y[r][0][half * 2 + 1];
                    const float y2 = y[r][1][half * 2], y3 = y[r][1][half * 2 + 1];
                    const float top = fmaxf(most[r][half], fmaxf(fmaxf(y0, y1), fmaxf(y2, y3)));
                    const float offset = top * scores.factor;
                    const float old = power_of_two(fmaf(most[r][half], scores.factor, -offset));
                    sum[r][half] =
                        fmaf(sum[r][half], old, scores.weight(y0, offset) + scores.weight(y1, offset)) +
                        (scores.weight(y2, offset) + scores.weight(y3, offset));
                    most[r][half] = top;
                }
            }
        }
#pragma unroll
        for (int r = 0; r < tiles; ++r) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float top = row_max(most[r][half]);
                const float total =
                    row_sum(sum[r][half] * power_of_two((most[r][half] - top) * scores.factor));
                const float value = fmaf(top, scores.factor, log2f(total)) * kLn2;
                shift[r][half] = scores.shift(value);
                const int at = row + r * 16 + half * 8 + lane / 4;
                if (lse != nullptr && lane % 4 == 0 && at < s.tokens) {
                    lse[static_cast<int64_t>(blockIdx.x) * s.tokens + at] = value;
                }
            }
        }

        Accumulator sums[tiles][D / 8];
#pragma unroll
        for (int i = 0; i < tiles * D / 8; ++i) clear(sums[i / (D / 8)][i % (D / 8)]);
        for (int key = 0; key < key_rows; key += 16) {
            Accumulator y[tiles][2];
            queries.scores(k_at, crossed, key, y);
            uint32_t p[tiles][4];
#pragma unroll
            for (int r = 0; r < tiles; ++r) {
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    const float w = scores.weight(y[r][i / 4][i % 4], shift[r][i / 2 % 2]);
                    y[r][i / 4][i % 4] = quantized ? nearest(min_nan(w, probability.high)) : w;
                }
                to_left(y[r], quantized, p[r]);
            }
#pragma unroll
            for (int c = 0; c < D / 16; ++c) {
                uint32_t b[4];
                straight.read_transposed(v_at, key, c, b);
#pragma unroll
                for (int r = 0; r < tiles; ++r) {
                    multiply(p[r], b[0], b[1], sums[r][c * 2]);
                    multiply(p[r], b[2], b[3], sums[r][c * 2 + 1]);
                }
            }
        }
        const int64_t first = static_cast<int64_t>(sample) * s.tokens * s.channels() + head * s.width;
        store_rows<D>(s, sums, probability.a * step_v.a, q, row, first, o, codes);
    }
}

}  // namespace

void attention(In z, const AttentionSteps& steps, In o, In codes, In lse) {
    if (z.dtype() != DType::bf16 || steps.score_bias.defined() || steps.mask.defined()) {
        composed::attention(z, steps, o, codes, lse);
        return;
    }
    const AttentionArguments s = attention_arguments(z, steps);
    const int64_t samples = z.shape()[0], blocks = samples * s.heads;
    check_size(o, samples * s.tokens * s.channels(), DType::bf16);
    if (codes.defined()) check_like(o, codes);
    if (lse.defined()) check_size(lse, blocks * s.tokens, DType::f32);
    VVTQ_CHECK(steps.probability.range.high <= 255, "probability codes up to ", steps.probability.range.high);

    bool done = false;
    with_width(s.width, [&]<int D>() {
        const int64_t key_rows = ceil_div(s.tokens, 16) * 16;
        const int64_t units = ceil_div(s.tokens, kTiles<D> * 16), query_rows = units * kTiles<D> * 16;
        const size_t shared = static_cast<size_t>(query_rows + 2 * key_rows) * D * sizeof(bf16);
        if (shared > gpu().shared_memory) return;
        auto* const kernel =
            s.probability.alpha != nullptr ? attention_kernel<D, true> : attention_kernel<D, false>;
        VVTQ_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(shared)));
        launch(kernel, dim3(static_cast<unsigned>(blocks)),
               dim3(static_cast<unsigned>(warps_for(units) * 32)), shared, s, query_rows, key_rows,
               pointer<bf16>(o), pointer<bf16>(codes), pointer<float>(lse));
        done = true;
    });
    if (!done) composed::attention(z, steps, o, codes, lse);
}

}  // namespace vvtq::engine::cuda
