// residual_norm: how rows lie in registers, for forward and backward.
#pragma once

#include <algorithm>

#include "engine/cuda/device.cuh"

namespace vvtq::engine::cuda {

inline constexpr int kWidth = 4;  // columns of one access

/// The columns of one lane among the Lanes that share a row. Exact: there are just as many as fit.
template <int Lanes, bool Exact>
struct Columns {
    int lane, cols;
    __device__ int at(int i) const { return (lane + i * Lanes) * kWidth; }
    __device__ bool has(int i) const { return Exact || at(i) < cols; }
};

/// Calls f.operator()<Lanes, Vecs, Exact>() with the layout of a row; false where it fits none.
template <typename F>
bool with_layout(int64_t cols, F&& f) {
    if (cols % kWidth != 0 || cols > 32 * 6 * kWidth) return false;
    if (cols == 16 * 3 * kWidth) {
        f.template operator()<16, 3, true>();
    } else if (cols < 16 * 3 * kWidth) {
        f.template operator()<16, 3, false>();
    } else if (cols == 32 * 3 * kWidth) {
        f.template operator()<32, 3, true>();
    } else if (cols < 32 * 3 * kWidth) {
        f.template operator()<32, 3, false>();
    } else if (cols == 32 * 6 * kWidth) {
        f.template operator()<32, 6, true>();
    } else {
        f.template operator()<32, 6, false>();
    }
    return true;
}

/// Blocks of a grid that stays: `each` on every multiprocessor, or fewer where there is less to do.
inline int64_t resident(int64_t each, int64_t work) {
    return std::max<int64_t>(1, std::min<int64_t>(gpu().multiprocessors * each, work));
}

/// Rows that share one element of keep.
inline unsigned rows_per_sample(const Tensor& keep, int64_t rows) {
    VVTQ_CHECK(rows < (int64_t{1} << 31), rows, " rows");
    if (!keep.defined()) return 1;
    VVTQ_CHECK(keep.numel() > 0 && rows % keep.numel() == 0, rows, " rows in ", keep.numel(), " samples");
    return static_cast<unsigned>(std::max<int64_t>(1, rows / keep.numel()));
}

}  // namespace vvtq::engine::cuda
