// order: tokens in another order, their mean, and tables that are read by index.
#include "engine/cuda/columns.cuh"
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"
#include "engine/cuda/philox.cuh"

namespace vvtq::engine::cuda {
namespace {

/// cols: packs of a token
template <int N, typename T>
__global__ void gather_kernel(const T* x, const int32_t* index, int64_t packs, int64_t tokens, int64_t cols,
                              T* y) {
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        const int64_t row = i / cols, c = i - row * cols, b = row / tokens;
        const int64_t from = b * tokens + index[row - b * tokens];
        store(y + i * N, load<N>(x + (from * cols + c) * N));
    }
}

template <int N, typename T>
__global__ void spread_kernel(const T* x, float factor, int64_t packs, int64_t tokens, int64_t cols, T* y) {
    const auto scaled = [=](int, float v) { return factor * v; };
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        const int64_t row = i / cols, c = i - row * cols;
        store(y + i * N, apply<N, T>(scaled, load<N>(x + (row / tokens * cols + c) * N)));
    }
}

template <typename T>
__global__ void mean_kernel(const T* x, int64_t n, int64_t tokens, int64_t cols, T* y) {
    for (int64_t i = first_index(); i < n; i += index_stride()) {
        const int64_t b = i / cols;
        const T* at = x + b * tokens * cols + (i - b * cols);
        float total = 0.0f;
        for (int64_t t = 0; t < tokens; ++t) total += to_float(at[t * cols]);
        y[i] = from_float<T>(total / static_cast<float>(tokens));
    }
}

/// draws (n): what tokens are ordered by
__global__ void draw_kernel(const int64_t* key, int64_t salt, int64_t n, double* draws) {
    for (int64_t i = first_index(); i < n; i += index_stride()) {
        draws[i] = first_uniform(mix_key(*key, salt, i));
    }
}

/// A token's place is the number of those before it.
__global__ void rank_kernel(const double* draws, int64_t n, int32_t* index, int32_t* inverse) {
    for (int64_t i = first_index(); i < n; i += index_stride()) {
        const double own = draws[i];
        int32_t rank = 0;
        for (int64_t j = 0; j < n; ++j) rank += draws[j] < own || (draws[j] == own && j < i);
        index[rank] = static_cast<int32_t>(i);
        inverse[i] = rank;
    }
}

constexpr int kTile = 32;

/// blocks of (kTile, 8) threads take tiles of x (rows, cols)
template <typename T>
__global__ void transpose_kernel(const T* x, int64_t rows, int64_t cols, T* y) {
    __shared__ T tile[kTile][kTile + 1];
    const int64_t row = int64_t{blockIdx.y} * kTile, col = int64_t{blockIdx.x} * kTile;
    for (int64_t r = threadIdx.y; r < kTile && row + r < rows; r += blockDim.y) {
        if (col + threadIdx.x < cols) tile[r][threadIdx.x] = x[(row + r) * cols + col + threadIdx.x];
    }
    __syncthreads();
    for (int64_t c = threadIdx.y; c < kTile && col + c < cols; c += blockDim.y) {
        if (row + threadIdx.x < rows) y[(col + c) * rows + row + threadIdx.x] = tile[threadIdx.x][c];
    }
}

__global__ void table_kernel(const float* table, const int32_t* index, int64_t n, int64_t heads, float* y) {
    for (int64_t i = first_index(); i < heads * n; i += index_stride()) {
        const int64_t h = i / n;
        y[i] = table[index[i - h * n] * heads + h];
    }
}

/// a warp for each entry and head
__global__ void table_backward_kernel(const float* dy, const int32_t* index, int64_t n, int64_t entries,
                                      int64_t heads, float* dt) {
    const int lane = threadIdx.x % 32;
    for (int64_t i = first_index() / 32; i < entries * heads; i += index_stride() / 32) {
        const int64_t entry = i / heads, h = i - entry * heads;
        float total = 0.0f;
        for (int64_t j = lane; j < n; j += 32) {
            if (index[j] == entry) total += dy[h * n + j];
        }
        total = warp_sum(total);
        if (lane == 0) dt[i] = total;
    }
}

}  // namespace

void gather_tokens(Arg x, Arg index, Arg y) {
    check_tokens(x);
    check_like(x, y);
    const int64_t tokens = x.shape()[1], cols = x.shape()[2];
    check_size(index, tokens, DType::i32);
    with_activation(x.dtype(), [&]<typename T>() {
        constexpr int N = kPack<T>;
        const bool vector = cols % N == 0 && aligned(16, x, y);
        const int64_t width = vector ? N : 1, packs = x.numel() / width;
        launch(vector ? gather_kernel<N, T> : gather_kernel<1, T>, pass_blocks(packs), kPassThreads, 0,
               pointer<T>(x), pointer<int32_t>(index), packs, tokens, cols / width, pointer<T>(y));
    });
}

void random_permutation(Arg key, int64_t salt, Arg index, Arg inverse) {
    check_size(key, 1, DType::i64);
    const int64_t n = index.numel();
    check_size(index, n, DType::i32);
    check_size(inverse, n, DType::i32);
    const Tensor draws(Shape{std::max<int64_t>(n, 1)}, DType::f64, Device::cuda);
    launch(draw_kernel, pass_blocks(n), kPassThreads, 0, pointer<int64_t>(key), salt, n,
           pointer<double>(draws));
    launch(rank_kernel, pass_blocks(n), kPassThreads, 0, pointer<double>(draws), n, pointer<int32_t>(index),
           pointer<int32_t>(inverse));
}

void mean_tokens(Arg x, Arg y) {
    check_tokens(x);
    const int64_t tokens = x.shape()[1], cols = x.shape()[2], n = x.shape()[0] * cols;
    check_size(y, n, x.dtype());
    with_activation(x.dtype(), [&]<typename T>() {
        launch(mean_kernel<T>, pass_blocks(n), kPassThreads, 0, pointer<T>(x), n, tokens, cols,
               pointer<T>(y));
    });
}

void spread_token(Arg x, Arg y) {
    check_tokens(y);
    const int64_t tokens = y.shape()[1], cols = y.shape()[2];
    check_size(x, y.shape()[0] * cols, y.dtype());
    with_activation(x.dtype(), [&]<typename T>() {
        constexpr int N = kPack<T>;
        const bool vector = cols % N == 0 && aligned(16, x, y);
        const int64_t width = vector ? N : 1, packs = y.numel() / width;
        launch(vector ? spread_kernel<N, T> : spread_kernel<1, T>, pass_blocks(packs), kPassThreads, 0,
               pointer<T>(x), 1.0f / static_cast<float>(tokens), packs, tokens, cols / width, pointer<T>(y));
    });
}

void transpose(Arg x, Arg y) {
    check_like(x, y);
    const int64_t rows = x.shape().rows(), cols = x.shape().cols();
    const dim3 grid(static_cast<unsigned>(ceil_div(cols, kTile)),
                    static_cast<unsigned>(ceil_div(rows, kTile)));
    with_activation(x.dtype(), [&]<typename T>() {
        launch(transpose_kernel<T>, grid, dim3(kTile, 8), 0, pointer<T>(x), rows, cols, pointer<T>(y));
    });
}

void table_bias(Arg t, Arg index, Arg y) {
    const int64_t heads = t.shape().cols(), n = index.numel();
    check_size(y, heads * n, DType::f32);
    check_size(index, n, DType::i32);
    launch(table_kernel, pass_blocks(heads * n), kPassThreads, 0, pointer<float>(t), pointer<int32_t>(index),
           n, heads, pointer<float>(y));
}

void table_bias_backward(Arg dy, Arg index, Arg dt) {
    const int64_t entries = dt.shape().rows(), heads = dt.shape().cols(), n = index.numel();
    check_size(dy, heads * n, DType::f32);
    check_size(index, n, DType::i32);
    launch(table_backward_kernel, pass_blocks(entries * heads * 32), kPassThreads, 0, pointer<float>(dy),
           pointer<int32_t>(index), n, entries, heads, pointer<float>(dt));
}

}  // namespace vvtq::engine::cuda
