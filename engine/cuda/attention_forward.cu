#include "engine/composed.h"
#include "engine/cuda/attention_launch.cuh"
#include "engine/cuda/attention_tiles.cuh"
#include "engine/cuda/families.h"

namespace vvtq::engine::cuda {

AttentionArguments attention_arguments(const Tensor& z, const AttentionProblem& problem) {
    const AttentionSizes sizes(z, problem);
    AttentionArguments s{};
    s.z = pointer<bf16>(z);
    s.input_scale = pointer<float>(problem.input_scale);
    for (size_t t = 0; t < 3; ++t) {
        s.weight_scale[t] = pointer<float>(problem.weight_scale[t]);
        if (problem.bias[t].defined()) check_size(problem.bias[t], sizes.channels(), DType::f32);
        s.bias[t] = pointer<float>(problem.bias[t]);
        s.step[t] = argument_of(*problem.quantizers()[t]);
    }
    s.probability = argument_of(problem.probability);
    s.output = argument_of(problem.output);
    s.groups = static_cast<int>(problem.groups);
    s.problems = static_cast<int>(sizes.batch);
    s.tokens = static_cast<int>(sizes.tokens);
    if (problem.order.defined()) check_size(problem.order, z.shape()[1], DType::i32);
    s.order = pointer<int>(problem.order);
    s.masked = problem.mask.defined();
    s.heads = static_cast<int>(sizes.heads);
    s.width = static_cast<int>(sizes.width);
    s.scale = static_cast<float>(problem.scale);
    const Tensor* const b = problem.bias;
    s.vectors = s.width % 8 == 0 && aligned(16, z, b[0], b[1], b[2]);
    s.paired = s.width % 2 == 0 && aligned(4, z);
    return s;
}

namespace {

/// One thread an element of `y` (groups, heads, R, R).
__global__ void score_terms_kernel(const float* bias, const float* mask, int heads, int tokens, int rows,
                                   int64_t count, bool by_key, float* y) {
    const int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (e >= count) return;
    const int key = static_cast<int>(e % rows), query = static_cast<int>(e / rows % rows);
    const int64_t table = e / rows / rows, head = table % heads, group = table / heads;
    float term = key < tokens ? 0.0f : -INFINITY;
    if (key < tokens && query < tokens) {
        const int place = query * tokens + key, size = tokens * tokens;
        if (bias != nullptr) term += bias[head * size + place];
        if (mask != nullptr) term += mask[group * size + place];
    }
    const int row = by_key ? key : query, column = by_key ? query : key;
    const int piece = row / 16 * (rows / 16) + column / 16;
    y[table * rows * rows + piece * 256 + place_in_piece(row % 16, column % 16)] = term * kLog2e;
}

/// Tiles of 16 rows that a warp works on at a time.
template <int D>
inline constexpr int kForwardTiles = 1;
template <int D>
inline constexpr int kWarps = D <= 32   ? 24
                              : D <= 64 ? 16
                                        : 8;  // a multiprocessor has registers for

/// Codes of query rows from row `row` as left factors, straight from the products.
template <int D, bool whole, bool grouped>
__device__ Left<D, 2, kForwardTiles<D>> load_queries(const AttentionArguments& s,
                                                     const Problems<grouped>& problems, int row) {
    using At = Columns<D>;
    constexpr int lines = kForwardTiles<D> * 2, words = At::count / 2;
    const int lane = static_cast<int>(threadIdx.x) % 32, ld = 3 * s.channels();
    const int head = problems.head;
    const bf16* const from = products_of(s, 0, problems.tokens.first, head);
    Pack<uint32_t, words> z[lines][At::groups];
#pragma unroll
    for (int line = 0; line < lines; ++line) {
        const int at = row + line * 8 + lane / 4;
        const int64_t place = static_cast<int64_t>(problems.tokens.row(at)) * ld;
#pragma unroll
        for (int group = 0; group < At::groups; ++group) {
            const int column = At::first(group), count = at < s.tokens ? s.width - column : 0;
            z[line][group] = load_columns<whole, At::count>(from + place + column, count, s.paired);
        }
    }
    const ProjectionQuantizer projection(s, 0);
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
template <int D, bool whole, bool grouped>
__device__ void store_rows(const AttentionArguments& s, const Problems<grouped>& problems,
                           const Accumulator (&y)[kForwardTiles<D>][D / 8], float factor, int row, bf16* o,
                           bf16* codes) {
    using At = Columns<D>;
    const Quantizer quantizer(s.output);
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int r = 0; r < kForwardTiles<D> * 2; ++r) {
        const int at = row + r * 8 + lane / 4;
        if (at >= s.tokens) continue;
        const int64_t place = problems.tokens.first + problems.tokens.row(at);
#pragma unroll
        for (int group = 0; group < At::groups; ++group) {
            const int column = At::first(group), count = s.width - column;
            const int64_t to = place * s.channels() + problems.head * s.width + column;
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

template <int D, bool quantized, bool whole, bool grouped>
__global__ void __launch_bounds__(kWarps<D> * 32, 1)
    attention_kernel(const AttentionArguments s, int key_rows, bf16* o, bf16* codes, float* lse) {
    constexpr int tiles = kForwardTiles<D>;
    extern __shared__ __align__(128) unsigned char shared[];
    const Matrices<D, 2> matrices{reinterpret_cast<bf16*>(shared)};
    const Quantizer probability(s.probability);
    const Step step_v = s.step[2].load();
    const Scores<grouped> scores(s, s.step[0].load(), s.step[1].load(), probability);
    const Reader<D, 2> straight = Reader<D, 2>::straight(matrices);
    const Reader<D, 2> crossed = Reader<D, 2>::crossed(matrices);
    const uint32_t high = pack(probability.high, probability.high);
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int rows = tiles * 16, stride = static_cast<int>(blockDim.x) / 32 * rows;
    static_assert(tiles == 1, "rows of `terms` end with those of the tiles");

    Problems<grouped> problems(s, reinterpret_cast<int*>(matrices.base + key_rows * matrices.pitch));
    const float* const terms = problems.terms(s, s.terms);
    do {
        const int head = problems.head;
        fetch_products<D, 2, whole>(s, problems, 1, key_rows, matrices, kK);
        fetch_products<D, 2, whole>(s, problems, 2, key_rows, matrices, kV);
        await_copies<1>();
        make_codes<D, 2>(s, 1, head, key_rows, matrices, kK);
        await_copies<0>();
        make_codes<D, 2>(s, 2, head, key_rows, matrices, kV);
        __syncthreads();

        for (int row = warp * rows; row < s.tokens; row += stride) {
            const Left<D, 2, tiles> queries = load_queries<D, whole>(s, problems, row);
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
#pragma unroll
                for (int r = 0; r < tiles; ++r) to_exponents(s, scores, terms, row + r * 16, key, y[r]);
#pragma unroll
                for (int r = 0; r < tiles; ++r) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const float y0 = y[r][0][half * 2], y1 = y[r][0][half * 2 + 1];
                        const float y2 = y[r][1][half * 2], y3 = y[r][1][half * 2 + 1];
                        const float top = fmaxf(most[r][half], fmaxf(fmaxf(y0, y1), fmaxf(y2, y3)));
                        const float offset = top * scores.factor();
                        const float old =
                            power_of_two((most[r][half] - top) * scores.factor());  // 1 at -1e30
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
                        row_sum(sum[r][half] * power_of_two((most[r][half] - top) * scores.factor()));
                    const float value = fmaf(top, scores.factor(), log2f(total)) * kLn2;
                    shift[r][half] = scores.shift(value);
                    const int at = row + r * 16 + half * 8 + lane / 4;
                    if (lse != nullptr && lane % 4 == 0 && at < s.tokens) {
                        lse[(static_cast<int64_t>(problems.problem) * s.heads + head) * s.tokens + at] =
                            value;
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
                    if constexpr (grouped) to_exponents(s, scores, terms, row + r * 16, key, y[r]);
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
            store_rows<D, whole>(s, problems, sums, probability.a * step_v.a, row, o, codes);
        }
    } while (problems.advance(s));
}

template <int D, bool whole>
auto* kernel_for(const AttentionArguments& s, bool grouped) {
    if (s.probability.scale != nullptr) {
        return grouped ? attention_kernel<D, true, whole, true> : attention_kernel<D, true, whole, false>;
    }
    return grouped ? attention_kernel<D, false, whole, true> : attention_kernel<D, false, whole, false>;
}

}  // namespace

Tensor score_terms(const AttentionProblem& problem, int64_t tokens, bool by_key) {
    const Tensor &bias = problem.score_bias, &mask = problem.mask;
    if (!bias.defined() && !mask.defined()) return {};
    if (bias.defined()) check_size(bias, problem.heads * tokens * tokens, DType::f32);
    if (mask.defined()) check_size(mask, problem.groups * tokens * tokens, DType::f32);
    const int64_t rows = ceil_div(tokens, 16) * 16;
    const Tensor terms({mask.defined() ? problem.groups : 1, problem.heads, rows, rows}, DType::f32,
                       Device::cuda);
    constexpr int kThreads = 256;
    launch(score_terms_kernel, dim3(static_cast<unsigned>(ceil_div(terms.numel(), kThreads))), dim3(kThreads),
           0, pointer<float>(bias), pointer<float>(mask), static_cast<int>(problem.heads),
           static_cast<int>(tokens), static_cast<int>(rows), terms.numel(), by_key, pointer<float>(terms));
    return terms;
}

void attention(Arg z, const AttentionProblem& problem, Arg o, Arg codes, Arg lse) {
    if (!has_attention_kernel(z, problem)) {
        composed::attention(z, problem, o, codes, lse);
        return;
    }
    AttentionArguments s = attention_arguments(z, problem);
    const bool grouped = is_grouped(problem);
    const int64_t tokens = z.shape()[0] * z.shape()[1];
    check_size(o, tokens * s.channels(), DType::bf16);
    if (codes.defined()) check_like(o, codes);
    if (lse.defined()) check_size(lse, tokens * s.heads, DType::f32);

    s.vectors = s.vectors && aligned(16, o, codes);
    s.paired = s.paired && aligned(4, o, codes);

    const Tensor terms = score_terms(problem, s.tokens, false);
    s.terms = pointer<float>(terms);
    const int64_t blocks = problems_at_a_time(s, grouped) * s.heads;
    with_width(s.width, [&]<int D>() {
        const int key_rows = s.rows();
        const Plan plan = plan_for(ceil_div(s.tokens, kForwardTiles<D> * 16), kWarps<D>, [&](int) {
            const size_t row = Matrices<D, 2>::pitch * sizeof(bf16) + (grouped ? sizeof(int) : 0);
            return static_cast<size_t>(key_rows) * row;
        });
        auto* const kernel =
            s.vectors && s.width == D ? kernel_for<D, true>(s, grouped) : kernel_for<D, false>(s, grouped);
        allow_memory(kernel, plan.shared);
        launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(plan.warps * 32)),
               plan.shared, s, key_rows, pointer<bf16>(o), pointer<bf16>(codes), pointer<float>(lse));
    });
}

}  // namespace vvtq::engine::cuda
