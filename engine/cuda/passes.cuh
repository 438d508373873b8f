// passes: kernels that go over memory once, y_i = f(x_i, ...), in 16-byte accesses where addresses allow it,
// and the last step of sums whose parts are in memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/cuda/device.cuh"

namespace vvtq::engine::cuda {

inline constexpr int kPassThreads = 256;
inline constexpr int64_t kPartials = 512;  // most parts of a sum: about as many blocks as run at once

/// Elements of T in a 16-byte access.
template <typename T>
inline constexpr int kPack = 16 / static_cast<int>(sizeof(T));

/// Blocks of a pass by so many threads: no more than run at once, the threads then take strides.
inline unsigned pass_blocks(int64_t threads) {
    return static_cast<unsigned>(
        std::min(ceil_div(threads, kPassThreads), int64_t{8} * gpu().multiprocessors));
}

__device__ inline int64_t first_index() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
/// The item of a list that this block works on, the one with first_block[i] <= block < first_block[i + 1].
__device__ inline int item_of_block(const int* first_block, int count) {
    const int block = static_cast<int>(blockIdx.x);
    int low = 0, high = count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (first_block[middle] <= block ? low : high) = middle;
    }
    return low;
}
__device__ inline int64_t index_stride() { return int64_t{gridDim.x} * blockDim.x; }

template <int N, typename T>
__device__ Pack<T, N> load(const T* p) {
    return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <int N, typename T>
__device__ void store(T* p, const Pack<T, N>& value) {
    *reinterpret_cast<Pack<T, N>*>(p) = value;
}
/// N floats; p is aligned to 16 bytes where N > 1.
template <int N>
__device__ void load_floats(const float* p, float (&to)[N]) {
    constexpr int kStep = N % 4 == 0 ? 4 : 1;
#pragma unroll
    for (int i = 0; i < N; i += kStep) {
        const Pack<float, kStep> part = load<kStep>(p + i);
#pragma unroll
        for (int k = 0; k < kStep; ++k) to[i + k] = part.at[k];
    }
}

/// y_k = g(k, x_k...), computed in f32.
template <int N, typename T, typename G, typename... Packs>
__device__ Pack<T, N> apply(const G& g, const Packs&... x) {
    Pack<T, N> y;
#pragma unroll
    for (int k = 0; k < N; ++k) y.at[k] = from_float<T>(g(k, to_float(x.at[k])...));
    return y;
}

template <int N, typename T, typename F, typename... X>
__global__ void map_kernel(F f, int64_t n, T* y, const X*... x) {
    const auto g = [&](int, auto... v) { return f(v...); };
    const int64_t packs = n / N;
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        store(y + i * N, apply<N, T>(g, load<N>(x + i * N)...));
    }
    for (int64_t i = packs * N + first_index(); i < n; i += index_stride()) {
        store(y + i, apply<1, T>(g, load<1>(x + i)...));
    }
}

template <int N, typename T, typename F, typename... X>
__global__ void map_rows_kernel(F f, int64_t packs, int64_t packs_per_row, T* y, const X*... x) {
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        const int64_t row = i / packs_per_row;
        const auto g = f.template at<N>(row, (i - row * packs_per_row) * N);
        store(y + i * N, apply<N, T>(g, load<N>(x + i * N)...));
    }
}

template <typename T, typename>
using Same = T;

/// y_i = f(x_i, ...) for tensors of T.
template <typename T, typename F, typename... X>
void map(F f, const Tensor& y, const X&... x) {
    constexpr int N = kPack<T>;
    const int64_t n = y.numel();
    T* to = pointer<T>(y);
    if (aligned(16, y, x...)) {
        launch(map_kernel<N, T, F, Same<T, X>...>, pass_blocks(ceil_div(n, N)), kPassThreads, 0, f, n, to,
               pointer<T>(x)...);
    } else {
        launch(map_kernel<1, T, F, Same<T, X>...>, pass_blocks(n), kPassThreads, 0, f, n, to,
               pointer<T>(x)...);
    }
}

/// y_rc = g(c % N, x_rc, ...) with g = f.at<N>(r, c - c % N), for tensors of T with rows of `cols`. `vector`:
/// whether f's own memory allows N > 1.
template <typename T, typename F, typename... X>
void map_rows(F f, int64_t cols, bool vector, const Tensor& y, const X&... x) {
    constexpr int N = kPack<T>;
    const int64_t n = y.numel();
    T* to = pointer<T>(y);
    if (vector && cols % N == 0 && aligned(16, y, x...)) {
        launch(map_rows_kernel<N, T, F, Same<T, X>...>, pass_blocks(n / N), kPassThreads, 0, f, n / N,
               cols / N, to, pointer<T>(x)...);
    } else {
        launch(map_rows_kernel<1, T, F, Same<T, X>...>, pass_blocks(n), kPassThreads, 0, f, n, cols, to,
               pointer<T>(x)...);
    }
}

/// y (1) = factor sum partial; one block of kPassThreads.
template <typename P, typename Y>
__global__ void sum_partials(const P* partial, int64_t n, double factor, Y* y) {
    double total = 0;
    for (int64_t i = threadIdx.x; i < n; i += kPassThreads) total += static_cast<double>(partial[i]);
    total = block_sum<kPassThreads>(total);
    if (threadIdx.x == 0) *y = static_cast<Y>(factor * total);
}

}  // namespace vvtq::engine::cuda
