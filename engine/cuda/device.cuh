// device: what kernels share: conversions, vectors of activations, reductions in a fixed order, LSQ
// arithmetic.
#pragma once

#include "engine/cuda/runtime.h"

namespace vvtq::engine::cuda {

using bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
    return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
    return __float2bfloat16_rn(x);
}

/// N activations that travel as one access: N * sizeof(T) is 4, 8 or 16 bytes, aligned to itself.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
    T at[N];
};

/// The sum over a warp, in every lane.
__device__ inline float warp_sum(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

/// The sum over a block of Threads threads in a fixed order, in thread 0. All threads must call it.
template <int Threads>
__device__ float block_sum(float x) {
    __shared__ float partial[Threads / 32];
    x = warp_sum(x);
    __syncthreads();  // an earlier sum may still be read
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x < 32) x = warp_sum(threadIdx.x < Threads / 32 ? partial[threadIdx.x] : 0.0f);
    return x;
}

/// The arithmetic of one LSQ quantizer (specification section 1), in f32.
struct Step {
    static constexpr float kLeast = static_cast<float>(kLeastStep);
    float a, inverse, o, low, high;
    bool on;

    /// Inside a kernel. Null: no quantizer; no offset; no range, where only a and o matter.
    __device__ Step(const float* scale, const float* offset, const int* range)
        : a(scale != nullptr ? fmaxf(*scale, kLeast) : 1.0f),
          inverse(1.0f / a),
          o(offset != nullptr ? *offset : 0.0f),
          low(range != nullptr ? static_cast<float>(range[0]) : 0.0f),
          high(range != nullptr ? static_cast<float>(range[1]) : 0.0f),
          on(scale != nullptr) {}

    /// v = (x - o) / a, correctly rounded, as on the CPU
    __device__ float scaled(float x) const { return __fdiv_rn(x - o, a); }
    /// NaN stays NaN
    __device__ float clamped(float v) const { return v < low ? low : (v > high ? high : v); }
    __device__ bool inside(float v) const { return v >= low && v <= high; }
    __device__ float code(float x) const { return on ? rintf(clamped(scaled(x))) : x; }
};

/// How a kernel is handed a quantizer.
struct QuantArgument {
    const float *scale, *offset;
    const int* range;
    __device__ Step load(int group = 0) const {
        return Step(scale != nullptr ? scale + group : nullptr, offset != nullptr ? offset + group : nullptr,
                    range);
    }
};
/// Checks a quantizer of G = `groups` steps, or an undefined one.
inline QuantArgument argument_of(const QuantParams& quantizer, int64_t groups = 1) {
    if (!quantizer.defined()) return {};
    check_size(quantizer.scale, groups, DType::f32);
    check_size(quantizer.range, 2, DType::i32);
    if (quantizer.offset.defined()) check_size(quantizer.offset, groups, DType::f32);
    return {pointer<float>(quantizer.scale), pointer<float>(quantizer.offset), pointer<int>(quantizer.range)};
}

/// N activations in registers. They travel in accesses of at most 16 bytes, which must be aligned.
template <typename T, int N>
struct Vector {
    static constexpr int kPack = N * sizeof(T) <= 16 ? N : 16 / static_cast<int>(sizeof(T));
    Pack<T, kPack> pack[N / kPack];

    __device__ static Vector load(const T* p) {
        Vector x;
#pragma unroll
        for (int i = 0; i < N / kPack; ++i) x.pack[i] = reinterpret_cast<const Pack<T, kPack>*>(p)[i];
        return x;
    }
    __device__ static Vector of(const float (&values)[N]) {
        Vector x;
        if constexpr (sizeof(T) == 2 && N % 2 == 0) {  // one conversion for two
#pragma unroll
            for (int i = 0; i < N; i += 2) {
                const __nv_bfloat162 pair = __floats2bfloat162_rn(values[i], values[i + 1]);
                x.pack[i / kPack].at[i % kPack] = pair.x;
                x.pack[i / kPack].at[i % kPack + 1] = pair.y;
            }
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i) x.pack[i / kPack].at[i % kPack] = from_float<T>(values[i]);
        }
        return x;
    }
    __device__ void store(T* p) const {
#pragma unroll
        for (int i = 0; i < N / kPack; ++i) reinterpret_cast<Pack<T, kPack>*>(p)[i] = pack[i];
    }
    __device__ float operator[](int i) const { return to_float(pack[i / kPack].at[i % kPack]); }
};

/// Whether all tensors that are defined begin at a multiple of `bytes`.
template <typename... Tensors>
bool aligned(size_t bytes, const Tensors&... t) {
    return ((!t.defined() || reinterpret_cast<uintptr_t>(t.raw()) % bytes == 0) && ...);
}

/// The sum over Lanes neighbouring lanes, in each of them.
template <int Lanes>
__device__ float group_sum(float x) {
#pragma unroll
    for (int offset = Lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

__device__ inline double warp_sum(double x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}
/// As block_sum of float.
template <int Threads>
__device__ double block_sum(double x) {
    __shared__ double partial[Threads / 32];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x < 32) x = warp_sum(threadIdx.x < Threads / 32 ? partial[threadIdx.x] : 0.0);
    return x;
}

/// The sum of column `column` of x (rows, stride), which the lanes of a warp choose, in the first warp of a
/// block of Threads threads; 0 where the column is not below `end`. All threads must call it.
template <int Threads>
__device__ float column_sum(const float* x, int64_t rows, int64_t stride, int64_t column, int64_t end) {
    constexpr int kWarps = Threads / 32;
    __shared__ float partial[kWarps][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = 0.0f;
    if (column < end) {
#pragma unroll 8
        for (int64_t r = warp; r < rows; r += kWarps) sum += x[r * stride + column];
    }
    __syncthreads();  // an earlier sum may still be read
    partial[warp][lane] = sum;
    __syncthreads();
    if (warp > 0) return 0.0f;
    for (int i = 1; i < kWarps; ++i) sum += partial[i][lane];
    return sum;
}

/// A Step for passes that arithmetic would bound: v by multiplication, so that codes may differ from those of
/// Step where v lies within 1e-6 of a tie. Backward must take codes as forward did. Without a quantizer v = x
/// and no x is clipped.
struct QuickStep {
    float inverse, shift, low, high;
    bool on;

    __device__ explicit QuickStep(const Step& step)
        : inverse(step.inverse),
          shift(-step.o * step.inverse),
          low(step.on ? step.low : -INFINITY),
          high(step.on ? step.high : INFINITY),
          on(step.on) {}

    __device__ float scaled(float x) const { return __fmaf_rn(x, inverse, shift); }
    /// NaN stays NaN
    __device__ float clamped(float v) const {
        float c;
        asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(v), "f"(low));
        asm("min.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(c), "f"(high));
        return c;
    }
    /// to nearest, ties to even, for |c| < 2^22
    __device__ static float rounded(float c) {
        return __fsub_rn(__fadd_rn(c, 12582912.0f), 12582912.0f);  // 1.5 2^23: its last bit counts ones
    }
    __device__ float code(float x) const { return on ? rounded(clamped(scaled(x))) : x; }
};

/// LayerNorm's output, by the same operations in forward and backward.
__device__ inline float normalized(float x, float mean, float rstd, float gamma, float beta) {
    return __fmaf_rn(__fmul_rn(__fsub_rn(x, mean), rstd), gamma, beta);
}

}  // namespace vvtq::engine::cuda
