#include "engine/composed.h"
#include "engine/cuda/attention_tiles.cuh"
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
    const Tensor* const b = steps.bias;
    s.vectors = width % 8 == 0 && aligned(16, z, b[0], b[1], b[2]);
    s.paired = width % 2 == 0 && aligned(4, z);
    return s;
}

namespace {

/// Tiles of 16 rows that a warp works on at a time.
template <int D>
inline constexpr int kForwardTiles = 1;
template <int D>
inline constexpr int kWarps = D <= 64 ? 16 : 8;  // a multiprocessor has registers for

/// Codes of query rows from row `row` as left factors, straight from the products.
template <int D, bool whole>
__device__ Left<D, 2, kForwardTiles<D>> load_queries(const AttentionArguments& s, int sample, int head,
                                                     int row) {
    using At = Columns<D>;
    constexpr int lines = kForwardTiles<D> * 2, words = At::count / 2;
    const int lane = static_cast<int>(threadIdx.x) % 32, ld = 3 * s.channels();
    const bf16* const from = products_of(s, 0, sample, head);
    Pack<uint32_t, words> z[lines][At::groups];
#pragma unroll
    for (int line = 0; line < lines; ++line) {
        const int at = row + line * 8 + lane / 4;
#pragma unroll
        for (int group = 0; group < At::groups; ++group) {
            const int column = At::first(group), count = at < s.tokens ? s.width - column : 0;
            z[line][group] = load_columns<whole, At::count>(from + static_cast<int64_t>(at) * ld + column,
                                                            count, s.paired);
        }
    }
    const Projection projection(s, 0);
    Left<D, 2, kForwardTiles<D>> y;
#pragma unroll
    for (int group = 0; group < At::groups; ++group) {
#pragma unroll
        for (int i = 0; i < words; ++i) {
            const int column = At::first(group) + i * 2, tile = At::at(group, i * 2);
            float offset[2] = {0.0f, 0.0f};
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                if (s.bias[0] != nullptr && (whole || column + j < s.width)) {
                    offset[j] = s.bias[0][head * s.width + column + j] * projection.unit;
                }
            }
#pragma unroll
            for (int line = 0; line < lines; ++line) {
                const uint32_t pair = z[line][group].at[i];
                const float low = projection.scaled(low_half(pair), offset[0]);
                const float high = projection.scaled(high_half(pair), offset[1]);
                const bool real = row + line * 8 + lane / 4 < s.tokens;
                y.piece[line / 2][tile / 2][tile % 2 * 2 + line % 2] =
                    real ? projection.codes(low, high) : 0u;
            }
        }
    }
    return y;
}

/// Rows of the head of the output, from accumulators.
template <int D, bool whole>
__device__ void store_rows(const AttentionArguments& s, const Accumulator (&y)[kForwardTiles<D>][D / 8],
                           float factor, int row, int64_t first, bf16* o, bf16* codes) {
    using At = Columns<D>;
    const Quantizer quantizer(s.output);
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int r = 0; r < kForwardTiles<D> * 2; ++r) {
        const int at = row + r * 8 + lane / 4;
        if (at >= s.tokens) continue;
#pragma unroll
        for (int group = 0; group < At::groups; ++group) {
            const int column = At::first(group), count = s.width - column;
            const int64_t to = first + static_cast<int64_t>(at) * s.channels() + column;
            Pack<uint32_t, At::count / 2> x;
#pragma unroll
            for (int i = 0; i < At::count; i += 2) {
                const float* const pair = y[r / 2][At::at(group, i)] + r % 2 * 2;
                x.at[i / 2] = pack(pair[0] * factor, pair[1] * factor);
            }
            store_columns<whole>(s, o + to, x, count);
            if (codes == nullptr) continue;
            if (quantizer.on) {
#pragma unroll
                for (uint32_t& pair : x.at) {
                    const float low = quantizer.code_of(quantizer.scaled(low_half(pair)));
                    pair = pack(low, quantizer.code_of(quantizer.scaled(high_half(pair))));
                }
            }
            store_columns<whole>(s, codes + to, x, count);
        }
    }
}

enum : int { kK, kV };  // the matrices

template <int D, bool quantized, bool whole>
__global__ void __launch_bounds__(kWarps<D> * 32, 1)
    attention_kernel(const AttentionArguments s, int key_rows, bf16* o, bf16* codes, float* lse) {
    constexpr int tiles = kForwardTiles<D>;
    extern __shared__ __align__(128) unsigned char shared[];
    const Matrices<D, 2> matrices{reinterpret_cast<bf16*>(shared)};
    const int sample = static_cast<int>(blockIdx.x) / s.heads, head = static_cast<int>(blockIdx.x) % s.heads;
    fetch_products<D, 2, whole>(s, 1, sample, head, key_rows, matrices, kK);
    fetch_products<D, 2, whole>(s, 2, sample, head, key_rows, matrices, kV);
    await_copies<1>();
    make_codes<D, 2>(s, 1, head, key_rows, matrices, kK);
    await_copies<0>();
    make_codes<D, 2>(s, 2, head, key_rows, matrices, kV);
    __syncthreads();

    const Quantizer probability(s.probability);
    const Step step_v = s.step[2].load();
    const Scores scores(s, s.step[0].load(), s.step[1].load(), probability);
    const Reader<D, 2> straight = Reader<D, 2>::straight(matrices);
    const Reader<D, 2> crossed = Reader<D, 2>::crossed(matrices);
    const uint32_t high = pack(probability.high, probability.high);
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int rows = tiles * 16, stride = static_cast<int>(blockDim.x) / 32 * rows;

    for (int row = warp * rows; row < s.tokens; row += stride) {
        const Left<D, 2, tiles> queries = load_queries<D, whole>(s, sample, head, row);
        // Every thread first takes the maximum and sum of what it sees itself of its rows.
        float most[tiles][2], sum[tiles][2], shift[tiles][2];
#pragma unroll
        for (int i = 0; i < tiles * 2; ++i) {
            most[i / 2][i % 2] = -1e30f;
            sum[i / 2][i % 2] = 0.0f;
        }
        for (int key = 0; key < key_rows; key += 16) {
            Accumulator y[tiles][2];
            queries.times(crossed, kK, key, y);
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
                    const float old = power_of_two((most[r][half] - top) * scores.factor);  // 1 at -1e30
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
        clear_all(sums);
        for (int key = 0; key < key_rows; key += 16) {
            Accumulator y[tiles][2];
            queries.times(crossed, kK, key, y);
            uint32_t p[tiles][4];
#pragma unroll
            for (int r = 0; r < tiles; ++r) {
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    float& score = y[r][i / 4][i % 4];
                    score = scores.weight(score, shift[r][i / 2 % 2]);
                }
                if constexpr (quantized) {
                    to_codes(y[r], high, p[r]);
                } else {
                    to_left(y[r], p[r]);
                }
            }
            accumulate<D, 2, tiles>(p, straight, kV, key, sums);
        }
        const int64_t first = static_cast<int64_t>(sample) * s.tokens * s.channels() + head * s.width;
        store_rows<D, whole>(s, sums, probability.a * step_v.a, row, first, o, codes);
    }
}

template <int D, bool whole>
auto* kernel_for(const AttentionArguments& s) {
    return s.probability.alpha != nullptr ? attention_kernel<D, true, whole>
                                          : attention_kernel<D, false, whole>;
}

}  // namespace

void attention(In z, const AttentionSteps& steps, In o, In codes, In lse) {
    if (z.dtype() != DType::bf16 || steps.score_bias.defined() || steps.mask.defined()) {
        composed::attention(z, steps, o, codes, lse);
        return;
    }
    AttentionArguments s = attention_arguments(z, steps);
    const int64_t samples = z.shape()[0], blocks = samples * s.heads;
    check_size(o, samples * s.tokens * s.channels(), DType::bf16);
    if (codes.defined()) check_like(o, codes);
    if (lse.defined()) check_size(lse, blocks * s.tokens, DType::f32);
    VVTQ_CHECK(steps.probability.range.high <= 255, "probability codes up to ", steps.probability.range.high);

    s.vectors = s.vectors && aligned(16, o, codes);
    s.paired = s.paired && aligned(4, o, codes);

    bool done = false;
    with_width(s.width, [&]<int D>() {
        const int64_t key_rows = ceil_div(s.tokens, 16) * 16;
        const Plan plan = plan_for(ceil_div(s.tokens, kForwardTiles<D> * 16), kWarps<D>, [&](int) {
            return static_cast<size_t>(key_rows) * Matrices<D, 2>::pitch * sizeof(bf16);
        });
        if (plan.shared > gpu().shared_memory) return;
        auto* const kernel = s.vectors && s.width == D ? kernel_for<D, true>(s) : kernel_for<D, false>(s);
        allow_memory(kernel, plan.shared);
        launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(plan.warps * 32)),
               plan.shared, s, key_rows, pointer<bf16>(o), pointer<bf16>(codes), pointer<float>(lse));
        done = true;
    });
    if (!done) composed::attention(z, steps, o, codes, lse);
}

}  // namespace vvtq::engine::cuda
