// binary: one-bit quantizers.
#include "engine/cuda/columns.cuh"
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

/// y (R) = factor sum_c x (R, C), a block a row
__global__ void __launch_bounds__(kPassThreads)
    sum_cols(const float* x, int64_t cols, float factor, float* y) {
    double total = 0;
    for (int64_t c = threadIdx.x; c < cols; c += kPassThreads) {
        total += static_cast<double>(x[blockIdx.x * cols + c]);
    }
    total = block_sum<kPassThreads>(total);
    if (threadIdx.x == 0) y[blockIdx.x] = factor * static_cast<float>(total);
}

/// 0 stays 0, NaN stays NaN
__device__ float sign(float x) { return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : x); }

struct BinarySample {
    const float* s;
    struct At {
        float s;
        __device__ float operator()(int, float x) const { return s * sign(x); }
    };
    template <int>
    __device__ At at(int64_t sample, int64_t) const {
        return {s[sample]};
    }
};

struct BinaryColumn {
    const float* s;
    int64_t cols;
    template <int N>
    struct At {
        float s[N];
        __device__ float operator()(int k, float x) const { return s[k] * sign(x); }
    };
    template <int N>
    __device__ At<N> at(int64_t sample, int64_t i) const {
        At<N> here;
        load_floats(s + sample * cols + i % cols, here.s);
        return here;
    }
};

struct BinaryBackward {
    __device__ float operator()(float dy, float x) const { return fabsf(x) <= 1.0f ? dy : 0.0f; }
};

}  // namespace

void binary_scale(Arg x, Arg s) {
    const BinaryShape shape(x, s);
    const double rows = static_cast<double>(shape.rows), cols = static_cast<double>(shape.cols);
    if (shape.per_column) {
        return column_sums(Magnitude{}, x, shape.batch, shape.rows, shape.cols, 1.0 / rows, s);
    }
    const Tensor sums(Shape{shape.batch, shape.cols}, DType::f32, Device::cuda);
    column_sums(Magnitude{}, x, shape.batch, shape.rows, shape.cols, 1.0, sums);
    launch(sum_cols, static_cast<unsigned>(shape.batch), kPassThreads, 0, pointer<float>(sums), shape.cols,
           1.0 / (rows * cols), pointer<float>(s));
}

void binary(Arg x, Arg s, Arg y) {
    check_like(x, y);
    const BinaryShape shape(x, s);
    const int64_t size = shape.rows * shape.cols;
    const float* ps = pointer<float>(s);
    with_activation(x.dtype(), [&]<typename T>() {
        if (shape.per_column) {
            const bool vector = shape.cols % kPack<T> == 0 && aligned(16, s);
            map_rows<T>(BinaryColumn{ps, shape.cols}, size, vector, y, x);
        } else {
            map_rows<T>(BinarySample{ps}, size, true, y, x);
        }
    });
}

void binary_backward(Arg dy, Arg x, Arg dx) {
    check_like(dy, x);
    check_like(x, dx);
    with_activation(x.dtype(), [&]<typename T>() { map<T>(BinaryBackward{}, dx, dy, x); });
}

}  // namespace vvtq::engine::cuda
