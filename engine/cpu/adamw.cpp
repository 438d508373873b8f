// adamw: all parameters in one pass.
#include <cmath>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {
namespace {

struct Chunk {
    const AdamwItem* item;
    int64_t begin, end;
};

template <typename T>
void update(const Chunk& chunk, const AdamwRates& step, const double* schedule) {
    const double lr = schedule[0], correction1 = schedule[1], correction2 = schedule[2];
    const T scale = static_cast<T>(schedule[3]);
    const T b1 = static_cast<T>(step.beta1), b2 = static_cast<T>(step.beta2);
    const T c1 = static_cast<T>(1.0 - step.beta1), c2 = static_cast<T>(1.0 - step.beta2);
    const T keep = static_cast<T>(chunk.item->decay ? 1.0 - lr * step.weight_decay : 1.0);
    const T rate = static_cast<T>(lr / correction1);
    const T root = static_cast<T>(std::sqrt(correction2)), eps = static_cast<T>(step.eps);
    T *p = chunk.item->p.data<T>(), *m = chunk.item->m.data<T>(), *v = chunk.item->v.data<T>();
    const T* g = chunk.item->g.data<T>();
#pragma omp simd
    for (int64_t i = chunk.begin; i < chunk.end; ++i) {
        const T gradient = g[i] * scale;
        m[i] = b1 * m[i] + c1 * gradient;
        v[i] = b2 * v[i] + c2 * gradient * gradient;
        p[i] = p[i] * keep - rate * m[i] / (std::sqrt(v[i]) / root + eps);
    }
}

}  // namespace

void adamw(const std::vector<AdamwItem>& items, const AdamwRates& rates, Arg schedule, Arg found_inf) {
    check_size(schedule, 4, DType::f64);
    check_size(found_inf, 1, DType::i32);
    if (*found_inf.data<int32_t>() != 0) return;
    std::vector<Chunk> chunks;
    for (const AdamwItem& item : items) {
        for (const Tensor* t : {&item.g, &item.m, &item.v}) check_like(item.p, *t);
        for (int64_t begin = 0; begin < item.p.numel(); begin += kChunk) {
            chunks.push_back({&item, begin, std::min(begin + kChunk, item.p.numel())});
        }
    }
    const double* times = schedule.data<double>();
    parallel_chunks(static_cast<int64_t>(chunks.size()), 1, [&](int64_t c, int64_t, int64_t) {
        const Chunk& chunk = chunks[static_cast<size_t>(c)];
        with_floating(chunk.item->p.dtype(), [&]<typename T>() { update<T>(chunk, rates, times); });
    });
    for (const AdamwItem& item : items) {
        if (item.p.numel() != 1) continue;
        with_floating(item.p.dtype(), [&]<typename T>() {
            if (!std::isfinite(*item.p.data<T>())) *found_inf.data<int32_t>() |= 2;
        });
    }
}

}  // namespace vvtq::engine::cpu
