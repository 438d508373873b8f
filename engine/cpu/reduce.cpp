// reduce: sums over chunks whose bounds depend on the shape alone.
#include <cmath>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {
namespace {

constexpr int64_t kColumns = 256;   // columns of one block
constexpr int64_t kRowChunks = 32;  // at most this many partial sums a column

/// out (1) = sum f(x_i), in x's dtype within a chunk and in double across chunks.
template <typename T, typename F>
double sum_of(Arg x, F&& f) {
    const T* px = x.data<T>();
    return parallel_sum(x.numel(), [&](int64_t begin, int64_t end) {
        T total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = begin; i < end; ++i) total += f(px[i]);
        return static_cast<double>(total);
    });
}

}  // namespace

void sum_rows(Arg x, Arg y) {
    const int64_t cols = y.numel();
    VVTQ_CHECK(cols > 0 && x.numel() % cols == 0 && x.dtype() == y.dtype(), x.shape().str(), " to ",
               y.shape().str());
    const int64_t rows = x.numel() / cols;
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        const int64_t chunk = std::max<int64_t>(64, (rows + kRowChunks - 1) / kRowChunks);
        const int64_t chunks = std::max<int64_t>(1, (rows + chunk - 1) / chunk);
        const int64_t blocks = (cols + kColumns - 1) / kColumns;
        const Tensor partial(Shape{chunks, cols}, x.dtype());
        T* sums = partial.data<T>();
        parallel_chunks(chunks * blocks, 1, [&](int64_t task, int64_t, int64_t) {
            const int64_t c = task / blocks;
            const int64_t first = task % blocks * kColumns;
            const int64_t width = std::min(cols, first + kColumns) - first;
            T* out = sums + c * cols + first;
            std::fill(out, out + width, T{0});
            for (int64_t r = c * chunk; r < std::min(rows, (c + 1) * chunk); ++r) {
                const T* row = px + r * cols + first;
#pragma omp simd
                for (int64_t i = 0; i < width; ++i) out[i] += row[i];
            }
        });
        parallel_chunks(cols, kColumns, [&](int64_t, int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) py[i] = sums[i];
            for (int64_t c = 1; c < chunks; ++c) {
#pragma omp simd
                for (int64_t i = begin; i < end; ++i) py[i] += sums[c * cols + i];
            }
        });
    });
}

void sum(Arg x, Arg y) {
    check_size(y, 1, x.dtype());
    with_floating(x.dtype(),
                  [&]<typename T>() { *y.data<T>() = static_cast<T>(sum_of<T>(x, [](T v) { return v; })); });
}

void sum_abs(Arg x, Arg y) {
    check_size(y, 1, DType::f64);
    with_floating(x.dtype(),
                  [&]<typename T>() { *y.data<double>() = sum_of<T>(x, [](T v) { return std::fabs(v); }); });
}

void sum_squares(Arg x, Arg y) {
    check_size(y, 1, DType::f64);
    with_floating(x.dtype(),
                  [&]<typename T>() { *y.data<double>() = sum_of<T>(x, [](T v) { return v * v; }); });
}

void count_not_finite(Arg x, Arg y) {
    check_size(y, 1, DType::i64);
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        const double count = parallel_sum(x.numel(), [&](int64_t begin, int64_t end) {
            int64_t bad = 0;
            for (int64_t i = begin; i < end; ++i) bad += std::isfinite(px[i]) ? 0 : 1;
            return static_cast<double>(bad);
        });
        *y.data<int64_t>() = static_cast<int64_t>(count);
    });
}

}  // namespace vvtq::engine::cpu
