// norm: passes over rows: LayerNorm, softmax.
#include <cmath>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"
#include "engine/cpu/rows.h"

namespace vvtq::engine::cpu {
namespace {

constexpr int64_t kGradientChunks = 32;  // partial sums of dgamma and dbeta

template <typename T>
void add_row(const T* x, int64_t n, T* y) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

}  // namespace

void layer_norm(Arg x, Arg gamma, Arg beta, double eps, Arg y, Arg mean, Arg rstd) {
    check_like(x, y);
    const int64_t rows = x.shape().rows(), cols = x.shape().cols();
    check_size(gamma, cols, x.dtype());
    check_size(beta, cols, x.dtype());
    check_size(mean, rows, x.dtype());
    check_size(rstd, rows, x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T *px = x.data<T>(), *pg = gamma.data<T>(), *pb = beta.data<T>();
        T *py = y.data<T>(), *pm = mean.data<T>(), *pr = rstd.data<T>();
        parallel_chunks(rows, rows_per_chunk(cols), [&](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T* in = px + r * cols;
                T* out = py + r * cols;
                const Moments<T> moments = norm_row(in, pg, pb, static_cast<T>(eps), cols, out);
                pm[r] = moments.mean;
                pr[r] = moments.rstd;
            }
        });
    });
}

void layer_norm_apply(Arg x, Arg mean, Arg rstd, Arg gamma, Arg beta, Arg y) {
    check_like(x, y);
    const int64_t rows = x.shape().rows(), cols = x.shape().cols();
    check_size(mean, rows, x.dtype());
    check_size(rstd, rows, x.dtype());
    check_size(gamma, cols, x.dtype());
    check_size(beta, cols, x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T *px = x.data<T>(), *pm = mean.data<T>(), *pr = rstd.data<T>();
        const T *pg = gamma.data<T>(), *pb = beta.data<T>();
        T* py = y.data<T>();
        parallel_chunks(rows, rows_per_chunk(cols), [=](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T mu = pm[r], inverse = pr[r];
#pragma omp simd
                for (int64_t i = 0; i < cols; ++i) {
                    py[r * cols + i] = (px[r * cols + i] - mu) * inverse * pg[i] + pb[i];
                }
            }
        });
    });
}

void layer_norm_backward(Arg dy, Arg x, Arg gamma, Arg mean, Arg rstd, Arg dx, Arg dgamma, Arg dbeta) {
    check_like(dy, dx);
    check_like(x, dx);
    const int64_t rows = x.shape().rows(), cols = x.shape().cols();
    check_size(dgamma, cols, x.dtype());
    check_size(dbeta, cols, x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T *pdy = dy.data<T>(), *px = x.data<T>(), *pg = gamma.data<T>();
        const T *pm = mean.data<T>(), *pr = rstd.data<T>();
        T* pdx = dx.data<T>();
        const int64_t chunk = std::max(rows_per_chunk(cols), (rows + kGradientChunks - 1) / kGradientChunks);
        const int64_t chunks = std::max<int64_t>(1, (rows + chunk - 1) / chunk);
        const Tensor partial = Tensor::zeros(Shape{2, chunks, cols}, x.dtype());
        T* sums = partial.data<T>();
        parallel_chunks(rows, chunk, [&](int64_t c, int64_t begin, int64_t end) {
            T* sum_gamma = sums + c * cols;
            T* sum_beta = sums + (chunks + c) * cols;
            for (int64_t r = begin; r < end; ++r) {
                const T *g = pdy + r * cols, *in = px + r * cols;
                T* out = pdx + r * cols;
                const T mu = pm[r], inverse = pr[r];
                T total = 0, total_xhat = 0;
#pragma omp simd reduction(+ : total, total_xhat)
                for (int64_t i = 0; i < cols; ++i) {
                    const T xhat = (in[i] - mu) * inverse;
                    const T scaled = g[i] * pg[i];
                    total += scaled;
                    total_xhat += scaled * xhat;
                    sum_gamma[i] += g[i] * xhat;
                    sum_beta[i] += g[i];
                }
                const T mean_all = total / static_cast<T>(cols),
                        mean_xhat = total_xhat / static_cast<T>(cols);
#pragma omp simd
                for (int64_t i = 0; i < cols; ++i) {
                    const T xhat = (in[i] - mu) * inverse;
                    out[i] = inverse * (g[i] * pg[i] - mean_all - xhat * mean_xhat);
                }
            }
        });
        sum_rows(partial.slice(0, 1), dgamma);
        sum_rows(partial.slice(1, 2), dbeta);
    });
}

void softmax(Arg x, double s, Arg y) {
    check_like(x, y);
    const int64_t rows = x.shape().rows(), cols = x.shape().cols();
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        const T factor = static_cast<T>(s);
        parallel_chunks(rows, rows_per_chunk(cols), [&](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T* in = px + r * cols;
                T* out = py + r * cols;
#pragma omp simd
                for (int64_t i = 0; i < cols; ++i) out[i] = factor * in[i];
                softmax_row(out, cols);
            }
        });
    });
}

void biased_softmax(Arg x, double s, Arg bias, Arg mask, Arg y) {
    check_like(x, y);
    const Shape& shape = x.shape();
    VVTQ_CHECK(shape.rank() == 4, "scores (B, H, N, N) wanted, not ", shape.str());
    const int64_t heads = shape[1], lines = shape[2], cols = shape[3], size = lines * cols;
    if (bias.defined()) check_size(bias, heads * size, x.dtype());
    const int64_t windows = mask.defined() ? mask.numel() / size : 1;
    if (mask.defined()) check_size(mask, windows * size, x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        const T* pb = bias.defined() ? bias.data<T>() : nullptr;
        const T* pm = mask.defined() ? mask.data<T>() : nullptr;
        const T factor = static_cast<T>(s);
        parallel_chunks(shape.rows(), rows_per_chunk(cols), [&](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const int64_t line = r % lines, head = r / lines % heads, b = r / (lines * heads);
                const T* in = px + r * cols;
                T* out = py + r * cols;
#pragma omp simd
                for (int64_t i = 0; i < cols; ++i) out[i] = factor * in[i];
                if (pb != nullptr) add_row(pb + (head * lines + line) * cols, cols, out);
                if (pm != nullptr) add_row(pm + (b % windows * lines + line) * cols, cols, out);
                softmax_row(out, cols);
            }
        });
    });
}

void softmax_backward(Arg dy, Arg y, double s, Arg dx) {
    check_like(dy, dx);
    check_like(y, dx);
    const int64_t rows = y.shape().rows(), cols = y.shape().cols();
    with_floating(y.dtype(), [&]<typename T>() {
        const T *pdy = dy.data<T>(), *py = y.data<T>();
        T* pdx = dx.data<T>();
        const T factor = static_cast<T>(s);
        parallel_chunks(rows, rows_per_chunk(cols), [&](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T *g = pdy + r * cols, *p = py + r * cols;
                T* out = pdx + r * cols;
                T dot = 0;
#pragma omp simd reduction(+ : dot)
                for (int64_t i = 0; i < cols; ++i) dot += g[i] * p[i];
#pragma omp simd
                for (int64_t i = 0; i < cols; ++i) out[i] = factor * p[i] * (g[i] - dot);
            }
        });
    });
}

}  // namespace vvtq::engine::cpu
