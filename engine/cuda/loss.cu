// loss: cross-entropy with soft targets, and how often the label is found. A warp takes a row.
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

constexpr int kWarps = 4;  // of a block; few, so that a batch's rows spread over the GPU

/// f(row, lane) for rows that the calling warp takes
template <typename F>
__device__ void for_each_row(int64_t rows, F&& f) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int64_t r = int64_t{blockIdx.x} * kWarps + warp; r < rows; r += int64_t{gridDim.x} * kWarps) {
        f(r, lane);
    }
}

unsigned row_blocks(int64_t rows) {
    return static_cast<unsigned>(std::min(ceil_div(rows, kWarps), int64_t{16} * gpu().multiprocessors));
}

__global__ void soft_cross_entropy_kernel(const float* z, const float* p, int64_t rows, int64_t cols,
                                          float* losses, float* dz) {
    const float inverse_rows = 1.0f / static_cast<float>(rows);
    for_each_row(rows, [&](int64_t r, int lane) {
        const float *in = z + r * cols, *target = p + r * cols;
        float* out = dz + r * cols;
        float top = -INFINITY;  // NaN is passed over here and comes back through the sum
        for (int64_t i = lane; i < cols; i += 32) top = fmaxf(top, in[i]);
        top = warp_max(top);
        float total = 0, mass = 0;
        for (int64_t i = lane; i < cols; i += 32) {
            total += expf(in[i] - top);
            mass += target[i];
        }
        total = warp_sum(total);
        mass = warp_sum(mass);
        const float log_total = logf(total) + top;
        const float share = mass / total;
        float loss = 0;
        for (int64_t i = lane; i < cols; i += 32) {
            loss += target[i] * (log_total - in[i]);
            out[i] = (expf(in[i] - top) * share - target[i]) * inverse_rows;
        }
        loss = warp_sum(loss);
        if (lane == 0) losses[r] = loss;
    });
}

struct SmoothTargets {
    const int32_t* labels;
    float on, off;
    struct At {
        int64_t from_label;  // columns
        float on, off;
        __device__ float operator()(int k) const { return k == from_label ? on : off; }
    };
    template <int>
    __device__ At at(int64_t row, int64_t c) const {
        return {labels[row] - c, on, off};
    }
};

__global__ void count_top_kernel(const float* z, const int32_t* labels, int64_t rows, int64_t cols,
                                 unsigned long long* counts) {
    for_each_row(rows, [&](int64_t r, int lane) {
        const int64_t label = labels[r];
        if (label < 0 || label >= cols) return;
        const float* in = z + r * cols;
        const float own = in[label];
        int64_t before = 0;  // logits that go before the label's
        bool nan = false;
        for (int64_t i = lane; i < cols; i += 32) {
            before += in[i] > own || (in[i] == own && i < label) ? 1 : 0;
            nan = nan || isnan(in[i]);
        }
        if (__any_sync(0xffffffffu, nan)) return;
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) before += __shfl_xor_sync(0xffffffffu, before, offset);
        if (lane == 0 && before < 1) atomicAdd(counts, 1ull);
        if (lane == 0 && before < 5) atomicAdd(counts + 1, 1ull);
    });
}

}  // namespace

void soft_cross_entropy(Arg z, Arg p, Arg loss, Arg dz) {
    check_like(z, p);
    check_like(z, dz);
    check_size(loss, 1, DType::f32);
    const int64_t rows = z.shape().rows(), cols = z.shape().cols();
    const Tensor losses(Shape{std::max<int64_t>(rows, 1)}, DType::f32, Device::cuda);
    launch(soft_cross_entropy_kernel, row_blocks(rows), kWarps * 32, 0, pointer<float>(z), pointer<float>(p),
           rows, cols, pointer<float>(losses), pointer<float>(dz));
    launch(sum_partials<float, float>, 1, kPassThreads, 0, pointer<float>(losses), rows,
           1.0 / static_cast<double>(rows), pointer<float>(loss));
}

void smooth_targets(Arg labels, double s, Arg p) {
    const int64_t rows = p.shape().rows(), cols = p.shape().cols();
    check_size(labels, rows, DType::i32);
    const double off = s / static_cast<double>(cols);
    const SmoothTargets targets{pointer<int32_t>(labels), static_cast<float>(1.0 - s + off),
                                static_cast<float>(off)};
    map_rows<float>(targets, cols, true, p);
}

void count_top(Arg z, Arg labels, Arg counts) {
    const int64_t rows = z.shape().rows(), cols = z.shape().cols();
    check_size(labels, rows, DType::i32);
    check_size(counts, 2, DType::i64);
    fill(0.0, counts);
    launch(count_top_kernel, row_blocks(rows), kWarps * 32, 0, pointer<float>(z), pointer<int32_t>(labels),
           rows, cols, reinterpret_cast<unsigned long long*>(pointer<int64_t>(counts)));
}

}  // namespace vvtq::engine::cuda
