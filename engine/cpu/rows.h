// rows: reductions of one row, shared by norm.cpp and loss.cpp.
#pragma once

#include <cstdint>

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

}  // namespace vvtq::engine::cpu
