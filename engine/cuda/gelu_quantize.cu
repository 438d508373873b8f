// gelu_quantize: GELU and quantizer in one pass, and their backward pass, which also sums columns.
//
// In bf16 arithmetic would bound these passes, so there the normal distribution is a logistic function of a
// polynomial.
#include <algorithm>

#include "engine/cuda/device.cuh"
#include "engine/cuda/families.h"
#include "engine/cuda/normal.cuh"

namespace vvtq::engine::cuda {
namespace {

constexpr int kThreads = 384;  // whole rows of 768, 1536 and 3072 columns fit a block of vectors
constexpr int kWidth = 8;      // activations of one vector
constexpr int kVectors = 4;    // of a thread in forward
constexpr int kBlocks = 2;     // of backward on a multiprocessor
constexpr int kFinishThreads = 1024;

__device__ float quick_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ float quick_reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// Phi and phi to the accuracy that activations of T deserve. In bf16 Phi(x) = 1 / (1 + 2^(x P(x^2))); P is a
/// minimax fit of Phi on |x| < 5.6 and negative everywhere. Absolute error below 1.5e-7.
template <typename T>
__device__ Normal normal_for(float x) {
    if constexpr (sizeof(T) == 4) return normal_of(x);
    const float t = x * x;
    float p = -5.067460106e-9f;
    p = __fmaf_rn(p, t, 3.816374538e-7f);
    p = __fmaf_rn(p, t, -1.143988797e-5f);
    p = __fmaf_rn(p, t, 1.595801059e-4f);
    p = __fmaf_rn(p, t, 9.404916705e-5f);
    p = __fmaf_rn(p, t, -0.1048351222f);
    p = __fmaf_rn(p, t, -2.302209296f);
    return {quick_reciprocal(1.0f + quick_exp2(x * p)), 0.398942280f * quick_exp2(-0.721347520f * t)};
}

/// Vectors of Width at `first` and every kThreads-th after it, kVectors a thread; n is a multiple of Width.
template <typename T, int Width>
__global__ void __launch_bounds__(kThreads) forward(const T* z, StepArgument argument, int64_t n, T* q) {
    using Values = Vector<T, Width>;
    constexpr int64_t kStride = kThreads * Width;
    const int64_t first = blockIdx.x * (kStride * kVectors) + threadIdx.x * Width;
    Values in[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        if (first + i * kStride < n) in[i] = Values::load(z + first + i * kStride);
    }
    const QuickStep step(argument.load());
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        if (first + i * kStride >= n) return;
        float out[Width];
#pragma unroll
        for (int j = 0; j < Width; ++j) {
            const float x = in[i][j];
            out[j] = step.code(__fmul_rn(x, normal_for<T>(x).cdf));
        }
        Values::of(out).store(q + first + i * kStride);
    }
}

template <typename T>
struct Backward {
    const T *dq, *z;
    StepArgument step;
    T *dz, *q;
    float* partial;  // (grid.x, stride): dbias (cols), dalpha (grid.y), dbeta (grid.y)
    int64_t rows, cols, stride;
    int lanes;  // threads of a row; they divide the block
};

/// Block (x, y) has every grid.x-th group of rows and the y-th `lanes` Width columns; a thread walks down its
/// own Width columns.
template <typename T, int Width>
__global__ void __launch_bounds__(kThreads, kBlocks) backward(const Backward<T> p) {
    using Values = Vector<T, Width>;
    __shared__ float sums[Width][kThreads];
    const int lane = threadIdx.x % p.lanes, row = threadIdx.x / p.lanes, rows = kThreads / p.lanes;
    const int64_t c = (int64_t{blockIdx.y} * p.lanes + lane) * Width;
    const QuickStep step(p.step.load());
    float dbias[Width] = {}, dalpha = 0.0f, dbeta = 0.0f;

    const auto vector = [&](int64_t at, const Values& upstream, const Values& sums_of) {
        float dz[Width], q[Width];
#pragma unroll
        for (int j = 0; j < Width; ++j) {
            const float x = sums_of[j], dy = upstream[j];
            const Normal normal = normal_for<T>(x);
            const float h = __fmul_rn(x, normal.cdf);
            const float v = step.scaled(h);
            const float clamped = step.clamped(v);
            const float code = QuickStep::rounded(clamped);
            const bool in = clamped == v;
            const float d = in ? dy : 0.0f;
            dalpha += dy * (code - (in ? v : 0.0f));
            dbeta += dy - d;
            dz[j] = d * (normal.cdf + x * normal.pdf);
            dbias[j] += dz[j];
            q[j] = step.on ? code : h;
        }
        Values::of(dz).store(p.dz + at);
        Values::of(q).store(p.q + at);
    };
    if (c < p.cols) {
        const int64_t turn = int64_t{gridDim.x} * rows * p.cols, end = p.rows * p.cols;
        // Two rows in turn: while one is computed, the other's values are on their way.
        Values dq[2], z[2];
        const auto fetch = [&](int i, int64_t at) {
            if (at >= end) return;
            dq[i] = Values::load(p.dq + at);
            z[i] = Values::load(p.z + at);
        };
        int64_t at = (int64_t{blockIdx.x} * rows + row) * p.cols + c;
        fetch(0, at);
        fetch(1, at + turn);
        for (; at < end; at += 2 * turn) {
            vector(at, dq[0], z[0]);
            fetch(0, at + 2 * turn);
            if (at + turn >= end) break;
            vector(at + turn, dq[1], z[1]);
            fetch(1, at + 3 * turn);
        }
    }
#pragma unroll
    for (int j = 0; j < Width; ++j) sums[j][threadIdx.x] = dbias[j];
    float* out = p.partial + blockIdx.x * p.stride;
    dalpha = block_sum<kThreads>(dalpha);
    dbeta = block_sum<kThreads>(dbeta);
    if (threadIdx.x == 0) {
        out[p.cols + blockIdx.y] = dalpha;
        out[p.cols + gridDim.y + blockIdx.y] = dbeta;
    }
    for (int i = threadIdx.x; i < p.lanes * Width; i += kThreads) {
        const int j = i / p.lanes, of = i % p.lanes;
        const int64_t column = (int64_t{blockIdx.y} * p.lanes + of) * Width + j;
        float sum = sums[j][of];
        for (int r = 1; r < rows; ++r) sum += sums[j][r * p.lanes + of];
        if (column < p.cols) out[column] = sum;
    }
}

/// Adds up what blocks left: dbias column by column, and in the last block dalpha and dbeta.
__global__ void __launch_bounds__(kFinishThreads)
    finish(const float* partial, int64_t blocks, int64_t cols, int64_t groups, const float* g, float* dbias,
           float* dalpha, float* dbeta) {
    const int lane = threadIdx.x % 32;
    const int64_t stride = cols + 2 * groups;
    if (blockIdx.x < gridDim.x - 1) {
        const int64_t c = int64_t{blockIdx.x} * 32 + lane;
        const float sum = column_sum<kFinishThreads>(partial, blocks, stride, c, cols);
        if (threadIdx.x < 32 && c < cols) dbias[c] = sum;
        return;
    }
    for (int which = 0; which < 2; ++which) {
        const int64_t begin = cols + which * groups;
        float sum = 0.0f;
        for (int64_t c = begin; c < begin + groups; c += 32) {
            sum += column_sum<kFinishThreads>(partial, blocks, stride, c + lane, begin + groups);
        }
        if (threadIdx.x >= 32) continue;
        sum = warp_sum(sum);
        if (lane > 0) continue;
        if (which == 0 && dalpha != nullptr) *dalpha = g != nullptr ? *g * sum : 0.0f;
        if (which == 1 && dbeta != nullptr) *dbeta = g != nullptr ? sum : 0.0f;
    }
}

}  // namespace

void gelu_quantize(Arg z, const LsqStep& step, Arg q) {
    check_like(z, q);
    const int64_t n = z.numel();
    with_activation(z.dtype(), [&]<typename T>() {
        const bool wide = n % kWidth == 0 && aligned(16, z, q);
        const int64_t blocks = ceil_div(n, kThreads * kVectors * (wide ? kWidth : 1));
        launch(wide ? forward<T, kWidth> : forward<T, 1>, static_cast<unsigned>(blocks), kThreads, 0,
               pointer<T>(z), argument_of(step), n, pointer<T>(q));
    });
}

void gelu_quantize_backward(Arg dq, Arg z, const LsqStep& step, Arg dz, Arg q, Arg dalpha, Arg dbeta,
                            Arg dbias) {
    check_like(dq, z);
    check_like(z, dz);
    check_like(z, q);
    const int64_t cols = dbias.numel();
    VVTQ_CHECK(cols > 0 && z.numel() % cols == 0, z.shape().str(), " to ", dbias.shape().str());
    check_size(dbias, cols, DType::f32);
    with_activation(z.dtype(), [&]<typename T>() {
        const bool wide = cols % kWidth == 0 && aligned(16, dq, z, dz, q);
        const int64_t rows = z.numel() / cols;
        const int64_t vectors = ceil_div(cols, wide ? kWidth : 1);
        const auto lanes = static_cast<int>(vectors <= kThreads && kThreads % vectors == 0 ? vectors : 32);
        const int64_t groups = ceil_div(vectors, lanes);
        const int64_t most = std::max<int64_t>(1, gpu().multiprocessors * kBlocks / groups);
        const int64_t blocks = std::max<int64_t>(1, std::min(most, ceil_div(rows, kThreads / lanes)));
        const Tensor partial(Shape{blocks, cols + 2 * groups}, DType::f32, Device::cuda);
        const Backward<T> p{pointer<T>(dq), pointer<T>(z), argument_of(step),
                            pointer<T>(dz), pointer<T>(q), pointer<float>(partial),
                            rows,           cols,          cols + 2 * groups,
                            lanes};
        const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(groups));
        launch(wide ? backward<T, kWidth> : backward<T, 1>, grid, kThreads, 0, p);
        launch(finish, static_cast<unsigned>(ceil_div(cols, 32) + 1), kFinishThreads, 0, p.partial, blocks,
               cols, groups, step.defined() ? pointer<float>(step.g) : nullptr, pointer<float>(dbias),
               pointer<float>(dalpha), pointer<float>(dbeta));
    });
}

}  // namespace vvtq::engine::cuda
