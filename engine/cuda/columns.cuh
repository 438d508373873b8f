// columns: sums over the rows of matrices, in two steps whose order depends on the shape alone.
#pragma once

#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {

struct Value {
    __device__ float operator()(float x) const { return x; }
};
struct Magnitude {
    __device__ float operator()(float x) const { return fabsf(x); }
};

/// x (batch, rows, cols) in chunks of rows and tiles of columns; a block sums one chunk of one tile.
struct ColumnPlan {
    int64_t rows, cols;
    int tiles, width;       // width: packs of a tile
    int64_t chunks, chunk;  // chunk: rows of a chunk

    ColumnPlan(int64_t batch, int64_t rows_of_x, int64_t cols_of_x, int pack)
        : rows(rows_of_x), cols(cols_of_x) {
        const int64_t packs = cols / pack;
        tiles = static_cast<int>(ceil_div(packs, kPassThreads));
        width = static_cast<int>(ceil_div(packs, tiles));
        const int64_t most = std::max<int64_t>(1, kPartials / (batch * tiles));
        const int64_t least_rows = int64_t{4} * (kPassThreads / width);
        chunk = std::max(ceil_div(rows, most), least_rows);
        chunks = ceil_div(rows, chunk);
    }
};

/// out (batch, chunks, cols) = factor sum f(x) over the rows of each chunk
template <int N, typename F, typename T>
__global__ void __launch_bounds__(kPassThreads)
    column_partials(F f, const T* x, ColumnPlan plan, float factor, float* out) {
    constexpr int kAtOnce = N == 1 ? 8 : 4;
    __shared__ float sums[kPassThreads * N];
    const int64_t tile = blockIdx.x % plan.tiles, index = blockIdx.x / plan.tiles;  // index: (batch, chunk)
    const int64_t begin = index % plan.chunks * plan.chunk;
    const int64_t end = min(plan.rows, begin + plan.chunk);
    const int lines = kPassThreads / plan.width;  // rows that the block reads at once
    const int line = threadIdx.x / plan.width;
    const int64_t column = (tile * plan.width + threadIdx.x % plan.width) * N;
    float total[N] = {};
    if (line < lines && column < plan.cols) {
        const T* at = x + index / plan.chunks * plan.rows * plan.cols + column;
        const auto take = [&](const Pack<T, N>& pack) {
#pragma unroll
            for (int k = 0; k < N; ++k) total[k] += f(to_float(pack.at[k]));
        };
        int64_t r = begin + line;
        for (; r + (kAtOnce - 1) * lines < end; r += kAtOnce * lines) {
            Pack<T, N> packs[kAtOnce];
#pragma unroll
            for (int u = 0; u < kAtOnce; ++u) packs[u] = load<N>(at + (r + u * lines) * plan.cols);
#pragma unroll
            for (int u = 0; u < kAtOnce; ++u) take(packs[u]);
        }
        for (; r < end; r += lines) take(load<N>(at + r * plan.cols));
    }
#pragma unroll
    for (int k = 0; k < N; ++k) sums[threadIdx.x * N + k] = total[k];
    __syncthreads();
    const int columns = plan.width * N;
    for (int i = threadIdx.x; i < columns && tile * columns + i < plan.cols; i += kPassThreads) {
        float sum = 0;
        for (int l = 0; l < lines; ++l) sum += sums[l * columns + i];
        out[index * plan.cols + tile * columns + i] = factor * sum;
    }
}

/// y (batch, cols) = factor sum_i partial (batch, chunks, cols); a block of 1024 takes 32 columns
template <typename P>
__global__ void __launch_bounds__(1024)
    column_finish(const P* partial, int64_t cols, int64_t chunks, float factor, float* y) {
    __shared__ float sums[32][33];
    const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
    const int64_t groups = (cols + 31) / 32;
    const int64_t sample = blockIdx.x / groups, first = blockIdx.x % groups * 32;
    float total = 0;
    if (first + lane < cols) {
#pragma unroll 4
        for (int64_t i = line; i < chunks; i += 32) {
            total += partial[(sample * chunks + i) * cols + first + lane];
        }
    }
    sums[line][lane] = total;
    __syncthreads();
    total = warp_sum(sums[lane][line]);
    if (lane == 0 && first + line < cols) y[sample * cols + first + line] = factor * total;
}

/// y (batch, cols) f32 = factor sum_r f(x), x (batch, rows, cols)
template <typename F>
void column_sums(F f, Arg x, int64_t batch, int64_t rows, int64_t cols, double factor, Arg y) {
    if (x.numel() == 0) return fill(0.0, y);
    with_activation(x.dtype(), [&]<typename T>() {
        const bool vector = cols % kPack<T> == 0 && aligned(16, x);
        const ColumnPlan plan(batch, rows, cols, vector ? kPack<T> : 1);
        const auto kernel = vector ? column_partials<kPack<T>, F, T> : column_partials<1, F, T>;
        const unsigned blocks = static_cast<unsigned>(batch * plan.chunks * plan.tiles);
        if (plan.chunks == 1) {
            return launch(kernel, blocks, kPassThreads, 0, f, pointer<T>(x), plan, factor, pointer<float>(y));
        }
        const Tensor partial(Shape{batch, plan.chunks, cols}, DType::f32, Device::cuda);
        launch(kernel, blocks, kPassThreads, 0, f, pointer<T>(x), plan, 1.0f, pointer<float>(partial));
        launch(column_finish<float>, static_cast<unsigned>(batch * ceil_div(cols, 32)), 1024, 0,
               pointer<float>(partial), cols, plan.chunks, factor, pointer<float>(y));
    });
}

}  // namespace vvtq::engine::cuda
