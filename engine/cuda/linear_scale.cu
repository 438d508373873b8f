// linear_scale: what a layer on codes multiplies its products with and adds to them.
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

constexpr int kWarps = 4;

/// A warp takes a row of w; scale and shifted as in engine/kernels.h, sums of codes are exact.
template <int N, typename T>
__global__ void __launch_bounds__(kWarps * 32)
    linear_scale_kernel(StepArgument x, const float* w_alpha, const float* bias, const T* w, int64_t rows,
                        int64_t cols, float* scale, T* shifted) {
    const Step input = x.load(), weight(w_alpha, nullptr, 0, 0);
    const int lane = threadIdx.x % 32;
    const int64_t n = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    if (blockIdx.x == 0 && threadIdx.x == 0) *scale = input.a * weight.a;
    if (n >= rows) return;
    float sum = 0;
    if (x.beta != nullptr) {
#pragma unroll 4
        for (int64_t k = int64_t{lane} * N; k < cols; k += 32 * N) {
            const Pack<T, N> pack = load<N>(w + n * cols + k);
#pragma unroll
            for (int i = 0; i < N; ++i) sum += to_float(pack.at[i]);
        }
        sum = warp_sum(sum);
    }
    if (lane == 0) shifted[n] = from_float<T>((bias != nullptr ? bias[n] : 0.0f) + input.o * weight.a * sum);
}

}  // namespace

void linear_scale(const LsqStep& x, Arg w, Arg w_alpha, Arg bias, Arg scale, Arg shifted) {
    const int64_t rows = w.shape().rows(), cols = w.shape().cols();
    check_size(scale, 1, DType::f32);
    check_size(shifted, rows, w.dtype());
    for (const Tensor* step : {&x.alpha, &x.beta, &w_alpha}) {
        if (step->defined()) check_size(*step, 1, DType::f32);
    }
    if (bias.defined()) check_size(bias, rows, DType::f32);
    with_activation(w.dtype(), [&]<typename T>() {
        const bool vector = cols % kPack<T> == 0 && aligned(16, w);
        launch(vector ? linear_scale_kernel<kPack<T>, T> : linear_scale_kernel<1, T>,
               static_cast<unsigned>(std::max<int64_t>(1, ceil_div(rows, kWarps))), kWarps * 32, 0,
               argument_of(x), pointer<float>(w_alpha), pointer<float>(bias), pointer<T>(w), rows, cols,
               pointer<float>(scale), pointer<T>(shifted));
    });
}

}  // namespace vvtq::engine::cuda
