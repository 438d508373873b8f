// parts: many tensors as one buffer in one launch, and the sum of such buffers in a fixed order.
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

constexpr int64_t kChunk = 4096;  // elements of one block
constexpr int kMost = 1150;       // items of a launch: kernel parameters have at most 32,764 bytes

/// Parts as a kernel's argument; item i begins with block first_block[i].
struct Table {
    int count = 0;
    int first_block[kMost + 1];
    const float* part[kMost];
    int64_t begin[kMost];
    int64_t size[kMost];
};
static_assert(sizeof(Table) <= 32'600);

template <typename T>
__global__ void __launch_bounds__(kPassThreads)
    pack_kernel(const __grid_constant__ Table table, float scale, T* flat) {
    const int item = item_of_block(table.first_block, table.count);
    const int64_t begin = int64_t{static_cast<int>(blockIdx.x) - table.first_block[item]} * kChunk;
    const int64_t n = min(table.size[item] - begin, kChunk);
    const float* from = table.part[item] + begin;
    T* to = flat + table.begin[item] + begin;
    const bool vector =
        reinterpret_cast<uintptr_t>(from) % 16 == 0 && reinterpret_cast<uintptr_t>(to) % (4 * sizeof(T)) == 0;
    const int64_t packed = vector ? n / 4 * 4 : 0;
    const auto scaled = [=](int, float x) { return scale * x; };
    for (int64_t i = int64_t{threadIdx.x} * 4; i < packed; i += kPassThreads * 4) {
        store(to + i, apply<4, T>(scaled, load<4>(from + i)));
    }
    for (int64_t i = packed + threadIdx.x; i < n; i += kPassThreads) to[i] = from_float<T>(scale * from[i]);
}

/// y (n) may be a row of parts (count, n): a thread reads its column before it writes
template <typename T>
__global__ void sum_parts_kernel(const T* parts, int64_t count, int64_t n, T scale, T* y) {
    for (int64_t i = first_index(); i < n; i += index_stride()) {
        T total = parts[i];
#pragma unroll 4
        for (int64_t s = 1; s < count; ++s) total += parts[s * n + i];
        y[i] = scale * total;
    }
}

}  // namespace

void pack(const std::vector<PackItem>& items, double scale, Arg flat) {
    check_parts(items, flat);
    Table table;
    table.first_block[0] = 0;
    const auto flush = [&] {
        if (table.count == 0) return;
        with_activation(flat.dtype(), [&]<typename T>() {
            launch(pack_kernel<T>, static_cast<unsigned>(table.first_block[table.count]), kPassThreads, 0,
                   table, scale, pointer<T>(flat));
        });
        table.count = 0;
    };
    for (const PackItem& item : items) {
        const int64_t n = item.part.numel();
        if (n == 0) continue;
        const int i = table.count++;
        table.part[i] = pointer<float>(item.part);
        table.begin[i] = item.begin;
        table.size[i] = n;
        table.first_block[i + 1] = table.first_block[i] + static_cast<int>(ceil_div(n, kChunk));
        if (table.count == kMost) flush();
    }
    flush();
}

void sum_parts(Arg parts, double scale, Arg y) {
    const int64_t n = y.numel(), count = part_count(parts, y);
    const auto run = [&]<typename T>(const T* from, T* to) {
        launch(sum_parts_kernel<T>, pass_blocks(n), kPassThreads, 0, from, count, n, scale, to);
    };
    if (y.dtype() == DType::f64) {
        run(pointer<double>(parts), pointer<double>(y));
    } else {
        run(pointer<float>(parts), pointer<float>(y));
    }
}

}  // namespace vvtq::engine::cuda
