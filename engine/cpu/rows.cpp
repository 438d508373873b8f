#include "engine/cpu/rows.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "engine/cpu/vector_math.h"
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

namespace vvtq::engine::cpu {
namespace {

constexpr int64_t kBlock =
    16;  // the last values of a row as a whole block: one by one they would take as long

}  // namespace

template <typename T, typename X>
void affine_row(const X* x, T factor, const T* bias, int64_t n, T* y) {
    if (bias == nullptr) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) y[i] = factor * static_cast<T>(x[i]);
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = factor * static_cast<T>(x[i]) + bias[i];
}

template <typename T>
void gelu_row(const T* x, int64_t n, T* y) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * normal_of(x[i]).cdf;
}

namespace {

/// y = exp(y - top), whose sum it returns.
template <typename T>
T exponentials(T* y, T top, int64_t n) {
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; ++i) {
        const T e = exp_of_negative(y[i] - top);
        y[i] = e;
        total += e;
    }
    return total;
}

}  // namespace

template <typename T>
void softmax_row(T* y, int64_t n) {
    const int64_t whole = n / kBlock * kBlock, rest = n - whole;
    const T top = max_row(y, n);
    T total = exponentials(y, top, whole);
    if (rest > 0) {
        T last[kBlock];
        std::fill_n(std::copy_n(y + whole, rest, last), kBlock - rest,
                    top - T{1000});  // exp is 0 but for 1e-38
        total += exponentials(last, top, kBlock);
        std::copy_n(last, rest, y + whole);
    }
    const T inverse = T{1} / total;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] *= inverse;
}

template <typename T>
Moments<T> norm_row(const T* x, const T* gamma, const T* beta, T eps, int64_t n, T* y) {
    const T mean = sum_row(x, n) / static_cast<T>(n);
    T squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const T rstd = T{1} / std::sqrt(squares / static_cast<T>(n) + eps);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
    return {mean, rstd};
}

namespace {

constexpr float kFinite = 1e30f;  // infinity has no remainder

/// x / a with a few multiplications: a correction by the remainder rounds the product with 1 / a as division
/// does (Markstein 1990).
float quotient(float x, float a, float inverse) {
    const float q = x * inverse;
    const float corrected = std::fma(std::fma(-q, a, x), inverse, q);
    return std::fabs(q) < kFinite ? corrected : q;
}
double quotient(double x, double a, double) { return x / a; }

#ifdef __AVX512BW__

/// codes_row for codes of one byte, which compilers vectorize badly. The minimum and maximum of NaN as the
/// second operand are NaN, whose low byte as an integer is 0; integers are rounded to nearest, ties to even.
void byte_codes(const float* x, const Step<float>& step, float inverse_step, int64_t n, void* q) {
    const __m512 a = _mm512_set1_ps(step.a), o = _mm512_set1_ps(step.o),
                 inverse = _mm512_set1_ps(inverse_step);
    const __m512 low = _mm512_set1_ps(step.low), high = _mm512_set1_ps(step.high);
    const __m512 finite = _mm512_set1_ps(kFinite);
    for (int64_t i = 0; i < n; i += kBlock) {
        const auto lanes = static_cast<__mmask16>(n - i >= kBlock ? 0xFFFF : (1 << (n - i)) - 1);
        const __m512 shifted = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + i), o);
        const __m512 product = _mm512_mul_ps(shifted, inverse);
        const __m512 rest = _mm512_fnmadd_ps(product, a, shifted);
        const __mmask16 corrects = _mm512_cmp_ps_mask(_mm512_abs_ps(product), finite, _CMP_LT_OQ);
        const __m512 v = _mm512_mask_mov_ps(product, corrects, _mm512_fmadd_ps(rest, inverse, product));
        const __m512i codes = _mm512_cvtps_epi32(_mm512_min_ps(high, _mm512_max_ps(low, v)));
        _mm_mask_storeu_epi8(static_cast<uint8_t*>(q) + i, lanes, _mm512_cvtepi32_epi8(codes));
    }
}

#endif

}  // namespace

template <typename T, typename Q>
void codes_row(const T* x, Step<T> step, int64_t n, Q* q) {
    const T inverse = T{1} / step.a;
#ifdef __AVX512BW__
    if constexpr (std::is_same_v<T, float> && sizeof(Q) == 1) {
        return byte_codes(x, step, inverse, n, q);
    }
#endif
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const T code = std::nearbyint(step.clamped(quotient(x[i] - step.o, step.a, inverse)));
        if constexpr (std::is_same_v<T, Q>) {
            q[i] = code;
        } else {
            q[i] = static_cast<Q>(static_cast<int32_t>(code == code ? code : T{0}));
        }
    }
}

#define VVTQ_ROWS(T)                                                                \
    template void affine_row<T, T>(const T*, T, const T*, int64_t, T*);             \
    template void affine_row<T, int32_t>(const int32_t*, T, const T*, int64_t, T*); \
    template void gelu_row<T>(const T*, int64_t, T*);                               \
    template void softmax_row<T>(T*, int64_t);                                      \
    template Moments<T> norm_row<T>(const T*, const T*, const T*, T, int64_t, T*);  \
    template void codes_row<T, T>(const T*, Step<T>, int64_t, T*);                  \
    template void codes_row<T, int32_t>(const T*, Step<T>, int64_t, int32_t*);      \
    template void codes_row<T, int8_t>(const T*, Step<T>, int64_t, int8_t*);        \
    template void codes_row<T, uint8_t>(const T*, Step<T>, int64_t, uint8_t*);
VVTQ_ROWS(float)
VVTQ_ROWS(double)
#undef VVTQ_ROWS

}  // namespace vvtq::engine::cpu
