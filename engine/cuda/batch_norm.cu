// batch_norm: normalization of columns by their moments over the batch, with ReLU behind it.
#include "engine/cuda/columns.cuh"
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

/// One column's normalization: n = (x - mean) inverse gamma + beta.
struct Column {
    float mean, inverse, gamma, beta;
    __device__ float normal(float x) const { return (x - mean) * inverse; }
    __device__ float output(float x) const { return __fmaf_rn(normal(x), gamma, beta); }
};

struct Columns {
    const float *mean, *variance, *gamma, *beta;
    float eps;
    __device__ Column at(int64_t c) const {
        return {mean[c], 1.0f / sqrtf(variance[c] + eps), gamma != nullptr ? gamma[c] : 1.0f,
                beta != nullptr ? beta[c] : 0.0f};
    }
};

/// What a pass over x (and dy) adds up in two sums of a column.
struct CenteredSquare {
    __device__ void operator()(const Column& column, float x, float, float& first, float&) const {
        first += (x - column.mean) * (x - column.mean);
    }
};
struct Gradients {
    __device__ void operator()(const Column& column, float x, float dy, float& of_gamma,
                               float& of_beta) const {
        const float dn = column.output(x) > 0.0f ? dy : 0.0f;
        of_gamma += dn * column.normal(x);
        of_beta += dn;
    }
};

constexpr int kLines = kPassThreads / 32;  // rows that a block reads at once

/// partial (2, chunks, cols): block (tile, chunk) adds up 32 columns over one chunk of rows
template <typename F, typename T>
__global__ void __launch_bounds__(kPassThreads)
    moment_partials(F f, const T* x, const T* dy, Columns columns, int64_t rows, int64_t cols, int64_t chunk,
                    float* partial) {
    __shared__ float sums[2][kLines][32];
    const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
    const int64_t c = int64_t{blockIdx.x} * 32 + lane, begin = int64_t{blockIdx.y} * chunk;
    const int64_t end = min(rows, begin + chunk);
    float first = 0.0f, second = 0.0f;
    if (c < cols) {
        const Column column = columns.at(c);
#pragma unroll 4
        for (int64_t r = begin + line; r < end; r += kLines) {
            f(column, to_float(x[r * cols + c]), dy != nullptr ? to_float(dy[r * cols + c]) : 0.0f, first,
              second);
        }
    }
    sums[0][line][lane] = first;
    sums[1][line][lane] = second;
    __syncthreads();
    if (line > 1 || c >= cols) return;
    float total = 0.0f;
    for (int i = 0; i < kLines; ++i) total += sums[line][i][lane];
    partial[(line * int64_t{gridDim.y} + blockIdx.y) * cols + c] = total;
}

/// first, second? (cols) = factor times the two sums of f over the rows
template <typename F>
void moment_sums(F f, Arg x, Arg dy, const Columns& columns, double factor, Arg first, Arg second) {
    const int64_t rows = x.shape().rows(), cols = x.shape().cols();
    const int64_t tiles = ceil_div(cols, 32);
    const int64_t chunk = std::max<int64_t>(4 * kLines, ceil_div(rows, ceil_div(8 * kPartials, tiles)));
    const int64_t chunks = std::max<int64_t>(1, ceil_div(rows, chunk));
    const Tensor partial(Shape{2, chunks, cols}, DType::f32, Device::cuda);
    with_activation(x.dtype(), [&]<typename T>() {
        launch(moment_partials<F, T>, dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(chunks)),
               kPassThreads, 0, f, pointer<T>(x), pointer<T>(dy), columns, rows, cols, chunk,
               pointer<float>(partial));
    });
    for (const auto& [row, to] : {std::pair<int64_t, Tensor>{0, first}, {1, second}}) {
        if (!to.defined()) continue;
        launch(column_finish<float>, static_cast<unsigned>(tiles), 1024, 0,
               pointer<float>(partial.slice(row, row + 1)), cols, chunks, factor, pointer<float>(to));
    }
}

__global__ void track_kernel(const float* mean, const float* variance, int64_t n, float momentum,
                             float unbiased, float* running_mean, float* running_variance, float* count) {
    for (int64_t c = first_index(); c < n; c += index_stride()) {
        if (!isfinite(mean[c]) || !isfinite(variance[c])) continue;
        running_mean[c] = (1.0f - momentum) * running_mean[c] + momentum * mean[c];
        running_variance[c] = (1.0f - momentum) * running_variance[c] + momentum * (unbiased * variance[c]);
    }
    if (first_index() == 0) *count += 1.0f;
}

template <int N, typename T>
__global__ void forward_kernel(const T* x, Columns columns, int64_t packs, int64_t cols, T* y) {
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        const int64_t c = i * N % cols;
        const auto output = [&](int k, float v) {
            const float n = columns.at(c + k).output(v);
            return n < 0.0f ? 0.0f : n;  // NaN stays NaN
        };
        store(y + i * N, apply<N, T>(output, load<N>(x + i * N)));
    }
}

template <int N, typename T>
__global__ void backward_kernel(const T* dy, const T* x, Columns columns, const float* dgamma,
                                const float* dbeta, float share, int64_t packs, int64_t cols, T* dx) {
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        const int64_t c = i * N % cols;
        const auto gradient = [&](int k, float g, float v) {
            const Column column = columns.at(c + k);
            const float dn = column.output(v) > 0.0f ? g : 0.0f;
            const float through = share * (dbeta[c + k] + column.normal(v) * dgamma[c + k]);
            return column.inverse * column.gamma * (dn - through);
        };
        store(dx + i * N, apply<N, T>(gradient, load<N>(dy + i * N), load<N>(x + i * N)));
    }
}

/// parts (count, 2, cols)
__global__ void merge_kernel(const float* parts, int64_t count, int64_t cols, float* mean, float* variance) {
    for (int64_t c = first_index(); c < cols; c += index_stride()) {
        const auto of = [&](int64_t w, int64_t moment) { return parts[(2 * w + moment) * cols + c]; };
        float first = 0.0f, second = 0.0f;
        for (int64_t w = 0; w < count; ++w) first += of(w, 0);
        first /= static_cast<float>(count);
        for (int64_t w = 0; w < count; ++w) second += of(w, 1) + (of(w, 0) - first) * (of(w, 0) - first);
        mean[c] = first;
        variance[c] = second / static_cast<float>(count);
    }
}

Columns columns_of(Arg x, Arg mean, Arg variance, Arg gamma, Arg beta, double eps) {
    for (const Tensor* p : {&mean, &variance, &gamma, &beta}) check_size(*p, x.shape().cols(), DType::f32);
    return {pointer<float>(mean), pointer<float>(variance), pointer<float>(gamma), pointer<float>(beta),
            static_cast<float>(eps)};
}

}  // namespace

void column_moments(Arg x, Arg mean, Arg variance) {
    const int64_t rows = x.shape().rows(), cols = x.shape().cols();
    VVTQ_CHECK(rows > 0, "moments of no rows");
    check_size(mean, cols, DType::f32);
    check_size(variance, cols, DType::f32);
    const double share = 1.0 / static_cast<double>(rows);
    column_sums(Value{}, x, 1, rows, cols, share, mean);
    const Columns columns{pointer<float>(mean), pointer<float>(mean), nullptr, nullptr, 0.0f};
    moment_sums(CenteredSquare{}, x, {}, columns, share, variance, {});
}

void update_running_stats(Arg mean, Arg variance, int64_t rows, double momentum, Arg running_mean,
                          Arg running_variance, Arg count) {
    check_like(mean, running_mean);
    check_like(variance, running_variance);
    check_size(count, 1, DType::f32);
    VVTQ_CHECK(rows > 1, "the variance of ", rows, " rows without bias");
    const double unbiased = static_cast<double>(rows) / static_cast<double>(rows - 1);
    launch(track_kernel, pass_blocks(mean.numel()), kPassThreads, 0, pointer<float>(mean),
           pointer<float>(variance), mean.numel(), momentum, unbiased, pointer<float>(running_mean),
           pointer<float>(running_variance), pointer<float>(count));
}

void batch_norm_relu(Arg x, Arg mean, Arg variance, Arg gamma, Arg beta, double eps, Arg y) {
    check_like(x, y);
    const Columns columns = columns_of(x, mean, variance, gamma, beta, eps);
    const int64_t cols = x.shape().cols();
    with_activation(x.dtype(), [&]<typename T>() {
        constexpr int N = kPack<T>;
        const bool vector = cols % N == 0 && aligned(16, x, y);
        const int64_t packs = x.numel() / (vector ? N : 1);
        launch(vector ? forward_kernel<N, T> : forward_kernel<1, T>, pass_blocks(packs), kPassThreads, 0,
               pointer<T>(x), columns, packs, cols, pointer<T>(y));
    });
}

void batch_norm_relu_sums(Arg dy, Arg x, Arg mean, Arg variance, Arg gamma, Arg beta, double eps, Arg dgamma,
                          Arg dbeta) {
    check_like(dy, x);
    const Columns columns = columns_of(x, mean, variance, gamma, beta, eps);
    check_size(dgamma, x.shape().cols(), DType::f32);
    check_size(dbeta, x.shape().cols(), DType::f32);
    moment_sums(Gradients{}, x, dy, columns, 1.0, dgamma, dbeta);
}

void batch_norm_relu_backward(Arg dy, Arg x, Arg mean, Arg variance, Arg gamma, Arg beta, double eps,
                              Arg dgamma, Arg dbeta, double share, Arg dx) {
    check_like(dy, x);
    check_like(dx, x);
    const Columns columns = columns_of(x, mean, variance, gamma, beta, eps);
    const int64_t cols = x.shape().cols();
    check_size(dgamma, cols, DType::f32);
    check_size(dbeta, cols, DType::f32);
    with_activation(x.dtype(), [&]<typename T>() {
        constexpr int N = kPack<T>;
        const bool vector = cols % N == 0 && aligned(16, dy, x, dx);
        const int64_t packs = x.numel() / (vector ? N : 1);
        launch(vector ? backward_kernel<N, T> : backward_kernel<1, T>, pass_blocks(packs), kPassThreads, 0,
               pointer<T>(dy), pointer<T>(x), columns, pointer<float>(dgamma), pointer<float>(dbeta), share,
               packs, cols, pointer<T>(dx));
    });
}

void merge_moments(Arg parts, Arg mean, Arg variance) {
    const int64_t cols = mean.numel(), count = parts.numel() / std::max<int64_t>(1, 2 * cols);
    VVTQ_CHECK(count > 0, "moments of no parts");
    check_like(mean, variance);
    check_size(parts, count * 2 * cols, DType::f32);
    launch(merge_kernel, pass_blocks(cols), kPassThreads, 0, pointer<float>(parts), count, cols,
           pointer<float>(mean), pointer<float>(variance));
}

}  // namespace vvtq::engine::cuda
