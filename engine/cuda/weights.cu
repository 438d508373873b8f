// weights: the quantizers of all weights of a model, in two launches forward and two backward.
//
// A block has kPiece neighbouring elements of one weight; a second small kernel adds up each weight's blocks.
// Sums of a bin (specification section 5) are taken in fixed point with integer atomics, whose order does not
// matter: d / 2^e, e the exponent of the step, lies within -1 .. 1 and is added as two integers of 18 bits
// each.
#include <algorithm>

#include "engine/cuda/device.cuh"
#include "engine/cuda/families.h"

namespace vvtq::engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kVectors = 4;  // of four elements, a thread
constexpr int kPiece = kThreads * kVectors * 4;
constexpr int kSlots = 256;          // bins times their copies
constexpr size_t kItems = 256;       // of one launch: a kernel's arguments hold 32,764 bytes
constexpr float kUnits = 262144.0f;  // 2^18

struct Weight {
    const float* w;
    QuantArgument quantizer;
    void* codes;
    float *g, *reg;
    double* stats;
    int64_t numel;
    int64_t bins_at;  // in the workspace: (blocks, bins, 3)
    int bins;         // with reg
    int first;        // block
    bool wide;        // four elements are one access
};

struct Gradient {
    const float *w, *g;
    QuantArgument quantizer;
    const double* stats;
    const float* dy;
    float *dw, *dscale;
    int64_t numel;
    int bins;   // with stats
    int first;  // block
    bool wide;
};

template <typename Item>
struct Table {
    Item at[kItems];
};

/// The weight that a block works on.
template <typename Item>
__device__ int item_of(const Table<Item>& table, int count, int block) {
    int low = 0, high = count - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (table.at[middle].first <= block) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

/// Elements at .. at + 4 of x, 0 beyond its end.
__device__ Vector<float, 4> load_four(const float* x, int64_t at, int64_t numel, bool wide) {
    if (wide && at < numel) return Vector<float, 4>::load(x + at);
    float values[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = at + j < numel ? x[at + j] : 0.0f;
    return Vector<float, 4>::of(values);
}

template <typename T>
__device__ void store_four(T* y, int64_t at, int64_t numel, bool wide, const float (&values)[4]) {
    if (wide && at < numel) return Vector<T, 4>::of(values).store(y + at);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        if (at + j < numel) y[at + j] = from_float<T>(values[j]);
    }
}

/// Sums of one block's bins, each in `copies` slots that lanes share.
struct Bins {
    unsigned count[kSlots];
    int sum_high[kSlots], sum_low[kSlots], squares_high[kSlots], squares_low[kSlots];

    __device__ void clear() {
        for (int i = threadIdx.x; i < kSlots; i += kThreads) {
            count[i] = 0;
            sum_high[i] = sum_low[i] = squares_high[i] = squares_low[i] = 0;
        }
    }
    /// d comes times kUnits / 2^e.
    __device__ void add(int slot, bool in, float d) {
        atomicAdd(&count[slot], 1u);
        if (!in) return;
        const int high = __float2int_rn(d);
        atomicAdd(&sum_high[slot], high);
        atomicAdd(&sum_low[slot], __float2int_rn((d - static_cast<float>(high)) * kUnits));
        const float square = d * d * (1.0f / kUnits);
        const int square_high = __float2int_rn(square);
        atomicAdd(&squares_high[slot], square_high);
        atomicAdd(&squares_low[slot], __float2int_rn((square - static_cast<float>(square_high)) * kUnits));
    }
    /// out (3) = {count, sum d, sum d^2} of a bin
    __device__ void total(int bin, int copies, int exponent, double* out) const {
        int64_t all = 0, sum = 0, squares = 0;
        constexpr int64_t kHigh = static_cast<int64_t>(kUnits);
        for (int i = bin * copies; i < (bin + 1) * copies; ++i) {
            all += count[i];
            sum += sum_high[i] * kHigh + sum_low[i];
            squares += squares_high[i] * kHigh + squares_low[i];
        }
        out[0] = static_cast<double>(all);
        out[1] = ldexp(static_cast<double>(sum), exponent - 36);
        out[2] = ldexp(static_cast<double>(squares), 2 * exponent - 36);
    }
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    forward(const __grid_constant__ Table<Weight> table, int count, double* partial) {
    __shared__ Bins bins;
    const int block = static_cast<int>(blockIdx.x);
    const Weight& item = table.at[item_of(table, count, block)];
    const bool regularized = item.reg != nullptr;
    const bool wide = item.wide;
    const int64_t numel = item.numel;
    const int64_t begin = int64_t{block - item.first} * kPiece + threadIdx.x * 4;
    Vector<float, 4> w[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) w[i] = load_four(item.w, begin + i * kThreads * 4, numel, wide);
    if (regularized) {
        bins.clear();
        __syncthreads();
    }
    const Step step = item.quantizer.load();
    const int exponent = ilogbf(step.a);
    const float unit = ldexpf(kUnits, -exponent);
    const int low = static_cast<int>(step.low), bin_count = item.bins;
    const int copies = regularized ? min(32, kSlots / bin_count) : 1;
    const int copy = static_cast<int>(threadIdx.x) % copies;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        const int64_t at = begin + i * kThreads * 4;
        float codes[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float x = w[i][j], v = step.scaled(x);
            codes[j] = rintf(step.clamped(v));
            sum += fabsf(x);
            if (!regularized || at + j >= numel || codes[j] != codes[j]) continue;  // NaN shows elsewhere
            const int slot = (static_cast<int>(codes[j]) - low) * copies + copy;
            bins.add(slot, step.inside(v), __fmaf_rn(-codes[j], step.a, x) * unit);
        }
        store_four(static_cast<T*>(item.codes), at, numel, wide, codes);
    }
    sum = block_sum<kThreads>(sum);
    if (threadIdx.x == 0) partial[block] = static_cast<double>(sum);
    if (!regularized) return;
    __syncthreads();
    double* out = partial + item.bins_at + int64_t{block - item.first} * bin_count * 3;
    for (int k = threadIdx.x; k < bin_count; k += kThreads) bins.total(k, copies, exponent, out + 3 * k);
}

/// g, reg and stats of one weight a block.
__global__ void __launch_bounds__(kThreads)
    finish_forward(const __grid_constant__ Table<Weight> table, const double* partial) {
    __shared__ double sums[kThreads][3];
    const Weight& item = table.at[blockIdx.x];
    const int64_t blocks = (item.numel + kPiece - 1) / kPiece;
    double magnitude = 0.0;
    for (int64_t b = threadIdx.x; b < blocks; b += kThreads) magnitude += partial[item.first + b];
    magnitude = block_sum<kThreads>(magnitude);
    if (threadIdx.x == 0 && item.g != nullptr)
        *item.g = static_cast<float>(1.0 / sqrt(magnitude * item.quantizer.range[1]));
    if (item.reg == nullptr) return;

    const int bins = item.bins, parts = kThreads / bins;
    const int bin = static_cast<int>(threadIdx.x) % bins, part = static_cast<int>(threadIdx.x) / bins;
    double own[3] = {};
    if (part < parts) {
        const double* in = partial + item.bins_at + 3 * bin;
        for (int64_t b = part; b < blocks; b += parts) {
            for (int k = 0; k < 3; ++k) own[k] += in[b * bins * 3 + k];
        }
    }
    for (int k = 0; k < 3; ++k) sums[threadIdx.x][k] = own[k];
    __syncthreads();
    double distance = 0.0, variance = 0.0;
    if (part == 0) {
        for (int p = 1; p < parts; ++p) {
            for (int k = 0; k < 3; ++k) own[k] += sums[p * bins + bin][k];
        }
        const double all = own[0], mean = all > 0.0 ? own[1] / all : 0.0;
        const double spread = own[2] - own[1] * mean;
        distance = own[2];
        variance = all > 1.0 ? spread / (all - 1.0) : 0.0;
        item.stats[3 * bin] = all;
        item.stats[3 * bin + 1] = mean;
        item.stats[3 * bin + 2] = spread;
    }
    distance = block_sum<kThreads>(distance);
    variance = block_sum<kThreads>(variance);
    if (threadIdx.x == 0) {
        *item.reg = static_cast<float>(distance / static_cast<double>(item.numel) + variance);
    }
}

__global__ void __launch_bounds__(kThreads)
    backward(const __grid_constant__ Table<Gradient> table, int count, const float* dreg, double* partial) {
    __shared__ float slope[kSlots], shift[kSlots];
    const int block = static_cast<int>(blockIdx.x);
    const Gradient& item = table.at[item_of(table, count, block)];
    const bool regularized = item.stats != nullptr && dreg != nullptr;
    const bool wide = item.wide, upstream = item.dy != nullptr;
    const int64_t numel = item.numel;
    const int64_t begin = int64_t{block - item.first} * kPiece + threadIdx.x * 4;
    Vector<float, 4> w[kVectors], dy[kVectors] = {};
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        w[i] = load_four(item.w, begin + i * kThreads * 4, numel, wide);
        if (upstream) dy[i] = load_four(item.dy, begin + i * kThreads * 4, numel, wide);
    }
    if (regularized) {
        // dreg d reg / du = dreg (2 d / n + 2 (d - mean_k) / (count_k - 1)) = slope_k d - shift_k
        const double factor = static_cast<double>(*dreg);
        for (int k = threadIdx.x; k < item.bins; k += kThreads) {
            const double in_bin = item.stats[3 * k];
            const double spread = in_bin > 1.0 ? 2.0 / (in_bin - 1.0) : 0.0;
            slope[k] = static_cast<float>(factor * (2.0 / static_cast<double>(numel) + spread));
            shift[k] = static_cast<float>(factor * spread * item.stats[3 * k + 1]);
        }
        __syncthreads();
    }
    const Step step = item.quantizer.load();
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        const int64_t at = begin + i * kThreads * 4;
        float dw[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float x = w[i][j], v = step.scaled(x);
            const float clamped = step.clamped(v), code = rintf(clamped);
            const bool in = step.inside(v);
            dw[j] = 0.0f;
            if (at + j >= numel) continue;
            if (upstream) {
                const float d = dy[i][j];
                dw[j] = in ? d : 0.0f;
                sum += d * (in ? code - v : code);
            }
            if (regularized) {
                const int k = code == code ? static_cast<int>(code - step.low) : 0;
                const float d = in ? __fmaf_rn(-code, step.a, x) : 0.0f;
                const float du = slope[k] * d - shift[k];
                dw[j] += in ? du : 0.0f;
                sum += in ? 0.0f : du * clamped;
            }
        }
        store_four(item.dw, at, numel, wide, dw);
    }
    sum = block_sum<kThreads>(sum);
    if (threadIdx.x == 0) partial[block] = static_cast<double>(sum);
}

/// dscale, a warp a weight.
__global__ void __launch_bounds__(kThreads)
    finish_backward(const __grid_constant__ Table<Gradient> table, int count, const double* partial) {
    const int i = static_cast<int>(blockIdx.x) * kWarps + threadIdx.x / 32;
    if (i >= count) return;
    const Gradient& item = table.at[i];
    const int64_t blocks = (item.numel + kPiece - 1) / kPiece;
    double sum = 0.0;
    for (int64_t b = threadIdx.x % 32; b < blocks; b += 32) sum += partial[item.first + b];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) *item.dscale = static_cast<float>(static_cast<double>(*item.g) * sum);
}

/// Bins of a weight's regularizer; 0 without.
int checked_bins(Arg w, Arg stats) {
    VVTQ_CHECK(w.numel() <= (int64_t{1} << 40), w.shape().str());
    if (!stats.defined()) return 0;
    const int64_t bins = stats.numel() / 3;
    VVTQ_CHECK(bins >= 1 && bins <= kSlots, bins, " bins");
    check_size(stats, 3 * bins, DType::f64);
    return static_cast<int>(bins);
}

/// f(begin, count) for parts of n items that one launch takes.
template <typename F>
void in_launches(size_t n, F&& f) {
    for (size_t begin = 0; begin < n; begin += kItems) f(begin, std::min(kItems, n - begin));
}

}  // namespace

void quantize_weights(const std::vector<WeightItem>& items) {
    in_launches(items.size(), [&](size_t begin, size_t count) {
        with_activation(items[begin].codes.dtype(), [&]<typename T>() {
            Table<Weight> table = {};
            int64_t blocks = 0, bins = 0;
            for (size_t i = 0; i < count; ++i) {
                const WeightItem& item = items[begin + i];
                const int of_item = checked_bins(item.w, item.stats);
                VVTQ_CHECK(item.reg.defined() == item.stats.defined(), "reg and stats go together");
                check_size(item.codes, item.w.numel(), item.codes.dtype());
                const int64_t numel = item.w.numel();
                table.at[i] = {pointer<float>(item.w),
                               argument_of(item.params),
                               pointer<T>(item.codes),
                               pointer<float>(item.params.grad_scale),
                               pointer<float>(item.reg),
                               pointer<double>(item.stats),
                               numel,
                               bins,
                               of_item,
                               static_cast<int>(blocks),
                               numel % 4 == 0 && aligned(16, item.w, item.codes)};
                blocks += ceil_div(numel, kPiece);
                if (item.reg.defined()) bins += ceil_div(numel, kPiece) * of_item * 3;
            }
            for (size_t i = 0; i < count; ++i) table.at[i].bins_at += blocks;  // behind the sums of |w|
            const Tensor partial(Shape{blocks + bins}, DType::f64, Device::cuda);
            launch(forward<T>, static_cast<unsigned>(blocks), kThreads, 0, table, count,
                   pointer<double>(partial));
            launch(finish_forward, static_cast<unsigned>(count), kThreads, 0, table,
                   pointer<double>(partial));
        });
    });
}

void quantize_weights_backward(const std::vector<WeightGradientItem>& items, Arg dreg) {
    if (dreg.defined()) check_size(dreg, 1, DType::f32);
    in_launches(items.size(), [&](size_t begin, size_t count) {
        Table<Gradient> table = {};
        int64_t blocks = 0;
        for (size_t i = 0; i < count; ++i) {
            const WeightGradientItem& item = items[begin + i];
            check_like(item.w, item.dw);
            if (item.dy.defined()) check_like(item.w, item.dy);
            check_size(item.params.grad_scale, 1, DType::f32);
            check_size(item.dscale, 1, DType::f32);
            const int64_t numel = item.w.numel();
            table.at[i] = {pointer<float>(item.w),
                           pointer<float>(item.params.grad_scale),
                           argument_of(item.params),
                           pointer<double>(item.stats),
                           pointer<float>(item.dy),
                           pointer<float>(item.dw),
                           pointer<float>(item.dscale),
                           numel,
                           checked_bins(item.w, item.stats),
                           static_cast<int>(blocks),
                           numel % 4 == 0 && aligned(16, item.w, item.dy, item.dw)};
            blocks += ceil_div(numel, kPiece);
        }
        const Tensor partial(Shape{blocks}, DType::f64, Device::cuda);
        launch(backward, static_cast<unsigned>(blocks), kThreads, 0, table, count, pointer<float>(dreg),
               pointer<double>(partial));
        launch(finish_backward, static_cast<unsigned>(ceil_div(static_cast<int64_t>(count), kWarps)),
               kThreads, 0, table, count, pointer<double>(partial));
    });
}

}  // namespace vvtq::engine::cuda
