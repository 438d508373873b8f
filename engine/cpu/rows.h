// rows: what is computed of one row or run of values. The functions stand in rows.cpp, compiled once, so that
// every kernel that calls one gets the same bits from it.
#pragma once

#include <cstdint>

#include "engine/cpu/quantize.h"

namespace vvtq::engine::cpu {

template <typename T>
T sum_row(const T* x, int64_t n) {
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; ++i) total += x[i];
    return total;
}

template <typename T>
T max_row(const T* x, int64_t n) {
    T top = x[0];
#pragma omp simd reduction(max : top)
    for (int64_t i = 1; i < n; ++i) top = x[i] > top ? x[i] : top;
    return top;
}

// T is f32 or f64.

/// y = factor x + bias, x of T or i32; bias may be null, x and y may be the same.
template <typename T, typename X>
void affine_row(const X* x, T factor, const T* bias, int64_t n, T* y);
/// y = x Phi(x); x and y may be the same.
template <typename T>
void gelu_row(const T* x, int64_t n, T* y);
/// y = softmax(y).
template <typename T>
void softmax_row(T* y, int64_t n);
/// y = (x - mean) rstd gamma + beta of a row, whose mean and rstd it returns.
template <typename T>
struct Moments {
    T mean, rstd;
};
template <typename T>
Moments<T> norm_row(const T* x, const T* gamma, const T* beta, T eps, int64_t n, T* y);
/// The codes q of x, of T, i32, i8 or u8; of NaN the code is NaN, and 0 where there is none.
template <typename T, typename Q>
void codes_row(const T* x, Step<T> step, int64_t n, Q* q);

}  // namespace vvtq::engine::cpu
