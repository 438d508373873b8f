// loss: cross-entropy against class distributions, and how often a model is right.
#include <cmath>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"
#include "engine/cpu/rows.h"
#include "engine/cpu/vector_math.h"

namespace vvtq::engine::cpu {

void soft_cross_entropy(Arg z, Arg p, Arg loss, Arg dz) {
    check_like(z, p);
    check_like(z, dz);
    check_size(loss, 1, z.dtype());
    const int64_t rows = z.shape().rows(), cols = z.shape().cols();
    with_floating(z.dtype(), [&]<typename T>() {
        const T *pz = z.data<T>(), *pp = p.data<T>();
        T* pdz = dz.data<T>();
        const T scale_rows = T{1} / static_cast<T>(rows);
        std::vector<double> losses(static_cast<size_t>(rows));
        parallel_chunks(rows, rows_per_chunk(cols), [&](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T *in = pz + r * cols, *target = pp + r * cols;
                T* out = pdz + r * cols;
                const T top = max_row(in, cols);
                T total = 0, mass = 0;
#pragma omp simd reduction(+ : total, mass)
                for (int64_t i = 0; i < cols; ++i) {
                    const T e = exp_of(in[i] - top);
                    out[i] = e;
                    total += e;
                    mass += target[i];
                }
                const T log_total = std::log(total) + top;
                const T inverse = T{1} / total;
                T row_loss = 0;
#pragma omp simd reduction(+ : row_loss)
                for (int64_t i = 0; i < cols; ++i) {
                    row_loss += target[i] * (log_total - in[i]);
                    out[i] = (out[i] * inverse * mass - target[i]) * scale_rows;
                }
                losses[static_cast<size_t>(r)] = static_cast<double>(row_loss);
            }
        });
        double total = 0;
        for (double value : losses) total += value;
        *loss.data<T>() = static_cast<T>(total / static_cast<double>(rows));
    });
}

void smooth_targets(Arg labels, double s, Arg p) {
    const int64_t rows = p.shape().rows(), cols = p.shape().cols();
    check_size(labels, rows, DType::i32);
    fill(s / static_cast<double>(cols), p);
    with_floating(p.dtype(), [&]<typename T>() {
        const int32_t* label = labels.data<int32_t>();
        for (int64_t r = 0; r < rows; ++r) {
            VVTQ_CHECK(label[r] >= 0 && label[r] < cols, "label ", label[r], " of ", cols, " classes");
            p.data<T>()[r * cols + label[r]] += static_cast<T>(1.0 - s);
        }
    });
}

void count_top(Arg z, Arg labels, Arg counts) {
    constexpr int64_t kMany = 5;
    const int64_t rows = z.shape().rows(), cols = z.shape().cols();
    check_size(labels, rows, DType::i32);
    check_size(counts, 2, DType::i64);
    int64_t* out = counts.data<int64_t>();
    out[0] = out[1] = 0;
    with_floating(z.dtype(), [&]<typename T>() {
        for (int64_t r = 0; r < rows; ++r) {
            const T* row = z.data<T>() + r * cols;
            const int64_t label = labels.data<int32_t>()[r];
            VVTQ_CHECK(label >= 0 && label < cols, "label ", label, " of ", cols, " classes");
            int64_t above =
                0;  // classes that rank before the label; with NaN among them the label never counts
            for (int64_t c = 0; c < cols; ++c) {
                if (row[c] != row[c]) above += cols;
                if (c != label && (c < label ? !(row[c] < row[label]) : !(row[c] <= row[label]))) ++above;
            }
            out[0] += above < 1 ? 1 : 0;
            out[1] += above < std::min(kMany, cols) ? 1 : 0;
        }
    });
}

}  // namespace vvtq::engine::cpu
