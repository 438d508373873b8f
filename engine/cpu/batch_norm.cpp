// batch_norm: normalization of columns by their moments over the batch, with ReLU behind it.
#include <cmath>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {
namespace {

constexpr int64_t kRowChunks = 32;  // at most this many partial sums a column

/// y (2, C) = sums over the rows r < rows of what f(r, first, second) adds to two rows of C sums.
template <typename T, typename F>
Tensor two_column_sums(int64_t rows, int64_t cols, F&& f) {
    const int64_t chunk = std::max<int64_t>(64, (rows + kRowChunks - 1) / kRowChunks);
    const int64_t chunks = std::max<int64_t>(1, (rows + chunk - 1) / chunk);
    const Tensor partial = Tensor::zeros({2, chunks, cols}, dtype_of<T>::value);
    T* sums = partial.data<T>();
    parallel_chunks(rows, chunk, [&](int64_t c, int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) f(r, sums + c * cols, sums + (chunks + c) * cols);
    });
    const Tensor y({2, cols}, dtype_of<T>::value);
    sum_rows(partial.slice(0, 1), y.slice(0, 1));
    sum_rows(partial.slice(1, 2), y.slice(1, 2));
    return y;
}

/// Sizes of x (R, C), and parameters that fit.
struct Columns {
    int64_t rows, cols;
    Columns(Arg x, std::initializer_list<const Tensor*> parameters)
        : rows(x.shape().rows()), cols(x.shape().cols()) {
        for (const Tensor* p : parameters) check_size(*p, cols, x.dtype());
    }
};

/// 1 / sqrt(variance + eps) of one column.
template <typename T>
T inverse_of(T variance, double eps) {
    return T{1} / std::sqrt(variance + static_cast<T>(eps));
}

}  // namespace

void column_moments(Arg x, Arg mean, Arg variance) {
    const Columns size(x, {&mean, &variance});
    VVTQ_CHECK(size.rows > 0, "moments of no rows");
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T *pm = mean.data<T>(), *pv = variance.data<T>();
        const T share = T{1} / static_cast<T>(size.rows);
        sum_rows(x, mean);
        for (int64_t c = 0; c < size.cols; ++c) pm[c] *= share;
        const Tensor squares = two_column_sums<T>(size.rows, size.cols, [=](int64_t r, T* sum, T*) {
            const T* row = px + r * size.cols;
#pragma omp simd
            for (int64_t c = 0; c < size.cols; ++c) sum[c] += (row[c] - pm[c]) * (row[c] - pm[c]);
        });
        for (int64_t c = 0; c < size.cols; ++c) pv[c] = share * squares.data<T>()[c];
    });
}

void update_running_stats(Arg mean, Arg variance, int64_t rows, double momentum, Arg running_mean,
                          Arg running_variance, Arg count) {
    check_like(mean, running_mean);
    check_like(variance, running_variance);
    check_size(count, 1, mean.dtype());
    VVTQ_CHECK(rows > 1, "the variance of ", rows, " rows without bias");
    with_floating(mean.dtype(), [&]<typename T>() {
        const T share = static_cast<T>(momentum);
        const T unbiased = static_cast<T>(static_cast<double>(rows) / static_cast<double>(rows - 1));
        T *rm = running_mean.data<T>(), *rv = running_variance.data<T>();
        for (int64_t c = 0; c < mean.numel(); ++c) {
            if (!std::isfinite(mean.data<T>()[c]) || !std::isfinite(variance.data<T>()[c])) continue;
            rm[c] = (T{1} - share) * rm[c] + share * mean.data<T>()[c];
            rv[c] = (T{1} - share) * rv[c] + share * (unbiased * variance.data<T>()[c]);
        }
        *count.data<T>() += T{1};
    });
}

void batch_norm_relu(Arg x, Arg mean, Arg variance, Arg gamma, Arg beta, double eps, Arg y) {
    check_like(x, y);
    const Columns size(x, {&mean, &variance, &gamma, &beta});
    with_floating(x.dtype(), [&]<typename T>() {
        const T *px = x.data<T>(), *pm = mean.data<T>(), *pv = variance.data<T>();
        const T *pg = gamma.data<T>(), *pb = beta.data<T>();
        T* py = y.data<T>();
        parallel_chunks(size.rows, rows_per_chunk(size.cols), [=](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
#pragma omp simd
                for (int64_t c = 0; c < size.cols; ++c) {
                    const T n = (px[r * size.cols + c] - pm[c]) * inverse_of(pv[c], eps) * pg[c] + pb[c];
                    py[r * size.cols + c] = n < T{0} ? T{0} : n;
                }
            }
        });
    });
}

void batch_norm_relu_sums(Arg dy, Arg x, Arg mean, Arg variance, Arg gamma, Arg beta, double eps, Arg dgamma,
                          Arg dbeta) {
    check_like(dy, x);
    const Columns size(x, {&mean, &variance, &gamma, &beta, &dgamma, &dbeta});
    with_floating(x.dtype(), [&]<typename T>() {
        const T *pdy = dy.data<T>(), *px = x.data<T>(), *pm = mean.data<T>(), *pv = variance.data<T>();
        const T *pg = gamma.data<T>(), *pb = beta.data<T>();
        const int64_t cols = size.cols;
        const Tensor sums = two_column_sums<T>(size.rows, cols, [=](int64_t r, T* of_gamma, T* of_beta) {
#pragma omp simd
            for (int64_t c = 0; c < cols; ++c) {
                const T xhat = (px[r * cols + c] - pm[c]) * inverse_of(pv[c], eps);
                const T dn = xhat * pg[c] + pb[c] > T{0} ? pdy[r * cols + c] : T{0};
                of_gamma[c] += dn * xhat;
                of_beta[c] += dn;
            }
        });
        copy(sums.slice(0, 1), dgamma);
        copy(sums.slice(1, 2), dbeta);
    });
}

void batch_norm_relu_backward(Arg dy, Arg x, Arg mean, Arg variance, Arg gamma, Arg beta, double eps,
                              Arg dgamma, Arg dbeta, double share, Arg dx) {
    check_like(dy, x);
    check_like(dx, x);
    const Columns size(x, {&mean, &variance, &gamma, &beta, &dgamma, &dbeta});
    with_floating(x.dtype(), [&]<typename T>() {
        const T *pdy = dy.data<T>(), *px = x.data<T>(), *pm = mean.data<T>(), *pv = variance.data<T>();
        const T *pg = gamma.data<T>(), *pb = beta.data<T>();
        const T *sum_gamma = dgamma.data<T>(), *sum_beta = dbeta.data<T>();
        T* pdx = dx.data<T>();
        const int64_t cols = size.cols;
        const T part = static_cast<T>(share);
        parallel_chunks(size.rows, rows_per_chunk(cols), [=](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
#pragma omp simd
                for (int64_t c = 0; c < cols; ++c) {
                    const T inverse = inverse_of(pv[c], eps);
                    const T xhat = (px[r * cols + c] - pm[c]) * inverse;
                    const T dn = xhat * pg[c] + pb[c] > T{0} ? pdy[r * cols + c] : T{0};
                    pdx[r * cols + c] =
                        inverse * pg[c] * (dn - part * sum_beta[c] - part * xhat * sum_gamma[c]);
                }
            }
        });
    });
}

void merge_moments(Arg parts, Arg mean, Arg variance) {
    const int64_t cols = mean.numel(), count = parts.numel() / std::max<int64_t>(1, 2 * cols);
    VVTQ_CHECK(count > 0, "moments of no parts");
    check_like(mean, variance);
    check_size(parts, count * 2 * cols, mean.dtype());
    with_floating(mean.dtype(), [&]<typename T>() {
        const T* from = parts.data<T>();
        for (int64_t c = 0; c < cols; ++c) {
            T first = 0, second = 0;
            for (int64_t w = 0; w < count; ++w) first += from[2 * w * cols + c];
            first /= static_cast<T>(count);
            for (int64_t w = 0; w < count; ++w) {
                const T apart = from[2 * w * cols + c] - first;
                second += from[(2 * w + 1) * cols + c] + apart * apart;
            }
            mean.data<T>()[c] = first;
            variance.data<T>()[c] = second / static_cast<T>(count);
        }
    });
}

}  // namespace vvtq::engine::cpu
