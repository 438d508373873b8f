// weighted_sum: residual branches with learned scalars.
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

/// size: elements of a sample, a multiple of N
template <int N, typename T>
__global__ void sum_kernel(const T* x, const T* f, const float* keep, const float* k1, const float* k2,
                           int64_t packs, int64_t size, T* y) {
    const float a = *k1, b = *k2;
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        const float with = keep != nullptr ? keep[i * N / size] * b : b;
        const auto sum = [=](int, float u, float v) { return a * u + with * v; };
        store(y + i * N, apply<N, T>(sum, load<N>(x + i * N), load<N>(f + i * N)));
    }
}

/// partial (2, blocks): sums of dy x and of keep dy f over what each block meets
template <int N, typename T>
__global__ void __launch_bounds__(kPassThreads)
    backward_kernel(const T* dy, const T* x, const T* f, const float* keep, const float* k1, const float* k2,
                    int64_t packs, int64_t size, T* dx, T* df, float* partial) {
    const float a = *k1, b = *k2;
    float of_x = 0.0f, of_f = 0.0f;
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        const float kept = keep != nullptr ? keep[i * N / size] : 1.0f;
        const Pack<T, N> g = load<N>(dy + i * N), u = load<N>(x + i * N), v = load<N>(f + i * N);
        store(dx + i * N, apply<N, T>([=](int, float d) { return a * d; }, g));
        store(df + i * N, apply<N, T>([=](int, float d) { return kept * b * d; }, g));
        float with_f = 0.0f;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            of_x += to_float(g.at[k]) * to_float(u.at[k]);
            with_f += to_float(g.at[k]) * to_float(v.at[k]);
        }
        of_f += kept * with_f;
    }
    of_x = block_sum<kPassThreads>(of_x);
    of_f = block_sum<kPassThreads>(of_f);
    if (threadIdx.x > 0) return;
    partial[blockIdx.x] = of_x;
    partial[gridDim.x + blockIdx.x] = of_f;
}

}  // namespace

void weighted_sum(Arg x, Arg f, Arg keep, Arg k1, Arg k2, Arg y) {
    check_like(x, y);
    check_like(f, y);
    check_size(k1, 1, DType::f32);
    check_size(k2, 1, DType::f32);
    const int64_t size = sample_size(x, keep);
    with_activation(x.dtype(), [&]<typename T>() {
        constexpr int N = kPack<T>;
        const bool vector = x.numel() % N == 0 && size % N == 0 && aligned(16, x, f, y);
        const int64_t packs = x.numel() / (vector ? N : 1);
        launch(vector ? sum_kernel<N, T> : sum_kernel<1, T>, pass_blocks(packs), kPassThreads, 0,
               pointer<T>(x), pointer<T>(f), pointer<float>(keep), pointer<float>(k1), pointer<float>(k2),
               packs, size, pointer<T>(y));
    });
}

void weighted_sum_backward(Arg dy, Arg x, Arg f, Arg keep, Arg k1, Arg k2, Arg dx, Arg df, Arg dk1, Arg dk2) {
    check_like(dy, x);
    check_like(f, x);
    check_like(dx, x);
    check_like(df, x);
    check_size(k1, 1, DType::f32);
    check_size(k2, 1, DType::f32);
    check_size(dk1, 1, DType::f32);
    check_size(dk2, 1, DType::f32);
    if (x.numel() == 0) {
        fill(0.0, dk1);
        return fill(0.0, dk2);
    }
    const int64_t size = sample_size(x, keep);
    with_activation(x.dtype(), [&]<typename T>() {
        constexpr int N = kPack<T>;
        const bool vector = x.numel() % N == 0 && size % N == 0 && aligned(16, dy, x, f, dx, df);
        const int64_t packs = x.numel() / (vector ? N : 1);
        const auto blocks = static_cast<unsigned>(std::min<int64_t>(pass_blocks(packs), kPartials));
        const Tensor partial(Shape{2, static_cast<int64_t>(blocks)}, DType::f32, Device::cuda);
        launch(vector ? backward_kernel<N, T> : backward_kernel<1, T>, blocks, kPassThreads, 0,
               pointer<T>(dy), pointer<T>(x), pointer<T>(f), pointer<float>(keep), pointer<float>(k1),
               pointer<float>(k2), packs, size, pointer<T>(dx), pointer<T>(df), pointer<float>(partial));
        for (const auto& [row, to] : {std::pair<int64_t, Tensor>{0, dk1}, {1, dk2}}) {
            launch(sum_partials<float, float>, 1, kPassThreads, 0,
                   pointer<float>(partial.slice(row, row + 1)), int64_t{blocks}, 1.0, pointer<float>(to));
        }
    });
}

}  // namespace vvtq::engine::cuda
