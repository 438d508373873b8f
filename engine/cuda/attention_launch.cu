#include "engine/cuda/attention_launch.cuh"

#include "engine/cuda/attention_tiles.cuh"

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

}  // namespace vvtq::engine::cuda
