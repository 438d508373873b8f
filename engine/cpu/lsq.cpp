// lsq: learned step size quantizers, forward, backward and start values.
#include <cmath>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"
#include "engine/cpu/quantize.h"

namespace vvtq::engine::cpu {
namespace {

void check_step(Arg x, Arg alpha, Arg beta) {
    check_size(alpha, 1, x.dtype());
    if (beta.defined()) check_size(beta, 1, x.dtype());
}

// Loops with reductions stand in functions of their own, with all they read as arguments: behind the
// references of a lambda they would not vectorize.

/// sums = {sum dy (q - in v), sum dy (1 - in)}
template <typename T>
void backward_chunk(const T* dy, const T* x, Step<T> step, int64_t n, T* dx, double* sums) {
    T sum_alpha = 0, sum_beta = 0;
#pragma omp simd reduction(+ : sum_alpha, sum_beta)
    for (int64_t i = 0; i < n; ++i) {
        const T v = step.scaled(x[i]);
        const T code = std::nearbyint(step.clamped(v));
        const bool in = step.inside(v);
        const T g = dy[i];
        dx[i] = in ? g : T{0};
        sum_alpha += g * (in ? code - v : code);
        sum_beta += in ? T{0} : g;
    }
    sums[0] = static_cast<double>(sum_alpha);
    sums[1] = static_cast<double>(sum_beta);
}

/// sums = {sum (x - o) q, sum q q, sum (x - a q)}
template <typename T>
void fit_chunk(const T* x, double a, double o, double low, double high, int64_t n, double* sums) {
    double product = 0, squares = 0, rest = 0;
#pragma omp simd reduction(+ : product, squares, rest)
    for (int64_t i = 0; i < n; ++i) {
        const double shifted = static_cast<double>(x[i]) - o;
        const double v = shifted / a;
        const double q = std::nearbyint(v < low ? low : (v > high ? high : v));
        product += shifted * q;
        squares += q * q;
        rest += static_cast<double>(x[i]) - a * q;
    }
    sums[0] = product;
    sums[1] = squares;
    sums[2] = rest;
}

}  // namespace

void lsq(Arg x, Arg alpha, Arg beta, CodeRange range, Arg y) {
    check_like(x, y);
    check_step(x, alpha, beta);
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        const Step<T> step(alpha, beta, range);
        parallel_chunks(x.numel(), kChunk, [=](int64_t, int64_t begin, int64_t end) {
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) py[i] = step.code(px[i]) * step.a + step.o;
        });
    });
}

void lsq_backward(Arg dy, Arg x, Arg alpha, Arg beta, CodeRange range, Arg g, Arg dx, Arg dalpha, Arg dbeta) {
    check_like(dy, x);
    check_like(x, dx);
    check_step(x, alpha, beta);
    check_step(x, dalpha, dbeta);
    check_size(g, 1, x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T *pdy = dy.data<T>(), *px = x.data<T>();
        T* pdx = dx.data<T>();
        const Step<T> step(alpha, beta, range);
        const int64_t n = x.numel();
        const int64_t chunks = (n + kChunk - 1) / kChunk;
        std::vector<double> sums(static_cast<size_t>(2 * chunks));
        parallel_chunks(n, kChunk, [&](int64_t c, int64_t begin, int64_t end) {
            backward_chunk<T>(pdy + begin, px + begin, step, end - begin, pdx + begin,
                              &sums[static_cast<size_t>(2 * c)]);
        });
        double total_alpha = 0, total_beta = 0;
        for (size_t c = 0; c < sums.size(); c += 2) {
            total_alpha += sums[c];
            total_beta += sums[c + 1];
        }
        *dalpha.data<T>() = static_cast<T>(total_alpha * static_cast<double>(*g.data<T>()));
        if (dbeta.defined()) *dbeta.data<T>() = static_cast<T>(total_beta);
    });
}

void lsq_codes(Arg x, Arg alpha, Arg beta, CodeRange range, Arg q) {
    check_step(x, alpha, beta);
    VVTQ_CHECK(q.numel() == x.numel(), q.shape().str(), " codes for ", x.shape().str());
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        const Step<T> step(alpha, beta, range);
        if (q.dtype() == DType::i32) {
            int32_t* pq = q.data<int32_t>();
            parallel_chunks(x.numel(), kChunk, [=](int64_t, int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i) {
                    const T code = step.code(px[i]);
                    pq[i] = static_cast<int32_t>(code == code ? code : T{0});
                }
            });
            return;
        }
        T* pq = q.data<T>();
        parallel_chunks(x.numel(), kChunk, [=](int64_t, int64_t begin, int64_t end) {
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) pq[i] = step.code(px[i]);
        });
    });
}

void raise_steps(const std::vector<Tensor>& alphas) {
    for (const Tensor& alpha : alphas) {
        VVTQ_CHECK(alpha.numel() == 1, "step ", alpha.shape().str());
        with_floating(alpha.dtype(), [&]<typename T>() {
            T* a = alpha.data<T>();
            if (std::isfinite(*a) && *a < static_cast<T>(kLeastStep)) *a = static_cast<T>(kLeastStep);
        });
    }
}

void lsq_weight_grad_scale(Arg w, CodeRange range, Arg g) {
    check_size(g, 1, w.dtype());
    const Tensor total(Shape{1}, DType::f64);
    sum_abs(w, total);
    fill(1.0 / std::sqrt(*total.data<double>() * range.high), g);
}

void lsq_fit_sums(Arg x, double a, double o, CodeRange range, Arg sums) {
    check_size(sums, 3, DType::f64);
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        const int64_t n = x.numel();
        const int64_t chunks = (n + kChunk - 1) / kChunk;
        std::vector<double> partial(static_cast<size_t>(3 * chunks));
        parallel_chunks(n, kChunk, [&](int64_t c, int64_t begin, int64_t end) {
            fit_chunk<T>(px + begin, a, o, range.low, range.high, end - begin,
                         &partial[static_cast<size_t>(3 * c)]);
        });
        double* out = sums.data<double>();
        std::fill_n(out, 3, 0.0);
        for (size_t i = 0; i < partial.size(); ++i) out[i % 3] += partial[i];
    });
}

}  // namespace vvtq::engine::cpu
