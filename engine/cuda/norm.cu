// norm: passes over rows: LayerNorm (as residual_norm without branch and quantizer), softmax.
#include <algorithm>

#include "engine/cuda/device.cuh"
#include "engine/cuda/families.h"

namespace vvtq::engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kHeld = 8;  // values of a row that a lane holds in registers

/// e^x to the accuracy that T deserves
template <typename T>
__device__ float exp_of(float x) {
    return sizeof(T) == 2 ? __expf(x) : expf(x);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    apply(const T* x, const float* mean, const float* rstd, const float* gamma, const float* beta, int64_t n,
          int64_t cols, T* y) {
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
         i += int64_t{gridDim.x} * kThreads) {
        const int64_t r = i / cols, c = i - r * cols;
        y[i] = from_float<T>(normalized(to_float(x[i]), mean[r], rstd[r], gamma[c], beta[c]));
    }
}

/// The values of a row that one lane of its warp has: in registers where Held, else read again at each use.
template <typename T, bool Held>
struct Row {
    const T* x;
    const int64_t cols;
    const int lane;
    float values[Held ? kHeld : 1];

    __device__ Row(const T* row, int64_t count, int own_lane) : x(row), cols(count), lane(own_lane) {
        if constexpr (Held) {
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                if (lane + 32 * i < cols) values[i] = to_float(x[lane + 32 * i]);
            }
        }
    }
    /// f(column, value)
    template <typename F>
    __device__ void each(F&& f) const {
        if constexpr (Held) {
#pragma unroll
            for (int i = 0; i < kHeld; ++i) {
                if (lane + 32 * i < cols) f(lane + 32 * i, values[i]);
            }
        } else {
            for (int64_t c = lane; c < cols; c += 32) f(c, to_float(x[c]));
        }
    }
};

template <typename T, bool Held>
__global__ void __launch_bounds__(kThreads)
    softmax_rows(const T* x, float s, int64_t rows, int64_t cols, T* y) {
    int64_t r = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    for (; r < rows; r += int64_t{gridDim.x} * kWarps) {
        const Row<T, Held> row(x + r * cols, cols, threadIdx.x % 32);
        float top = -INFINITY;
        row.each([&](int64_t, float v) { top = fmaxf(top, s * v); });
        top = warp_max(top);
        float total = 0.0f;
        row.each([&](int64_t, float v) { total += exp_of<T>(s * v - top); });
        const float inverse = 1.0f / warp_sum(total);
        T* out = y + r * cols;
        row.each([&](int64_t c, float v) { out[c] = from_float<T>(exp_of<T>(s * v - top) * inverse); });
    }
}

/// Scores (B, H, lines, cols), what is added to them, and how many masks there are.
struct ScoreTerms {
    const float *bias, *mask;
    int64_t heads, lines, cols, windows;
    __device__ float at(int64_t b, int64_t head, int64_t line, int64_t c) const {
        float sum = bias != nullptr ? bias[(head * lines + line) * cols + c] : 0.0f;
        if (mask != nullptr) sum += mask[(b % windows * lines + line) * cols + c];
        return sum;
    }
};

template <typename T, bool Held>
__global__ void __launch_bounds__(kThreads)
    biased_softmax_rows(const T* x, float s, ScoreTerms terms, int64_t rows, T* y) {
    int64_t r = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    for (; r < rows; r += int64_t{gridDim.x} * kWarps) {
        const Row<T, Held> row(x + r * terms.cols, terms.cols, threadIdx.x % 32);
        const int64_t line = r % terms.lines, head = r / terms.lines % terms.heads;
        const int64_t b = r / (terms.lines * terms.heads);
        const auto score = [&](int64_t c, float v) { return s * v + terms.at(b, head, line, c); };
        float top = -INFINITY;
        row.each([&](int64_t c, float v) { top = fmaxf(top, score(c, v)); });
        top = warp_max(top);
        float total = 0.0f;
        row.each([&](int64_t c, float v) { total += exp_of<T>(score(c, v) - top); });
        const float inverse = 1.0f / warp_sum(total);
        T* out = y + r * terms.cols;
        row.each([&](int64_t c, float v) { out[c] = from_float<T>(exp_of<T>(score(c, v) - top) * inverse); });
    }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    softmax_backward_rows(const T* dy, const T* y, float s, int64_t rows, int64_t cols, T* dx) {
    const int lane = threadIdx.x % 32;
    int64_t r = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    for (; r < rows; r += int64_t{gridDim.x} * kWarps) {
        const T *g = dy + r * cols, *p = y + r * cols;
        T* out = dx + r * cols;
        float dot = 0.0f;
        for (int64_t c = lane; c < cols; c += 32) dot += to_float(g[c]) * to_float(p[c]);
        dot = warp_sum(dot);
        for (int64_t c = lane; c < cols; c += 32) {
            out[c] = from_float<T>(s * to_float(p[c]) * (to_float(g[c]) - dot));
        }
    }
}

unsigned grid_of(int64_t blocks) {
    return static_cast<unsigned>(std::min<int64_t>(blocks, gpu().multiprocessors * int64_t{64}));
}

}  // namespace

void layer_norm(Arg x, Arg gamma, Arg beta, double eps, Arg y, Arg mean, Arg rstd) {
    residual_norm(x, {}, {}, gamma, beta, eps, {}, {}, y, mean, rstd);
}

void layer_norm_apply(Arg x, Arg mean, Arg rstd, Arg gamma, Arg beta, Arg y) {
    check_like(x, y);
    const int64_t rows = x.shape().rows(), cols = x.shape().cols(), n = x.numel();
    check_size(gamma, cols, DType::f32);
    check_size(beta, cols, DType::f32);
    check_size(mean, rows, DType::f32);
    check_size(rstd, rows, DType::f32);
    with_activation(x.dtype(), [&]<typename T>() {
        launch(apply<T>, grid_of(ceil_div(n, kThreads)), kThreads, 0, pointer<T>(x), pointer<float>(mean),
               pointer<float>(rstd), pointer<float>(gamma), pointer<float>(beta), n, cols, pointer<T>(y));
    });
}

void layer_norm_backward(Arg dy, Arg x, Arg gamma, Arg mean, Arg rstd, Arg dx, Arg dgamma, Arg dbeta) {
    residual_norm_backward(dy, {}, x, {}, gamma, {}, mean, rstd, {}, dx, {}, dgamma, dbeta, {});
}

void softmax(Arg x, double s, Arg y) {
    check_like(x, y);
    const int64_t rows = x.shape().rows(), cols = x.shape().cols();
    with_activation(x.dtype(), [&]<typename T>() {
        launch(cols <= 32 * kHeld ? softmax_rows<T, true> : softmax_rows<T, false>,
               grid_of(ceil_div(rows, kWarps)), kThreads, 0, pointer<T>(x), s, rows, cols, pointer<T>(y));
    });
}

void biased_softmax(Arg x, double s, Arg bias, Arg mask, Arg y) {
    check_like(x, y);
    const Shape& shape = x.shape();
    VVTQ_CHECK(shape.rank() == 4, "scores (B, H, N, N) wanted, not ", shape.str());
    const int64_t rows = shape.rows(), cols = shape[3], size = shape[2] * cols;
    if (bias.defined()) check_size(bias, shape[1] * size, DType::f32);
    const int64_t windows = mask.defined() ? mask.numel() / size : 1;
    if (mask.defined()) check_size(mask, windows * size, DType::f32);
    const ScoreTerms terms{pointer<float>(bias), pointer<float>(mask), shape[1], shape[2], cols, windows};
    with_activation(x.dtype(), [&]<typename T>() {
        launch(cols <= 32 * kHeld ? biased_softmax_rows<T, true> : biased_softmax_rows<T, false>,
               grid_of(ceil_div(rows, kWarps)), kThreads, 0, pointer<T>(x), s, terms, rows, pointer<T>(y));
    });
}

void softmax_backward(Arg dy, Arg y, double s, Arg dx) {
    check_like(dy, dx);
    check_like(y, dx);
    const int64_t rows = y.shape().rows(), cols = y.shape().cols();
    with_activation(y.dtype(), [&]<typename T>() {
        launch(softmax_backward_rows<T>, grid_of(ceil_div(rows, kWarps)), kThreads, 0, pointer<T>(dy),
               pointer<T>(y), s, rows, cols, pointer<T>(dx));
    });
}

}  // namespace vvtq::engine::cuda
