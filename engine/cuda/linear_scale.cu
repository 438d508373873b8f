// linear_scale: what a layer on codes multiplies its products with and adds to them, and gradients of weights
// that come multiplied by their steps.
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

constexpr int kWarps = 4;

/// A warp takes a row of w; scale and shifted as in engine/kernels.h, sums of codes are exact.
template <int N, typename T>
__global__ void __launch_bounds__(kWarps * 32)
    linear_scale_kernel(const float* x_scale, const float* x_offset, const float* w_scale, const float* bias,
                        const T* w, int64_t rows, int64_t cols, float* scale, T* shifted) {
    const Step input(x_scale, x_offset, nullptr), weight(w_scale, nullptr, nullptr);
    const int lane = threadIdx.x % 32;
    const int64_t n = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    if (blockIdx.x == 0 && threadIdx.x == 0) *scale = input.a * weight.a;
    if (n >= rows) return;
    float sum = 0;
    if (x_offset != nullptr) {
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

constexpr size_t kMostParts = 16;
struct PartScales {
    const float* at[kMostParts];
};

/// Part blockIdx.y of x, `size` elements.
__global__ void divide_parts_kernel(const float* x, const __grid_constant__ PartScales scales, int64_t size,
                                    float* y) {
    const float* const s = scales.at[blockIdx.y];
    const float inverse = s != nullptr ? 1.0f / *s : 1.0f;
    const int64_t begin = size * blockIdx.y;
    for (int64_t i = first_index(); i < size; i += index_stride()) y[begin + i] = x[begin + i] * inverse;
}

}  // namespace

void divide_parts(Arg x, const std::vector<Tensor>& scales, Arg y) {
    check_like(x, y);
    const size_t parts = scales.size();
    VVTQ_CHECK(parts > 0 && parts <= kMostParts && x.numel() % static_cast<int64_t>(parts) == 0,
               x.shape().str(), " in ", parts, " parts");
    PartScales table = {};
    for (size_t t = 0; t < parts; ++t) table.at[t] = pointer<float>(scales[t]);
    const int64_t size = x.numel() / static_cast<int64_t>(parts);
    launch(divide_parts_kernel, dim3(pass_blocks(size), static_cast<unsigned>(parts)), kPassThreads, 0,
           pointer<float>(x), table, size, pointer<float>(y));
}

void linear_scale(Arg x_scale, Arg x_offset, Arg w, Arg w_scale, Arg bias, Arg scale, Arg shifted) {
    const int64_t rows = w.shape().rows(), cols = w.shape().cols();
    check_size(scale, 1, DType::f32);
    check_size(shifted, rows, w.dtype());
    for (const Tensor* step : {&x_scale, &x_offset, &w_scale}) {
        if (step->defined()) check_size(*step, 1, DType::f32);
    }
    if (bias.defined()) check_size(bias, rows, DType::f32);
    with_activation(w.dtype(), [&]<typename T>() {
        const bool vector = cols % kPack<T> == 0 && aligned(16, w);
        launch(vector ? linear_scale_kernel<kPack<T>, T> : linear_scale_kernel<1, T>,
               static_cast<unsigned>(std::max<int64_t>(1, ceil_div(rows, kWarps))), kWarps * 32, 0,
               pointer<float>(x_scale), pointer<float>(x_offset), pointer<float>(w_scale),
               pointer<float>(bias), pointer<T>(w), rows, cols, pointer<float>(scale), pointer<T>(shifted));
    });
}

}  // namespace vvtq::engine::cuda
