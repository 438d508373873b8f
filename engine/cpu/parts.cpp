// parts: many tensors as one buffer, and the sum of such buffers in a fixed order.
#include "engine/bf16.h"
#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {
namespace {

/// to[i] = scale from[i]; To: T, or uint16_t for bf16
template <typename T, typename To>
void scale_to(const T* from, T scale, int64_t n, To* to) {
    parallel_chunks(n, kChunk, [=](int64_t, int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
            if constexpr (std::is_same_v<T, To>) {
                to[i] = scale * from[i];
            } else {
                to[i] = bf16_bits(scale * from[i]);
            }
        }
    });
}

}  // namespace

void pack(const std::vector<PackItem>& items, double scale, Arg flat) {
    check_parts(items, flat);
    for (const PackItem& item : items) {
        const int64_t n = item.part.numel();
        if (flat.dtype() == DType::bf16) {
            auto* to = static_cast<uint16_t*>(flat.raw()) + item.begin;
            scale_to(item.part.data<float>(), static_cast<float>(scale), n, to);
        } else {
            with_floating(flat.dtype(), [&]<typename T>() {
                scale_to(item.part.data<T>(), static_cast<T>(scale), n, flat.data<T>() + item.begin);
            });
        }
    }
}

void sum_parts(Arg parts, double scale, Arg y) {
    const int64_t n = y.numel(), count = part_count(parts, y);
    with_floating(y.dtype(), [&]<typename T>() {
        const T* from = parts.data<T>();
        T* to = y.data<T>();
        const T factor = static_cast<T>(scale);
        constexpr int64_t kBlock = 256;
        parallel_chunks(n, kBlock, [=](int64_t, int64_t begin, int64_t end) {
            T total[kBlock];
            std::copy(from + begin, from + end, total);
            for (int64_t s = 1; s < count; ++s) {
#pragma omp simd
                for (int64_t i = begin; i < end; ++i) total[i - begin] += from[s * n + i];
            }
            for (int64_t i = begin; i < end; ++i) to[i] = factor * total[i - begin];
        });
    });
}

}  // namespace vvtq::engine::cpu
