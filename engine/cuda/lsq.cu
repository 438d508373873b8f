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
template <typename T, typename Q, int Width, bool Dequantize, bool Grouped>
__global__ void __launch_bounds__(kThreads)
    quantize(const T* x, QuantArgument quantizer, int64_t inner, int64_t groups, int64_t n, Q* q) {
    const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * Width;
    if (at >= n) return;
    const Vector<T, Width> in = Vector<T, Width>::load(x + at);
    const Step step = quantizer.load(Grouped ? static_cast<int>(at / inner % groups) : 0);
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

/// Whether vectors of kWidth elements lie in one group each.
bool has_vectors(int64_t n, const QuantParams& quantizer) {
    return (quantizer.groups() == 1 ? n : quantizer.inner) % kWidth == 0;
}

template <bool Dequantize, typename T, typename Q>
void quantize_all(Arg x, const QuantParams& quantizer, Q* q) {
    const int64_t n = x.numel(), groups = quantizer.groups();
    const bool wide = has_vectors(n, quantizer) && aligned(16, x) && reinterpret_cast<uintptr_t>(q) % 16 == 0;
    const auto blocks = static_cast<unsigned>(ceil_div(n, kThreads * (wide ? kWidth : 1)));
    const auto run = [&](auto* kernel) {
        launch(kernel, blocks, kThreads, 0, pointer<T>(x), argument_of(quantizer, groups), quantizer.inner,
               groups, n, q);
    };
    if (groups == 1) {
        run(wide ? quantize<T, Q, kWidth, Dequantize, false> : quantize<T, Q, 1, Dequantize, false>);
    } else {
        run(wide ? quantize<T, Q, kWidth, Dequantize, true> : quantize<T, Q, 1, Dequantize, true>);
    }
}

/// partial (groups, blocks, 2) = {sum dy (q - in v), sum dy (1 - in)} of a block's elements of group
/// blockIdx.y, which has n of them.
template <typename T, int Width>
__global__ void __launch_bounds__(kThreads) backward(const T* dy, const T* x, QuantArgument quantizer,
                                                     int64_t inner, int64_t n, T* dx, float* partial) {
    using Values = Vector<T, Width>;
    const int64_t group = blockIdx.y, groups = gridDim.y;
    const Step step = quantizer.load(static_cast<int>(group));
    float sum_scale = 0.0f, sum_offset = 0.0f;
    const int64_t stride = int64_t{gridDim.x} * (kThreads * Width);
    for (int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * Width; i < n; i += stride) {
        const int64_t at = groups == 1 ? i : (i / inner * groups + group) * inner + i % inner;
        const Values g = Values::load(dy + at), in_x = Values::load(x + at);
        float out[Width];
#pragma unroll
        for (int j = 0; j < Width; ++j) {
            const float v = step.scaled(in_x[j]);
            const float code = rintf(step.clamped(v));
            const bool in = step.inside(v);
            out[j] = in ? g[j] : 0.0f;
            sum_scale += g[j] * (in ? code - v : code);
            sum_offset += in ? 0.0f : g[j];
        }
        Values::of(out).store(dx + at);
    }
    sum_scale = block_sum<kThreads>(sum_scale);
    sum_offset = block_sum<kThreads>(sum_offset);
    if (threadIdx.x > 0) return;
    float* const sums = partial + 2 * (group * gridDim.x + blockIdx.x);
    sums[0] = sum_scale;
    sums[1] = sum_offset;
}

/// A block a group.
__global__ void finish_backward(const float* partial, int64_t blocks, const float* g, float* dscale,
                                float* doffset) {
    partial += 2 * blocks * blockIdx.x;
    double sum_scale = 0.0, sum_offset = 0.0;
    for (int64_t b = threadIdx.x; b < blocks; b += kThreads) {
        sum_scale += static_cast<double>(partial[2 * b]);
        sum_offset += static_cast<double>(partial[2 * b + 1]);
    }
    sum_scale = block_sum<kThreads>(sum_scale);
    sum_offset = block_sum<kThreads>(sum_offset);
    if (threadIdx.x > 0) return;
    dscale[blockIdx.x] = static_cast<float>(static_cast<double>(*g) * sum_scale);
    if (doffset != nullptr) doffset[blockIdx.x] = static_cast<float>(sum_offset);
}

struct Steps {
    float* at[kTable];
};

__global__ void clamp(const __grid_constant__ Steps steps, int count) {
    const int i = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x;
    if (i < count && isfinite(*steps.at[i])) *steps.at[i] = fmaxf(*steps.at[i], Step::kLeast);
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

__global__ void finish_grad_scale(const double* partial, int64_t blocks, const int* range, int64_t groups,
                                  float* g) {
    double sum = 0.0;
    for (int64_t b = threadIdx.x; b < blocks; b += kThreads) sum += partial[b];
    sum = block_sum<kThreads>(sum);
    if (threadIdx.x == 0) *g = static_cast<float>(1.0 / sqrt(sum / static_cast<double>(groups) * range[1]));
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

void check_groups(Arg x, const QuantParams& quantizer) {
    const int64_t groups = quantizer.groups();
    VVTQ_CHECK(
        groups == 1 || (groups > 1 && quantizer.inner > 0 && x.numel() % (groups * quantizer.inner) == 0),
        x.shape().str(), " in ", groups, " groups of ", quantizer.inner);
}

/// Blocks of a pass that sums n elements, `each` of them a block at a time.
int64_t summing_blocks(int64_t n, int64_t each) {
    return std::max<int64_t>(1, std::min(kMostBlocks, ceil_div(n, each)));
}

}  // namespace

void lsq(Arg x, const QuantParams& quantizer, Arg y) {
    check_like(x, y);
    check_groups(x, quantizer);
    with_activation(x.dtype(), [&]<typename T>() { quantize_all<true, T>(x, quantizer, pointer<T>(y)); });
}

void lsq_codes(Arg x, const QuantParams& quantizer, Arg q) {
    check_size(q, x.numel(), q.dtype());
    check_groups(x, quantizer);
    with_activation(x.dtype(), [&]<typename T>() {
        if (q.dtype() == DType::i32) return quantize_all<false, T>(x, quantizer, pointer<int32_t>(q));
        with_activation(q.dtype(),
                        [&]<typename Q>() { quantize_all<false, T>(x, quantizer, pointer<Q>(q)); });
    });
}

void lsq_backward(Arg dy, Arg x, const QuantParams& quantizer, Arg dx, Arg dscale, Arg doffset) {
    check_like(dy, x);
    check_like(x, dx);
    check_groups(x, quantizer);
    check_like(quantizer.scale, dscale);
    if (doffset.defined()) check_like(quantizer.scale, doffset);
    check_size(quantizer.grad_scale, 1, DType::f32);
    const int64_t groups = quantizer.groups(), n = x.numel() / groups;
    with_activation(x.dtype(), [&]<typename T>() {
        const bool wide = has_vectors(n, quantizer) && aligned(16, dy, x, dx);
        const int64_t blocks = summing_blocks(n, kThreads * (wide ? kWidth : 1));
        const Tensor partial(Shape{groups, blocks, 2}, DType::f32, Device::cuda);
        const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(groups));
        launch(wide ? backward<T, kWidth> : backward<T, 1>, grid, kThreads, 0, pointer<T>(dy), pointer<T>(x),
               argument_of(quantizer, groups), quantizer.inner, n, pointer<T>(dx), pointer<float>(partial));
        launch(finish_backward, static_cast<unsigned>(groups), kThreads, 0, pointer<float>(partial), blocks,
               pointer<float>(quantizer.grad_scale), pointer<float>(dscale), pointer<float>(doffset));
    });
}

void clamp_steps(const std::vector<Tensor>& scales) {
    std::vector<float*> all;
    for (const Tensor& scale : scales) {
        for (int64_t i = 0; i < scale.numel(); ++i) all.push_back(pointer<float>(scale) + i);
    }
    for (size_t begin = 0; begin < all.size(); begin += kTable) {
        const size_t count = std::min(kTable, all.size() - begin);
        Steps steps = {};
        std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(begin), count, steps.at);
        launch(clamp, static_cast<unsigned>(ceil_div(static_cast<int64_t>(count), kThreads)), kThreads, 0,
               steps, count);
    }
}

void lsq_weight_grad_scale(Arg w, const QuantParams& quantizer, Arg g) {
    check_size(g, 1, DType::f32);
    const int64_t n = w.numel(), blocks = summing_blocks(n, kPiece);
    const Tensor partial(Shape{blocks}, DType::f64, Device::cuda);
    launch(sum_magnitudes, static_cast<unsigned>(blocks), kThreads, 0, pointer<float>(w), n,
           pointer<double>(partial));
    launch(finish_grad_scale, 1, kThreads, 0, pointer<double>(partial), blocks, pointer<int>(quantizer.range),
           quantizer.groups(), pointer<float>(g));
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
