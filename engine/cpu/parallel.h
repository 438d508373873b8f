// parallel: chunks over threads. Chunk bounds depend on the size alone, and so do all results.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/kernel_checks.h"
#include "engine/threads.h"

namespace vvtq::engine::cpu {

/// Elements of one chunk of an elementwise pass.
inline constexpr int64_t kChunk = 16384;

/// f(chunk index, begin, end) over [0, n) in chunks of `chunk`. f must not throw.
template <typename F>
void parallel_chunks(int64_t n, int64_t chunk, F&& f) {
    const int64_t chunks = (n + chunk - 1) / chunk;
    parallel_for(chunks, [&](int64_t c) { f(c, c * chunk, std::min(n, (c + 1) * chunk)); });
}

/// Rows of one chunk of a pass over (rows, cols).
inline int64_t rows_per_chunk(int64_t cols) {
    return std::max<int64_t>(1, kChunk / std::max<int64_t>(1, cols));
}

/// f(begin, end) -> double over chunks; returns their sum in chunk order.
template <typename F>
double parallel_sum(int64_t n, F&& f) {
    const int64_t chunks = (n + kChunk - 1) / kChunk;
    if (chunks <= 1) return n > 0 ? f(int64_t{0}, n) : 0.0;
    std::vector<double> partial(static_cast<size_t>(chunks));
    parallel_chunks(n, kChunk, [&](int64_t c, int64_t begin, int64_t end) {
        partial[static_cast<size_t>(c)] = f(begin, end);
    });
    double total = 0;
    for (double value : partial) total += value;
    return total;
}

/// Calls f.operator()<T>() with the C++ type of a floating dtype of the CPU.
template <typename F>
void with_floating(DType dtype, F&& f) {
    switch (dtype) {
        case DType::f32:
            f.template operator()<float>();
            return;
        case DType::f64:
            f.template operator()<double>();
            return;
        default:
            internal_error("dtype ", name_of(dtype), " is not computed with on the CPU");
    }
}

/// The same for kernels that only move elements: also for codes.
template <typename F>
void with_elements(DType dtype, F&& f) {
    if (dtype == DType::i8) return f.template operator()<int8_t>();
    if (dtype == DType::u8) return f.template operator()<uint8_t>();
    with_floating(dtype, f);
}

}  // namespace vvtq::engine::cpu
