// residual_norm: residual branch, LayerNorm and quantizer in one pass over rows.
#include "engine/cuda/families.h"
#include "engine/cuda/residual_norm.cuh"

namespace vvtq::engine::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
struct Forward {
    const T *x, *f;
    const float *keep, *gamma, *beta;
    T *y, *q;
    float *mean, *rstd;
    StepArgument step;
    float eps;
    unsigned rows, rows_per_sample;
    int cols;
};

/// x as it is stored in T
template <typename T, int N>
__device__ void round_to(float (&x)[N]) {
    const Vector<T, N> stored = Vector<T, N>::of(x);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = stored[j];
}

template <typename T, int Lanes, int Vecs, bool Exact>
__global__ void __launch_bounds__(kThreads, Vecs > 3 ? 2 : 3) forward_rows(const Forward<T> p) {
    using Values = Vector<T, kWidth>;
    using Floats = Vector<float, kWidth>;
    constexpr unsigned kRows = 32 / Lanes;  // of a warp
    const Columns<Lanes, Exact> columns{static_cast<int>(threadIdx.x) % Lanes, p.cols};
    const QuickStep step(p.step.load());
    Floats gamma[Vecs], beta[Vecs];
#pragma unroll
    for (int i = 0; i < Vecs; ++i) {
        if (!columns.has(i)) continue;
        gamma[i] = Floats::load(p.gamma + columns.at(i));
        beta[i] = Floats::load(p.beta + columns.at(i));
    }
    const int64_t warps = int64_t{gridDim.x} * (kThreads / 32);
    int64_t first = (int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32) * kRows;
    for (; first < p.rows; first += warps * kRows) {
        const int64_t own = first + threadIdx.x % 32 / Lanes;
        const bool live = Lanes == 32 || own < p.rows;
        const int64_t row = live ? own : p.rows - 1;
        const int64_t begin = row * p.cols;
        float x[Vecs][kWidth] = {};
#pragma unroll
        for (int i = 0; i < Vecs; ++i) {
            if (!columns.has(i)) continue;
            const Values in = Values::load(p.x + begin + columns.at(i));
#pragma unroll
            for (int j = 0; j < kWidth; ++j) x[i][j] = in[j];
        }
        if (p.f != nullptr) {
            const float keep =
                p.keep != nullptr ? p.keep[static_cast<unsigned>(row) / p.rows_per_sample] : 1.0f;
            Values f[Vecs];
#pragma unroll
            for (int i = 0; i < Vecs; ++i) {
                if (columns.has(i)) f[i] = Values::load(p.f + begin + columns.at(i));
            }
#pragma unroll
            for (int i = 0; i < Vecs; ++i) {
                if (!columns.has(i)) continue;
#pragma unroll
                for (int j = 0; j < kWidth; ++j) x[i][j] = __fmaf_rn(keep, f[i][j], x[i][j]);
                round_to<T>(x[i]);
                if (live) Values::of(x[i]).store(p.y + begin + columns.at(i));
            }
        }
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < Vecs; ++i) {
#pragma unroll
            for (int j = 0; j < kWidth; ++j) sum += x[i][j];
        }
        const float mean = group_sum<Lanes>(sum) / static_cast<float>(p.cols);
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < Vecs; ++i) {
            if (!columns.has(i)) continue;
#pragma unroll
            for (int j = 0; j < kWidth; ++j) squares += (x[i][j] - mean) * (x[i][j] - mean);
        }
        const float rstd = rsqrtf(group_sum<Lanes>(squares) / static_cast<float>(p.cols) + p.eps);
#pragma unroll
        for (int i = 0; i < Vecs; ++i) {
            if (!columns.has(i)) continue;
#pragma unroll
            for (int j = 0; j < kWidth; ++j) {
                x[i][j] = step.code(normalized(x[i][j], mean, rstd, gamma[i][j], beta[i][j]));
            }
            if (live) Values::of(x[i]).store(p.q + begin + columns.at(i));
        }
        if (live && columns.lane == 0) {
            p.mean[row] = mean;
            p.rstd[row] = rstd;
        }
    }
}

/// Any number of columns: a warp a row, which it reads three times.
template <typename T>
__global__ void __launch_bounds__(kThreads) forward_any(const Forward<T> p) {
    const int lane = threadIdx.x % 32;
    const QuickStep step(p.step.load());
    int64_t row = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
    for (; row < p.rows; row += int64_t{gridDim.x} * (kThreads / 32)) {
        const int64_t begin = row * p.cols;
        const float keep = p.keep != nullptr ? p.keep[static_cast<unsigned>(row) / p.rows_per_sample] : 1.0f;
        const T* source = p.f != nullptr ? p.y : p.x;
        float sum = 0.0f;
        for (int c = lane; c < p.cols; c += 32) {
            float x = to_float(p.x[begin + c]);
            if (p.f != nullptr) {
                const T stored = from_float<T>(__fmaf_rn(keep, to_float(p.f[begin + c]), x));
                p.y[begin + c] = stored;
                x = to_float(stored);
            }
            sum += x;
        }
        const float mean = warp_sum(sum) / static_cast<float>(p.cols);
        float squares = 0.0f;
        for (int c = lane; c < p.cols; c += 32) {
            const float centered = to_float(source[begin + c]) - mean;
            squares += centered * centered;
        }
        const float rstd = rsqrtf(warp_sum(squares) / static_cast<float>(p.cols) + p.eps);
        for (int c = lane; c < p.cols; c += 32) {
            const float n = normalized(to_float(source[begin + c]), mean, rstd, p.gamma[c], p.beta[c]);
            p.q[begin + c] = from_float<T>(step.code(n));
        }
        if (lane == 0) {
            p.mean[row] = mean;
            p.rstd[row] = rstd;
        }
    }
}

}  // namespace

void residual_norm(Arg x, Arg f, Arg keep, Arg gamma, Arg beta, double eps, const LsqStep& step, Arg y, Arg q,
                   Arg mean, Arg rstd) {
    const int64_t rows = x.shape().rows(), cols = x.shape().cols();
    check_like(x, q);
    VVTQ_CHECK(f.defined() == y.defined(), "a branch and its sum go together");
    if (f.defined()) {
        check_like(x, f);
        check_like(x, y);
    }
    check_size(gamma, cols, DType::f32);
    check_size(beta, cols, DType::f32);
    check_size(mean, rows, DType::f32);
    check_size(rstd, rows, DType::f32);
    if (rows == 0 || cols == 0) return;
    with_activation(x.dtype(), [&]<typename T>() {
        const Forward<T> p{pointer<T>(x),
                           pointer<T>(f),
                           pointer<float>(keep),
                           pointer<float>(gamma),
                           pointer<float>(beta),
                           pointer<T>(y),
                           pointer<T>(q),
                           pointer<float>(mean),
                           pointer<float>(rstd),
                           argument_of(step),
                           static_cast<float>(eps),
                           static_cast<unsigned>(rows),
                           rows_per_sample(keep, rows),
                           static_cast<int>(cols)};
        constexpr int64_t kWarps = kThreads / 32;
        const bool fits =
            aligned(16, x, f, gamma, beta, y, q) && with_layout(cols, [&]<int Lanes, int Vecs, bool Exact>() {
                const int64_t work = ceil_div(rows, kThreads / Lanes);
                launch(forward_rows<T, Lanes, Vecs, Exact>,
                       static_cast<unsigned>(resident(Vecs > 3 ? 2 : 3, work)), kThreads, 0, p);
            });
        if (!fits) {
            launch(forward_any<T>, static_cast<unsigned>(resident(8, ceil_div(rows, kWarps))), kThreads, 0,
                   p);
        }
    });
}

}  // namespace vvtq::engine::cuda
