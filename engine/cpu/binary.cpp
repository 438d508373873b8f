// binary: one-bit quantizers.
#include <cmath>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {
void binary_scale(Arg x, Arg s) {
    const BinaryShape shape(x, s);
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* ps = s.data<T>();
        parallel_chunks(shape.batch, 1, [&](int64_t b, int64_t, int64_t) {
            const T* in = px + b * shape.rows * shape.cols;
            std::vector<double> sums(static_cast<size_t>(shape.cols));
            for (int64_t r = 0; r < shape.rows; ++r) {
                for (int64_t c = 0; c < shape.cols; ++c) {
                    sums[static_cast<size_t>(c)] += static_cast<double>(std::fabs(in[r * shape.cols + c]));
                }
            }
            if (shape.per_column) {
                for (int64_t c = 0; c < shape.cols; ++c) {
                    ps[b * shape.cols + c] =
                        static_cast<T>(sums[static_cast<size_t>(c)] / static_cast<double>(shape.rows));
                }
            } else {
                double total = 0;
                for (double value : sums) total += value;
                ps[b] = static_cast<T>(total / static_cast<double>(shape.rows * shape.cols));
            }
        });
    });
}

void binary(Arg x, Arg s, Arg y) {
    check_like(x, y);
    const BinaryShape shape(x, s);
    with_floating(x.dtype(), [&]<typename T>() {
        const T *px = x.data<T>(), *ps = s.data<T>();
        T* py = y.data<T>();
        parallel_chunks(
            shape.batch * shape.rows, rows_per_chunk(shape.cols), [&](int64_t, int64_t begin, int64_t end) {
                for (int64_t row = begin; row < end; ++row) {
                    const int64_t b = row / shape.rows;
                    const T* scales = shape.per_column ? ps + b * shape.cols : ps + b;
                    const int64_t stride = shape.per_column ? 1 : 0;
                    for (int64_t c = 0; c < shape.cols; ++c) {
                        const T v = px[row * shape.cols + c];
                        const T sign = v > T{0} ? T{1} : (v < T{0} ? T{-1} : v);  // 0 stays 0, NaN stays NaN
                        py[row * shape.cols + c] = scales[c * stride] * sign;
                    }
                }
            });
    });
}

void binary_backward(Arg dy, Arg x, Arg dx) {
    check_like(dy, x);
    check_like(x, dx);
    with_floating(x.dtype(), [&]<typename T>() {
        const T *pdy = dy.data<T>(), *px = x.data<T>();
        T* pdx = dx.data<T>();
        parallel_chunks(x.numel(), kChunk, [=](int64_t, int64_t begin, int64_t end) {
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) pdx[i] = std::fabs(px[i]) <= T{1} ? pdy[i] : T{0};
        });
    });
}

}  // namespace vvtq::engine::cpu
