#include "engine/composed.h"
#include "engine/cuda/attention_gradients.cuh"
#include "engine/cuda/attention_launch.cuh"
#include "engine/cuda/attention_scores.cuh"
#include "engine/cuda/families.h"

namespace vvtq::engine::cuda {
namespace {

template <int D>
inline constexpr int kWarps = D <= 32   ? 16
                              : D <= 48 ? 14
                              : D <= 64 ? 12
                                        : 8;  // a multiprocessor has registers for

/// Bytes of shared memory for so many rows and warps.
template <int D>
size_t backward_memory(int rows, int warps, bool grouped, bool score_sums) {
    size_t row = Matrices<D, 4>::pitch * sizeof(bf16) + sizeof(QueryRow);
    if (grouped) row += sizeof(int);
    if (score_sums) row += static_cast<size_t>(rows) * sizeof(float);
    return static_cast<size_t>(rows) * row + sizeof(Projections<D>) +
           static_cast<size_t>(warps) * (3 * D + 5) * sizeof(float);
}

template <int D, bool quantized, bool whole, bool grouped>
__global__ void __launch_bounds__(kWarps<D> * 32, 1)
    attention_backward_kernel(const BackwardArguments b, int rows) {
    const AttentionArguments& s = b.forward;
    extern __shared__ __align__(128) unsigned char shared[];
    const Matrices<D, 4> matrices{reinterpret_cast<bf16*>(shared)};
    QueryRow* const query = reinterpret_cast<QueryRow*>(matrices.base + rows * matrices.pitch);
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int warps = static_cast<int>(blockDim.x) / 32;
    auto* const projections = reinterpret_cast<Projections<D>*>(query + rows);
    float* const behind = reinterpret_cast<float*>(projections + 1);
    const bool sums_scores = grouped && b.score_parts != nullptr, outside = b.score_sums != nullptr;
    float* const score_sums =
        outside ? b.score_sums + static_cast<int64_t>(blockIdx.x) * rows * rows : behind;
    float* const bias_sums = behind + (sums_scores && !outside ? rows * rows : 0);  // (warps, 3, D)
    float* const step_sums = bias_sums + warps * 3 * D;                             // (warps, 5)

    Problems<grouped> problems(s, reinterpret_cast<int*>(step_sums + warps * 5));
    const int head = problems.head;
    const auto start_copies = [&] {
        fetch<D, 4, whole>(s, problems.tokens, b.dy + head_at(s, problems), s.channels(), rows, matrices, kD);
        commit_copies();
        fetch_products<D, 4, whole>(s, problems, kQ, rows, matrices, kQ);
        fetch_products<D, 4, whole>(s, problems, kK, rows, matrices, kK);
        fetch_products<D, 4, whole>(s, problems, kV, rows, matrices, kV);
    };
    start_copies();
    const Quantizer probability(s.probability);
    const float a_q = s.step[0].load().a, a_k = s.step[1].load().a, a_v = s.step[2].load().a;
    const Scores<grouped> scores(s, s.step[0].load(), s.step[1].load());
    for (int i = static_cast<int>(threadIdx.x); i < warps * 3 * D; i += static_cast<int>(blockDim.x)) {
        bias_sums[i] = 0.0f;
    }
    if constexpr (grouped) {
        const int count = sums_scores ? rows * rows : 0;
        for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
            score_sums[i] = 0.0f;
        }
    }
    projections->load(s, head);
    const BackwardContext<D, grouped> context{query,
                                              Reader<D, 4>::straight(matrices),
                                              Reader<D, 4>::crossed(matrices),
                                              scores,
                                              pack(probability.high, probability.high),
                                              problems.terms(s, s.terms),
                                              problems.terms(s, s.terms_by_key),
                                              sums_scores ? score_sums : nullptr};
    float* const bias_sum = bias_sums + warp * 3 * D;
    const float factor = s.scale * probability.a * a_v;
    const int units = (rows / 16 + kBackwardTiles<D> - 1) / kBackwardTiles<D>;
    float sums[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (;;) {
        for (int i = static_cast<int>(threadIdx.x); i < rows; i += static_cast<int>(blockDim.x)) {
            const int64_t first = (static_cast<int64_t>(problems.problem) * s.heads + head) * s.tokens;
            const float2 own = i < s.tokens ? b.softmax[first + i] : float2{0.0f, 0.0f};
            query[i].top = own.x;
            query[i].factor = own.y;
            query[i].limit = __fdividef(probability.high, own.y);
        }
        sums[4] += load_gradient<D, whole>(b, problems, s.step[2].load().inverse, rows, matrices, kD, query);
        await_copies<2>();
        make_codes<D, 4, whole>(s, kQ, head, matrices, kQ);
        await_copies<1>();
        make_codes<D, 4, whole>(s, kK, head, matrices, kK);
        await_copies<0>();
        make_codes<D, 4, whole>(s, kV, head, matrices, kV);
        __syncthreads();

        for (int number = warp; number < units; number += warps) {
            const Unit<D> unit(number, rows, s.tokens);
            Accumulator dq[kBackwardTiles<D>][D / 8];
            sums[3] -= query_gradient<D, quantized>(s, context, probability.a, unit, rows, dq);
            const Finished f = finish_rows<D, whole>(b, problems, matrices, *projections, kQ, unit.row,
                                                     unit.end, dq, factor * a_k, bias_sum);
            sums[0] += factor * a_k * (f.coded - f.passed);
        }
        __syncthreads();
        for (int number = warp; number < units; number += warps) {
            const Unit<D> unit(number, rows, s.tokens);
            Accumulator dk[kBackwardTiles<D>][D / 8], dv[kBackwardTiles<D>][D / 8];
            key_gradient<D, quantized>(s, context, unit, rows, dk, dv);
            const Finished f = finish_rows<D, whole>(b, problems, matrices, *projections, kK, unit.row,
                                                     unit.end, dk, factor * a_q, bias_sum + D);
            sums[1] += factor * a_q * (f.coded - f.passed);
            const Finished g = finish_rows<D, whole>(b, problems, matrices, *projections, kV, unit.row,
                                                     unit.end, dv, probability.a, bias_sum + 2 * D);
            sums[2] += probability.a * (g.coded - g.passed);
            sums[3] += g.coded;  // sum Pq dPq = sum v dv
        }
        if (!problems.advance(s)) break;
        start_copies();
    }
    sums[3] *= a_v;

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
            const int64_t row = static_cast<int64_t>(blockIdx.x) / s.heads * 3 + i / D;
            b.bias_parts[row * s.channels() + head * s.width + i % D] = sum;
        }
    }
    if constexpr (grouped) {
        if (!sums_scores) return;
        const int count = s.tokens * s.tokens;
        float* const to = b.score_parts + static_cast<int64_t>(blockIdx.x) * count;
        for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
            const int query_row = i / s.tokens, key = i % s.tokens;
            const int piece = key / 16 * (rows / 16) + query_row / 16;
            to[i] = probability.a * a_v * score_sums[piece * 256 + place_in_piece(key % 16, query_row % 16)];
        }
    }
}

template <int D, bool whole>
auto* kernel_for(const AttentionArguments& s, bool grouped) {
    if (s.probability.scale != nullptr) {
        return grouped ? attention_backward_kernel<D, true, whole, true>
                       : attention_backward_kernel<D, true, whole, false>;
    }
    return grouped ? attention_backward_kernel<D, false, whole, true>
                   : attention_backward_kernel<D, false, whole, false>;
}

constexpr int kSumThreads = 512;

/// y (columns) = column sums of parts (rows, columns), 32 columns a block; a block behind them sums dscales.
__global__ void __launch_bounds__(kSumThreads)
    sum_parts_kernel(const BackwardArguments b, const float* from, int rows, int columns, float* y,
                     float* dscales) {
    const int lane = static_cast<int>(threadIdx.x) % 32, slice = static_cast<int>(threadIdx.x) / 32;
    constexpr int slices = kSumThreads / 32;
    if (static_cast<int>(blockIdx.x) * 32 >= columns) {
        if (slice >= 5) return;
        float sum = 0.0f;
#pragma unroll 8
        for (int i = lane; i < rows * b.forward.heads; i += 32) sum += b.alpha_parts[i * 5 + slice];
        sum = warp_sum(sum);
        if (lane == 0) dscales[slice] = b.g[slice] != nullptr ? sum * *b.g[slice] : 0.0f;
        return;
    }
    __shared__ float parts[slices][32];
    const int column = static_cast<int>(blockIdx.x) * 32 + lane;
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 8
        for (int i = slice; i < rows; i += slices) sum += from[static_cast<int64_t>(i) * columns + column];
    }
    parts[slice][lane] = sum;
    __syncthreads();
    if (slice > 0 || column >= columns) return;
    for (int i = 1; i < slices; ++i) sum += parts[i][lane];
    y[column] = sum;
}

template <int D>
Plan backward_plan(const AttentionArguments& s, bool grouped, bool score_sums) {
    return plan_for(ceil_div(s.rows() / 16, kBackwardTiles<D>), kWarps<D>,
                    [&](int warps) { return backward_memory<D>(s.rows(), warps, grouped, score_sums); });
}

}  // namespace

bool has_attention_kernel(const Tensor& z, const AttentionProblem& problem) {
    if (z.dtype() != DType::bf16) return false;
    const AttentionArguments s = attention_arguments(z, problem);
    bool fits = false;
    with_width(s.width, [&]<int D>() {  // the forward kernel needs less
        fits = backward_plan<D>(s, is_grouped(problem), false).shared <= gpu().shared_memory;
    });
    return fits;
}

void attention_backward(Arg dy, Arg z, const AttentionProblem& problem, Arg o, Arg softmax, Arg dz, Arg dbias,
                        Arg dscales, Arg dscore_bias) {
    VVTQ_CHECK(!dscore_bias.defined() || problem.score_bias.defined(), "a gradient of no bias");
    if (!has_attention_kernel(z, problem)) {
        composed::attention_backward(dy, z, problem, o, softmax, dz, dbias, dscales, dscore_bias);
        return;
    }
    BackwardArguments b{};
    AttentionArguments& s = b.forward;
    s = attention_arguments(z, problem);
    const bool grouped = is_grouped(problem);
    const int64_t tokens = z.shape()[0] * z.shape()[1], columns = 3 * s.channels();
    const int64_t problems = problems_at_a_time(s, grouped), blocks = problems * s.heads;
    const int64_t scores = dscore_bias.defined() ? s.heads * s.tokens * s.tokens : 0;
    check_size(o, tokens * s.channels(), DType::bf16);
    check_size(softmax, tokens * s.heads * 2, DType::f32);
    if (scores > 0) check_size(dscore_bias, scores, DType::f32);
    check_size(dbias, columns, DType::f32);
    check_size(dscales, 5, DType::f32);
    check_like(dy, o);
    check_like(dz, z);
    const auto quantizers = problem.quantizers();
    for (size_t i = 0; i < 5; ++i)
        b.g[i] = quantizers[i]->defined() ? pointer<float>(quantizers[i]->grad_scale) : nullptr;
    b.dy = pointer<bf16>(dy);
    b.o = pointer<bf16>(o);
    b.softmax = reinterpret_cast<const float2*>(pointer<float>(softmax));
    b.dz = pointer<bf16>(dz);
    s.vectors = s.vectors && aligned(16, dy, o, dz);
    s.paired = s.paired && aligned(4, dy, o, dz);

    const Tensor terms = score_terms(problem, s.tokens, false), by_key = score_terms(problem, s.tokens, true);
    s.terms = pointer<float>(terms);
    s.terms_by_key = pointer<float>(by_key);
    with_width(s.width, [&]<int D>() {
        const int rows = s.rows();
        Plan plan = backward_plan<D>(s, grouped, scores > 0);
        Tensor score_sums;
        if (plan.shared > gpu().shared_memory) {
            plan = backward_plan<D>(s, grouped, false);
            score_sums = Tensor({blocks, rows, rows}, DType::f32, Device::cuda);
        }
        b.score_sums = pointer<float>(score_sums);
        const Tensor bias_parts(Shape{problems, columns}, DType::f32, Device::cuda);
        const Tensor alpha_parts(Shape{blocks, 5}, DType::f32, Device::cuda);
        const Tensor score_parts =
            scores > 0 ? Tensor({problems, scores}, DType::f32, Device::cuda) : Tensor();
        b.bias_parts = pointer<float>(bias_parts);
        b.alpha_parts = pointer<float>(alpha_parts);
        b.score_parts = pointer<float>(score_parts);
        auto* const kernel =
            s.vectors && s.width == D ? kernel_for<D, true>(s, grouped) : kernel_for<D, false>(s, grouped);
        allow_memory(kernel, plan.shared);
        launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(plan.warps * 32)),
               plan.shared, b, rows);
        launch(sum_parts_kernel, dim3(static_cast<unsigned>(ceil_div(columns, 32) + 1)), dim3(kSumThreads), 0,
               b, pointer<float>(bias_parts), problems, columns, pointer<float>(dbias),
               pointer<float>(dscales));
        if (scores > 0) {
            launch(sum_parts_kernel, dim3(static_cast<unsigned>(ceil_div(scores, 32))), dim3(kSumThreads), 0,
                   b, pointer<float>(score_parts), problems, scores, pointer<float>(dscore_bias), nullptr);
        }
    });
}

}  // namespace vvtq::engine::cuda
