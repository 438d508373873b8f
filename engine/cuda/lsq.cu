// lsq: learned step size quantizers, forward, backward and start values.
#include <algorithm>
#include <cmath>

#include "engine/cuda/device.cuh"
#include "engine/cuda/families.h"

namespace vvtq::engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWidth = 8;              // activations of one vector
constexpr int kPiece = 4096;           // elements that a block sums in f32
constexpr int64_t kMostBlocks = 1024;  // of a pass that sums
constexpr size_t kTable = 1024;        // steps of one launch

/// Codes, or with Dequantize the values that they stand for.
template <typename T, typename Q, int Width, bool Dequantize>
__global__ void __launch_bounds__(kThreads) quantize(const T* x, StepArgument argument, int64_t n, Q* q) {
    const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * Width;
    if (at >= n) return;
    const Vector<T, Width> in = Vector<T, Width>::load(x + at);
    const Step step(argument.load());
    float code[Width];
#pragma unroll
    for (int j = 0; j < Width; ++j) {
        code[j] = step.code(in[j]);
        if (Dequantize) code[j] = __fmaf_rn(code[j], step.a, step.o);
    }
    if constexpr (std::is_same_v<Q, int32_t>) {
#pragma unroll
        for (int j = 0; j < Width; ++j) q[at + j] = static_cast<int32_t>(code[j]);  // 0 for NaN
    } else {
        Vector<Q, Width>::of(code).store(q + at);
    }
}

template <bool Dequantize, typename T, typename Q>
void quantize_all(Arg x, const StepArgument& step, Q* q) {
    const int64_t n = x.numel();
    const bool wide = n % kWidth == 0 && aligned(16, x) && reinterpret_cast<uintptr_t>(q) % 16 == 0;
    launch(wide ? quantize<T, Q, kWidth, Dequantize> : quantize<T, Q, 1, Dequantize>,
           static_cast<unsigned>(ceil_div(n, kThreads * (wide ? kWidth : 1))), kThreads, 0, pointer<T>(x),
           step, n, q);
}

/// partial (grid, 2) = {sum dy (q - in v), sum dy (1 - in)} of a block's elements.
template <typename T, int Width>
__global__ void __launch_bounds__(kThreads)
    backward(const T* dy, const T* x, StepArgument argument, int64_t n, T* dx, float* partial) {
    using Values = Vector<T, Width>;
    const Step step(argument.load());
    float sum_alpha = 0.0f, sum_beta = 0.0f;
    const int64_t stride = int64_t{gridDim.x} * (kThreads * Width);
    for (int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * Width; at < n; at += stride) {
        const Values g = Values::load(dy + at), in_x = Values::load(x + at);
        float out[Width];
#pragma unroll
        for (int j = 0; j < Width; ++j) {
            const float v = step.scaled(in_x[j]);
            const float code = rintf(step.clamped(v));
            const bool in = step.inside(v);
            out[j] = in ? g[j] : 0.0f;
            sum_alpha += g[j] * (in ? code - v : code);
            sum_beta += in ? 0.0f : g[j];
        }
        Values::of(out).store(dx + at);
    }
    sum_alpha = block_sum<kThreads>(sum_alpha);
    sum_beta = block_sum<kThreads>(sum_beta);
    if (threadIdx.x > 0) return;
    partial[2 * blockIdx.x] = sum_alpha;
    partial[2 * blockIdx.x + 1] = sum_beta;
}

__global__ void finish_backward(const float* partial, int64_t blocks, const float* g, float* dalpha,
                                float* dbeta) {
    double sum_alpha = 0.0, sum_beta = 0.0;
    for (int64_t b = threadIdx.x; b < blocks; b += kThreads) {
        sum_alpha += static_cast<double>(partial[2 * b]);
        sum_beta += static_cast<double>(partial[2 * b + 1]);
    }
    sum_alpha = block_sum<kThreads>(sum_alpha);
    sum_beta = block_sum<kThreads>(sum_beta);
    if (threadIdx.x > 0) return;
    *dalpha = static_cast<float>(static_cast<double>(*g) * sum_alpha);
    if (dbeta != nullptr) *dbeta = static_cast<float>(sum_beta);
}

struct Steps {
    float* alpha[kTable];
};

__global__ void raise(const __grid_constant__ Steps steps, int count) {
    const int i = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x;
    if (i < count && isfinite(*steps.alpha[i]) && *steps.alpha[i] < 1e-4f) *steps.alpha[i] = 1e-4f;
}

/// partial (grid) = sum |w| of a block's pieces.
__global__ void __launch_bounds__(kThreads) sum_magnitudes(const float* w, int64_t n, double* partial) {
    double total = 0.0;  // in thread 0
    for (int64_t begin = int64_t{blockIdx.x} * kPiece; begin < n; begin += int64_t{gridDim.x} * kPiece) {
        const int64_t end = begin + kPiece < n ? begin + kPiece : n;
        float sum = 0.0f;
        for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) sum += fabsf(w[i]);
        total += static_cast<double>(block_sum<kThreads>(sum));
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

__global__ void finish_grad_scale(const double* partial, int64_t blocks, int high, float* g) {
    double sum = 0.0;
    for (int64_t b = threadIdx.x; b < blocks; b += kThreads) sum += partial[b];
    sum = block_sum<kThreads>(sum);
    if (threadIdx.x == 0) *g = static_cast<float>(1.0 / sqrt(sum * high));
}

/// partial (grid, 3), in f64 throughout as on the CPU: start values are taken once.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    fit(const T* x, double a, double o, double low, double high, int64_t n, double* partial) {
    double product = 0.0, squares = 0.0, rest = 0.0;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
         i += int64_t{gridDim.x} * kThreads) {
        const double value = static_cast<double>(to_float(x[i]));
        const double shifted = value - o;
        const double v = shifted / a;
        const double q = rint(v < low ? low : (v > high ? high : v));
        product += shifted * q;
        squares += q * q;
        rest += value - a * q;
    }
    const double sums[3] = {product, squares, rest};
    for (int k = 0; k < 3; ++k) {
        const double sum = block_sum<kThreads>(sums[k]);
        if (threadIdx.x == 0) partial[3 * blockIdx.x + k] = sum;
    }
}

__global__ void finish_fit(const double* partial, int64_t blocks, double* sums) {
    for (int k = 0; k < 3; ++k) {
        double sum = 0.0;
        for (int64_t b = threadIdx.x; b < blocks; b += kThreads) sum += partial[3 * b + k];
        sum = block_sum<kThreads>(sum);
        if (threadIdx.x == 0) sums[k] = sum;
    }
}

StepArgument checked_step(Arg alpha, Arg beta, CodeRange range) {
    check_size(alpha, 1, DType::f32);
    if (beta.defined()) check_size(beta, 1, DType::f32);
    return {pointer<float>(alpha), pointer<float>(beta), range.low, range.high};
}

/// Blocks of a pass that sums n elements, `each` of them a block at a time.
int64_t summing_blocks(int64_t n, int64_t each) {
    return std::max<int64_t>(1, std::min(kMostBlocks, ceil_div(n, each)));
}

}  // namespace

void lsq(Arg x, Arg alpha, Arg beta, CodeRange range, Arg y) {
    check_like(x, y);
    const StepArgument step = checked_step(alpha, beta, range);
    with_activation(x.dtype(), [&]<typename T>() { quantize_all<true, T>(x, step, pointer<T>(y)); });
}

void lsq_codes(Arg x, Arg alpha, Arg beta, CodeRange range, Arg q) {
    check_size(q, x.numel(), q.dtype());
    const StepArgument step = checked_step(alpha, beta, range);
    with_activation(x.dtype(), [&]<typename T>() {
        if (q.dtype() == DType::i32) return quantize_all<false, T>(x, step, pointer<int32_t>(q));
        with_activation(q.dtype(), [&]<typename Q>() { quantize_all<false, T>(x, step, pointer<Q>(q)); });
    });
}

void lsq_backward(Arg dy, Arg x, Arg alpha, Arg beta, CodeRange range, Arg g, Arg dx, Arg dalpha, Arg dbeta) {
    check_like(dy, x);
    check_like(x, dx);
    const StepArgument step = checked_step(alpha, beta, range);
    check_size(dalpha, 1, DType::f32);
    check_size(g, 1, DType::f32);
    const int64_t n = x.numel();
    with_activation(x.dtype(), [&]<typename T>() {
        const bool wide = n % kWidth == 0 && aligned(16, dy, x, dx);
        const int64_t blocks = summing_blocks(n, kThreads * (wide ? kWidth : 1));
        const Tensor partial(Shape{blocks, 2}, DType::f32, Device::cuda);
        launch(wide ? backward<T, kWidth> : backward<T, 1>, static_cast<unsigned>(blocks), kThreads, 0,
               pointer<T>(dy), pointer<T>(x), step, n, pointer<T>(dx), pointer<float>(partial));
        launch(finish_backward, 1, kThreads, 0, pointer<float>(partial), blocks, pointer<float>(g),
               pointer<float>(dalpha), pointer<float>(dbeta));
    });
}

void raise_steps(const std::vector<Tensor>& alphas) {
    for (size_t begin = 0; begin < alphas.size(); begin += kTable) {
        const size_t count = std::min(kTable, alphas.size() - begin);
        Steps steps = {};
        for (size_t i = 0; i < count; ++i) {
            check_size(alphas[begin + i], 1, DType::f32);
            steps.alpha[i] = pointer<float>(alphas[begin + i]);
        }
        launch(raise, static_cast<unsigned>(ceil_div(static_cast<int64_t>(count), kThreads)), kThreads, 0,
               steps, count);
    }
}

void lsq_weight_grad_scale(Arg w, CodeRange range, Arg g) {
    check_size(g, 1, DType::f32);
    const int64_t n = w.numel(), blocks = summing_blocks(n, kPiece);
    const Tensor partial(Shape{blocks}, DType::f64, Device::cuda);
    launch(sum_magnitudes, static_cast<unsigned>(blocks), kThreads, 0, pointer<float>(w), n,
           pointer<double>(partial));
    launch(finish_grad_scale, 1, kThreads, 0, pointer<double>(partial), blocks, range.high,
           pointer<float>(g));
}

void lsq_fit_sums(Arg x, double a, double o, CodeRange range, Arg sums) {
    check_size(sums, 3, DType::f64);
    const int64_t n = x.numel(), blocks = summing_blocks(n, kThreads * 8);
    const Tensor partial(Shape{blocks, 3}, DType::f64, Device::cuda);
    with_activation(x.dtype(), [&]<typename T>() {
        launch(fit<T>, static_cast<unsigned>(blocks), kThreads, 0, pointer<T>(x), a, o, range.low, range.high,
               n, pointer<double>(partial));
    });
    launch(finish_fit, 1, kThreads, 0, pointer<double>(partial), blocks, pointer<double>(sums));
}

}  // namespace vvtq::engine::cuda
