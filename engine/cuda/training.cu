// training: what a step does beside the model's arithmetic; all parameters of a model in one launch.
#include <array>

#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"
#include "engine/cuda/philox.cuh"

namespace vvtq::engine::cuda {
namespace {

__global__ void stochastic_depth_kernel(const int64_t* key, const double* rates, const int32_t* places,
                                        int64_t samples, int64_t n, float* keep) {
    for (int64_t i = first_index(); i < n; i += index_stride()) {
        const int64_t r = i / samples, b = i - r * samples;
        const double rate = rates[r];
        const bool dropped = first_uniform(mix_key(*key, r, places != nullptr ? places[b] : b)) < rate;
        keep[i] = dropped ? 0.0f : static_cast<float>(1.0 / (1.0 - rate));
    }
}

template <typename T>
__global__ void find_kernel(const T* x, int64_t n, int32_t* found_inf) {
    bool bad = false;
    for (int64_t i = first_index(); i < n; i += index_stride()) bad = bad || !isfinite(to_float(x[i]));
    if (__syncthreads_or(bad) && threadIdx.x == 0) atomicOr(found_inf, 1);
}

// --- all parameters at once

constexpr int64_t kChunk = 4096;  // elements of one block
constexpr int kMost = 700;        // items of a launch: kernel parameters have at most 32,764 bytes

/// Parameters as a kernel's argument; item i begins with block first_block[i].
struct Table {
    int count = 0;
    int first_block[kMost + 1];
    float* p[kMost];
    const float* g[kMost];
    float* m[kMost];
    float* v[kMost];
    int64_t size[kMost];
    uint8_t decay[kMost];

    __device__ int item() const { return item_of_block(first_block, count); }
    __device__ int64_t begin_in(int item) const {
        return int64_t{static_cast<int>(blockIdx.x) - first_block[item]} * kChunk;
    }
};
static_assert(sizeof(Table) <= 32'600);

/// f(table, blocks) for tables of all items that are not empty.
template <typename F>
void for_each_table(const std::vector<AdamwItem>& items, F&& f) {
    Table table;
    const auto flush = [&] {
        if (table.count > 0) f(table, static_cast<unsigned>(table.first_block[table.count]));
        table.count = 0;
    };
    table.first_block[0] = 0;
    for (const AdamwItem& item : items) {
        const int64_t n = item.p.numel();
        for (const Tensor* t : {&item.p, &item.g, &item.m, &item.v}) check_size(*t, n, DType::f32);
        if (n == 0) continue;
        const int i = table.count++;
        table.p[i] = pointer<float>(item.p);
        table.g[i] = pointer<float>(item.g);
        table.m[i] = pointer<float>(item.m);
        table.v[i] = pointer<float>(item.v);
        table.size[i] = n;
        table.decay[i] = item.decay ? 1 : 0;
        table.first_block[i + 1] = table.first_block[i] + static_cast<int>(ceil_div(n, kChunk));
        if (table.count == kMost) flush();
    }
    flush();
}

__global__ void __launch_bounds__(kPassThreads)
    squares_kernel(const __grid_constant__ Table table, double* partial) {
    const int item = table.item();
    const int64_t begin = table.begin_in(item), end = min(table.size[item], begin + kChunk);
    const float* g = table.g[item];
    double total = 0;
#pragma unroll 4
    for (int64_t i = begin + threadIdx.x; i < end; i += kPassThreads) {
        const double x = static_cast<double>(g[i]);
        total += x * x;
    }
    total = block_sum<kPassThreads>(total);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

/// Nothing is scaled where the norm is not finite, and no update follows then.
__global__ void __launch_bounds__(kPassThreads)
    clip_kernel(const double* partial, int64_t n, double most, double* schedule, int32_t* found_inf) {
    double total = 0;
    for (int64_t i = threadIdx.x; i < n; i += kPassThreads) total += partial[i];
    total = block_sum<kPassThreads>(total);
    if (threadIdx.x > 0) return;
    const double norm = sqrt(total);
    schedule[3] = isfinite(norm) && most > 0 && norm > most ? most / norm : 1.0;
    if (!isfinite(norm) && *found_inf == 0) *found_inf = 4;
}

struct Rates {
    float beta1, beta2, rest1, rest2, eps;  // rest: 1 - beta
    double weight_decay;
};

__global__ void __launch_bounds__(kPassThreads)
    adamw_kernel(const __grid_constant__ Table table, Rates rates, const double* schedule,
                 const int32_t* found_inf) {
    if (*found_inf != 0) return;  // nobody writes it during this launch
    const int item = table.item();
    __shared__ float factors[4];
    if (threadIdx.x == 0) {
        factors[0] = static_cast<float>(schedule[3]);
        factors[1] = static_cast<float>(schedule[0] / schedule[1]);
        factors[2] = static_cast<float>(sqrt(schedule[2]));
        factors[3] =
            static_cast<float>(table.decay[item] != 0 ? 1.0 - schedule[0] * rates.weight_decay : 1.0);
    }
    __syncthreads();
    const float scale = factors[0], rate = factors[1], root = factors[2], keep = factors[3];
    const auto update = [&](float& p, float& m, float& v, float g) {
        g *= scale;
        m = rates.beta1 * m + rates.rest1 * g;
        v = rates.beta2 * v + rates.rest2 * g * g;
        p = p * keep - rate * m / (sqrtf(v) / root + rates.eps);
    };
    const int64_t begin = table.begin_in(item), n = min(table.size[item] - begin, kChunk);
    float *p = table.p[item] + begin, *m = table.m[item] + begin, *v = table.v[item] + begin;
    const float* g = table.g[item] + begin;
    const auto address = [](const float* x) { return reinterpret_cast<uintptr_t>(x); };
    const bool vector = (address(p) | address(m) | address(v) | address(g)) % 16 == 0;
    const int64_t packed = vector ? n / 4 * 4 : 0;
    for (int64_t i = int64_t{threadIdx.x} * 4; i < packed; i += kPassThreads * 4) {
        Pack<float, 4> value = load<4>(p + i), first = load<4>(m + i), second = load<4>(v + i);
        const Pack<float, 4> gradient = load<4>(g + i);
#pragma unroll
        for (int k = 0; k < 4; ++k) update(value.at[k], first.at[k], second.at[k], gradient.at[k]);
        store(p + i, value);
        store(m + i, first);
        store(v + i, second);
    }
    for (int64_t i = packed + threadIdx.x; i < n; i += kPassThreads) update(p[i], m[i], v[i], g[i]);
}

constexpr int kMostSingles = 2048;

/// Parameters of one element.
struct Singles {
    int count = 0;
    const float* p[kMostSingles];
};

/// After all of adamw_kernel, so that a step is taken as a whole or not at all.
__global__ void singles_kernel(const __grid_constant__ Singles singles, int32_t* found_inf) {
    const int i = static_cast<int>(first_index());
    if (i < singles.count && !isfinite(*singles.p[i])) atomicOr(found_inf, 2);
}

}  // namespace

void stochastic_depth(Arg key, Arg rates, Arg places, Arg keep) {
    check_size(key, 1, DType::i64);
    const int64_t n = keep.numel(), rows = rates.numel();
    VVTQ_CHECK(rows > 0 && n % rows == 0, "rates ", rates.shape().str(), " for ", keep.shape().str());
    if (places.defined()) check_size(places, n / rows, DType::i32);
    launch(stochastic_depth_kernel, pass_blocks(n), kPassThreads, 0, pointer<int64_t>(key),
           pointer<double>(rates), pointer<int32_t>(places), n / rows, n, pointer<float>(keep));
}

void clip_gradients(const std::vector<AdamwItem>& items, double most, Arg schedule, Arg found_inf) {
    check_size(schedule, 4, DType::f64);
    check_size(found_inf, 1, DType::i32);
    int64_t parts = 0;
    for (const AdamwItem& item : items) parts += ceil_div(item.p.numel(), kChunk);
    const Tensor partial(Shape{std::max<int64_t>(parts, 1)}, DType::f64, Device::cuda);
    double* next = pointer<double>(partial);
    for_each_table(items, [&](const Table& table, unsigned blocks) {
        launch(squares_kernel, blocks, kPassThreads, 0, table, next);
        next += blocks;
    });
    launch(clip_kernel, 1, kPassThreads, 0, pointer<double>(partial), parts, most, pointer<double>(schedule),
           pointer<int32_t>(found_inf));
}

void find_not_finite(Arg x, Arg found_inf) {
    check_size(found_inf, 1, DType::i32);
    with_activation(x.dtype(), [&]<typename T>() {
        launch(find_kernel<T>, pass_blocks(x.numel()), kPassThreads, 0, pointer<T>(x), x.numel(),
               pointer<int32_t>(found_inf));
    });
}

void adamw(const std::vector<AdamwItem>& items, const AdamwRates& rates, Arg schedule, Arg found_inf) {
    check_size(schedule, 4, DType::f64);
    check_size(found_inf, 1, DType::i32);
    const auto narrow = [](double x) { return static_cast<float>(x); };
    const Rates arguments{narrow(rates.beta1),       narrow(rates.beta2), narrow(1.0 - rates.beta1),
                          narrow(1.0 - rates.beta2), narrow(rates.eps),   rates.weight_decay};
    for_each_table(items, [&](const Table& table, unsigned blocks) {
        launch(adamw_kernel, blocks, kPassThreads, 0, table, arguments, pointer<double>(schedule),
               pointer<int32_t>(found_inf));
    });
    Singles singles;
    const auto flush = [&] {
        launch(singles_kernel, static_cast<unsigned>(ceil_div(singles.count, kPassThreads)), kPassThreads, 0,
               singles, pointer<int32_t>(found_inf));
        singles.count = 0;
    };
    for (const AdamwItem& item : items) {
        if (item.p.numel() != 1) continue;
        singles.p[singles.count++] = pointer<float>(item.p);
        if (singles.count == kMostSingles) flush();
    }
    flush();
}

}  // namespace vvtq::engine::cuda
