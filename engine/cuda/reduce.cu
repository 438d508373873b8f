// reduce: sums and counts of whole tensors and of columns.
#include "engine/cuda/columns.cuh"
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

struct Square {
    __device__ double operator()(float x) const { return static_cast<double>(x) * static_cast<double>(x); }
};
struct NotFinite {
    __device__ float operator()(float x) const { return isfinite(x) ? 0.0f : 1.0f; }
    __device__ float operator()(double x) const { return isfinite(x) ? 0.0f : 1.0f; }
};

/// f64 stays as it is: it is only counted.
template <typename T>
__device__ auto read(T x) {
    if constexpr (std::is_same_v<T, double>) {
        return x;
    } else {
        return to_float(x);
    }
}

/// partial_b = sum f(x_i) over what block b meets
template <int N, typename F, typename T>
__global__ void __launch_bounds__(kPassThreads) partial_sums(F f, int64_t n, const T* x, double* partial) {
    double total = 0;
    const int64_t packs = n / N;
#pragma unroll 4
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        const Pack<T, N> pack = load<N>(x + i * N);
        auto sum = f(read(pack.at[0]));
#pragma unroll
        for (int k = 1; k < N; ++k) sum += f(read(pack.at[k]));
        total += sum;
    }
    for (int64_t i = packs * N + first_index(); i < n; i += index_stride()) total += f(read(x[i]));
    total = block_sum<kPassThreads>(total);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

template <typename T, typename Y, typename F>
void sum_of(F f, Arg x, Arg y) {
    constexpr int64_t kLeast = int64_t{4} * kPassThreads;  // accesses of a block
    const bool vector = aligned(16, x);
    const int64_t n = x.numel(), accesses = vector ? ceil_div(n, kPack<T>) : n;
    const int64_t blocks = std::min(ceil_div(accesses, kLeast), kPartials);
    const Tensor partial(Shape{std::max<int64_t>(blocks, 1)}, DType::f64, Device::cuda);
    launch(vector ? partial_sums<kPack<T>, F, T> : partial_sums<1, F, T>, static_cast<unsigned>(blocks),
           kPassThreads, 0, f, n, pointer<T>(x), pointer<double>(partial));
    launch(sum_partials<double, Y>, 1, kPassThreads, 0, pointer<double>(partial), blocks, 1.0, pointer<Y>(y));
}

}  // namespace

void sum_rows(Arg x, Arg y) {
    const int64_t cols = y.numel();
    VVTQ_CHECK(cols > 0 && x.numel() % cols == 0, x.shape().str(), " to ", y.shape().str());
    column_sums(Value{}, x, 1, x.numel() / cols, cols, 1.0, y);
}

void sum(Arg x, Arg y) {
    check_size(y, 1, DType::f32);
    with_activation(x.dtype(), [&]<typename T>() { sum_of<T, float>(Value{}, x, y); });
}

void sum_abs(Arg x, Arg y) {
    check_size(y, 1, DType::f64);
    with_activation(x.dtype(), [&]<typename T>() { sum_of<T, double>(Magnitude{}, x, y); });
}

void sum_squares(Arg x, Arg y) {
    check_size(y, 1, DType::f64);
    with_activation(x.dtype(), [&]<typename T>() { sum_of<T, double>(Square{}, x, y); });
}

void count_not_finite(Arg x, Arg y) {
    check_size(y, 1, DType::i64);
    if (x.dtype() == DType::f64) return sum_of<double, int64_t>(NotFinite{}, x, y);
    with_activation(x.dtype(), [&]<typename T>() { sum_of<T, int64_t>(NotFinite{}, x, y); });
}

}  // namespace vvtq::engine::cuda
