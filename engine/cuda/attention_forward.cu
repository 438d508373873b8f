#include "engine/composed.h"
#include "engine/cuda/attention_launch.cuh"
#include "engine/cuda/attention_tiles.cuh"
#include "engine/cuda/families.h"

namespace vvtq::engine::cuda {
namespace {

enum : int { kK, kV };  // the matrices

/// A warp works on 16 queries and holds their scores with T x 16 keys in registers. How many warps a block
/// has at most, and how many such blocks a multiprocessor has registers for.
template <int D, int T>
struct ForwardShape {
    static constexpr bool whole_row = T > 4;  // T tiles hold all keys, and the first `full` have no others
    static constexpr int full = T == 13 ? 7 : T == 7 ? 4 : 0;
    static constexpr int warps = whole_row ? 4 : 8;
    static constexpr int blocks = T > 7 ? 3 : T > 4 ? 4 : D > 64 ? 1 : 2;
};

/// What the warps of a block share beside keys and values.
template <int D, int warps>
struct ForwardShared {
    using At = Columns<D>;
    using Piece = Pack<uint32_t, At::count / 2>;

    ProjectionQuantizer query;
    Quantizer output;
    alignas(16) float offset[D];           // biases of queries in steps
    Piece raw[warps][2 * At::groups][32];  // products of the 16 queries that a warp takes next, lane by lane

    __device__ void load(const AttentionArguments& s, int head) {
        const ProjectionQuantizer p(s, 0);
        if (threadIdx.x == 0) {
            query = p;
            output = Quantizer(s.output);
        }
        for (int i = static_cast<int>(threadIdx.x); i < D; i += static_cast<int>(blockDim.x)) {
            offset[i] = s.bias[0] != nullptr && i < s.width ? s.bias[0][head * s.width + i] * p.unit : 0.0f;
        }
    }

    /// Starts to copy the products of the warp's queries from row `row`, where their rows are `whole`: its
    /// own group of copies.
    template <bool whole, bool grouped>
    __device__ void fetch(const AttentionArguments& s, const Problems<grouped>& problems, int row) {
        if constexpr (whole) {
            const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
            const bf16* const from = products_of(s, 0, problems.tokens.first, problems.head);
#pragma unroll
            for (int line = 0; line < 2; ++line) {
                const int at = row + line * 8 + lane / 4;
                if (at >= s.tokens) continue;
                const int place = problems.tokens.row(at) * 3 * s.channels();
#pragma unroll
                for (int group = 0; group < At::groups; ++group) {
                    constexpr int bytes = sizeof(Piece);
                    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(
                                     shared_address(&raw[warp][line * At::groups + group][lane])),
                                 "l"(from + place + At::first(group)), "n"(bytes)
                                 : "memory");
                }
            }
        }
        commit_copies();
    }
    /// Codes of those queries as left factors, after their copies have arrived.
    template <bool whole, bool grouped>
    __device__ Left<D, 2, 1> queries(const AttentionArguments& s, const Problems<grouped>& problems,
                                     int row) const {
        const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
        Piece z[2][At::groups];
#pragma unroll
        for (int line = 0; line < 2; ++line) {
            const int at = row + line * 8 + lane / 4;
            const bf16* const from =
                products_of(s, 0, problems.tokens.first, problems.head) +
                (whole ? 0 : static_cast<int64_t>(problems.tokens.row(at)) * 3 * s.channels());
#pragma unroll
            for (int group = 0; group < At::groups; ++group) {
                const int column = At::first(group);
                if constexpr (whole) {
                    z[line][group] = raw[warp][line * At::groups + group][lane];
                } else {
                    const int count = at < s.tokens ? s.width - column : 0;
                    z[line][group] = load_columns<whole, At::count>(from + column, count, s.paired);
                }
            }
        }
        Left<D, 2, 1> y;
#pragma unroll
        for (int group = 0; group < At::groups; ++group) {
#pragma unroll
            for (int i = 0; i < At::count; i += 2) {
                const int tile = At::at(group, i);
                const float2 own = *reinterpret_cast<const float2*>(&offset[At::first(group) + i]);
#pragma unroll
                for (int line = 0; line < 2; ++line) {
                    const uint32_t pair = z[line][group].at[i / 2];
                    const uint32_t both = query.codes(query.scaled(low_half(pair), own.x),
                                                      query.scaled(high_half(pair), own.y));
                    y.piece[0][tile / 2][tile % 2 * 2 + line] =
                        row + line * 8 + lane / 4 < s.tokens ? both : 0u;
                }
            }
        }
        return y;
    }
};

/// Rows of the head of the output, from accumulators.
template <int D, bool whole, bool grouped>
__device__ void store_rows(const AttentionArguments& s, const Problems<grouped>& problems,
                           const Quantizer& quantizer, const Accumulator (&y)[1][D / 8], float factor,
                           int row, bf16* o, bf16* codes) {
    using At = Columns<D>;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t first = problems.tokens.first * s.channels() + problems.head * s.width;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int at = row + half * 8 + lane / 4;
        if (at >= s.tokens) continue;
        const int place = problems.tokens.row(at) * s.channels();
#pragma unroll
        for (int group = 0; group < At::groups; ++group) {
            const int column = At::first(group), count = s.width - column;
            Pack<uint32_t, At::count / 2> x;
#pragma unroll
            for (int i = 0; i < At::count; i += 2) {
                const float* const pair = y[0][At::at(group, i)] + half * 2;
                x.at[i / 2] = pack(pair[0] * factor, pair[1] * factor);
            }
            store_columns<whole>(s, o + first + (place + column), x, count);
            if (codes == nullptr) continue;
            if (quantizer.on) {
#pragma unroll
                for (uint32_t& pair : x.at) pair = quantizer.codes(low_half(pair), high_half(pair));
            }
            store_columns<whole>(s, codes + first + (place + column), x, count);
        }
    }
}

/// -inf for columns of the tile at `key` that are no keys.
__device__ inline void hide_keys(int tokens, int key, Accumulator (&y)[2]) {
    asm volatile("");  // so that the tiles that need this branch to it, instead of all selecting
    const int column = key + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        if (column + i / 4 * 8 + i % 2 >= tokens) y[i / 4][i % 4] = -INFINITY;
    }
}

/// Scores of 16 queries with T x 16 keys from `key`, as exponents where `grouped`; -inf for keys that are
/// none.
template <int D, int T, bool grouped>
__device__ void row_of_scores(const AttentionArguments& s, const Left<D, 2, 1>& queries,
                              const Reader<D, 2>& crossed, const Scores<grouped>& scores, const float* terms,
                              int row, int key, Accumulator (&y)[T][2]) {
#pragma unroll
    for (int t = 0; t < T; ++t) {
        Accumulator tile[1][2];
        queries.times(crossed, kK, key + t * 16, tile);
#pragma unroll
        for (int i = 0; i < 8; ++i) y[t][i / 4][i % 4] = tile[0][i / 4][i % 4];
    }
#pragma unroll
    for (int t = 0; t < T; ++t) {
        const int first = key + t * 16;
        if (grouped && terms != nullptr && first < s.rows()) {  // else no terms hide keys that are none
            add_terms(terms, s.rows() / 16, row, first, scores.unit, y[t]);
            continue;
        }
        if constexpr (grouped) {
#pragma unroll
            for (int i = 0; i < 8; ++i) y[t][i / 4][i % 4] = __fmul_rn(y[t][i / 4][i % 4], scores.unit);
        }
        if (t >= ForwardShape<D, T>::full && first + 16 > s.tokens) hide_keys(s.tokens, first, y[t]);
    }
}

template <int D, int T, bool quantized, bool whole, bool grouped>
__global__ void __launch_bounds__(ForwardShape<D, T>::warps * 32, ForwardShape<D, T>::blocks)
    attention_kernel(const AttentionArguments s, int key_rows, bf16* o, bf16* codes, float2* softmax) {
    extern __shared__ __align__(128) unsigned char shared[];
    const Matrices<D, 2> matrices{reinterpret_cast<bf16*>(shared)};
    const Quantizer probability(s.probability);
    const Step step_v = s.step[2].load();
    const Scores<grouped> scores(s, s.step[0].load(), s.step[1].load());
    const Reader<D, 2> straight = Reader<D, 2>::straight(matrices);
    const Reader<D, 2> crossed = Reader<D, 2>::crossed(matrices);
    const uint32_t high = pack(probability.high, probability.high);
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int stride = static_cast<int>(blockDim.x) / 2;
    constexpr bool one = ForwardShape<D, T>::whole_row;

    using Shared = ForwardShared<D, ForwardShape<D, T>::warps>;
    Shared& common = *reinterpret_cast<Shared*>(matrices.base + key_rows * matrices.pitch);
    Problems<grouped> problems(s, reinterpret_cast<int*>(&common + 1));
    common.load(s, problems.head);
    const float* const terms = problems.terms(s, s.terms);
    do {
        const int head = problems.head;
        common.template fetch<whole>(s, problems, warp * 16);
        fetch_products<D, 2, whole>(s, problems, 1, key_rows, matrices, kK);
        fetch_products<D, 2, whole>(s, problems, 2, key_rows, matrices, kV);
        await_copies<1>();
        make_codes<D, 2, whole>(s, 1, head, matrices, kK);
        await_copies<0>();
        make_codes<D, 2, whole>(s, 2, head, matrices, kV);
        __syncthreads();

        for (int row = warp * 16; row < s.tokens; row += stride) {
            await_copies<0>();
            const Left<D, 2, 1> queries = common.template queries<whole>(s, problems, row);
            common.template fetch<whole>(s, problems, row + stride);
            Accumulator y[T][2];
            float top[2] = {-1e30f, -1e30f}, sum[2] = {0.0f, 0.0f}, factor[2];
            for (int key = 0; key < (one ? 1 : key_rows); key += T * 16) {
                row_of_scores<D, T>(s, queries, crossed, scores, terms, row, key, y);
                float most[2][4], part[2][4];
#pragma unroll
                for (int i = 0; i < 8; ++i) most[i / 4][i % 4] = top[i / 4];
#pragma unroll
                for (int i = 0; i < T * 8; ++i) {
                    float& largest = most[i / 2 % 2][i / 4 % 2 * 2 + i % 2];
                    largest = fmaxf(largest, y[i / 8][i / 4 % 2][i % 4]);
                }
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float* const m = most[half];
                    const float largest =
                        row_max(fmaxf(fmaxf(m[0], m[1]), fmaxf(m[2], m[3]))) * scores.factor();
                    part[half][0] = sum[half] * power_of_two(top[half] - largest);
                    part[half][1] = part[half][2] = part[half][3] = 0.0f;
                    top[half] = largest;
                }
#pragma unroll
                for (int i = 0; i < T * 8; ++i) {
                    float& score = y[i / 8][i / 4 % 2][i % 4];
                    score = scores.exponential(score, top[i / 2 % 2]);
                    part[i / 2 % 2][i / 4 % 2 * 2 + i % 2] += score;
                }
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    sum[half] = (part[half][0] + part[half][1]) + (part[half][2] + part[half][3]);
                }
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                factor[half] = 1.0f / (row_sum(sum[half]) * probability.a);
                const int at = row + half * 8 + lane / 4;
                if (softmax != nullptr && lane % 4 == 0 && at < s.tokens) {
                    softmax[(static_cast<int64_t>(problems.problem) * s.heads + head) * s.tokens + at] = {
                        top[half], factor[half]};
                }
            }

            Accumulator sums[1][D / 8];
            clear_all(sums);
            for (int key = one ? 0 : key_rows - T * 16; key >= 0; key -= T * 16) {
                if (!one && key + T * 16 < key_rows) {
                    row_of_scores<D, T>(s, queries, crossed, scores, terms, row, key, y);
#pragma unroll
                    for (int i = 0; i < T * 8; ++i) {
                        float& score = y[i / 8][i / 4 % 2][i % 4];
                        score = scores.exponential(score, top[i / 2 % 2]);
                    }
                }
#pragma unroll
                for (int t = 0; t < T; ++t) {
                    uint32_t p[1][4];
                    to_probabilities<quantized>(y[t], factor, high, p[0]);
                    accumulate<D, 2, 1>(p, straight, kV, key + t * 16, sums);
                }
            }
            store_rows<D, whole>(s, problems, common.output, sums, probability.a * step_v.a, row, o, codes);
        }
    } while (problems.advance(s));
}

using ForwardKernel = void (*)(AttentionArguments, int, bf16*, bf16*, float2*);

/// How a forward kernel is launched.
struct ForwardPlan {
    ForwardKernel kernel;
    int key_rows, warps;
    size_t shared;
};

template <int D, int T, bool whole>
ForwardPlan forward_plan(const AttentionArguments& s, bool grouped) {
    const int units = s.rows() / 16, turns = static_cast<int>(ceil_div(units, ForwardShape<D, T>::warps));
    const int key_rows =
        (ForwardShape<D, T>::whole_row ? 1 : static_cast<int>(ceil_div(s.tokens, T * 16))) * T * 16;
    const size_t row = Matrices<D, 2>::pitch * sizeof(bf16) + (grouped ? sizeof(int) : 0);
    ForwardPlan plan{
        nullptr, key_rows, static_cast<int>(ceil_div(units, turns)),
        static_cast<size_t>(key_rows) * row + sizeof(ForwardShared<D, ForwardShape<D, T>::warps>)};
    if (s.probability.scale != nullptr) {
        plan.kernel =
            grouped ? attention_kernel<D, T, true, whole, true> : attention_kernel<D, T, true, whole, false>;
    } else {
        plan.kernel = grouped ? attention_kernel<D, T, false, whole, true>
                              : attention_kernel<D, T, false, whole, false>;
    }
    return plan;
}

/// That with the fewest rows of keys, and among equal ones with the most in registers.
ForwardPlan forward_plan(const AttentionArguments& s, bool grouped) {
    ForwardPlan best{};
    const auto offer = [&](const ForwardPlan& plan) {
        if (best.kernel == nullptr || (plan.key_rows >= s.tokens && plan.key_rows <= best.key_rows))
            best = plan;
    };
    with_width(s.width, [&]<int D>() {
        if (!s.vectors || s.width != D) return offer(forward_plan<D, 4, false>(s, grouped));
        offer(forward_plan<D, 4, true>(s, grouped));
        if constexpr (D == 32 || D == 64) {
            offer(forward_plan<D, 7, true>(s, grouped));
            offer(forward_plan<D, 13, true>(s, grouped));
        }
    });
    return best;
}

}  // namespace

void attention(Arg z, const AttentionProblem& problem, Arg o, Arg codes, Arg softmax) {
    if (!has_attention_kernel(z, problem)) {
        composed::attention(z, problem, o, codes, softmax);
        return;
    }
    AttentionArguments s = attention_arguments(z, problem);
    const bool grouped = is_grouped(problem);
    const int64_t tokens = z.shape()[0] * z.shape()[1];
    check_size(o, tokens * s.channels(), DType::bf16);
    if (codes.defined()) check_like(o, codes);
    if (softmax.defined()) check_size(softmax, tokens * s.heads * 2, DType::f32);

    s.vectors = s.vectors && aligned(16, o, codes);
    s.paired = s.paired && aligned(4, o, codes);

    const Tensor terms = score_terms(problem, s.tokens, false);
    s.terms = pointer<float>(terms);
    const int64_t blocks = problems_at_a_time(s, grouped) * s.heads;
    const ForwardPlan plan = forward_plan(s, grouped);
    allow_memory(plan.kernel, plan.shared);
    launch(plan.kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(plan.warps * 32)),
           plan.shared, s, plan.key_rows, pointer<bf16>(o), pointer<bf16>(codes),
           reinterpret_cast<float2*>(pointer<float>(softmax)));
}

}  // namespace vvtq::engine::cuda
