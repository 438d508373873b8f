// weighted_sum: residual branches with learned scalars.
#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {
namespace {

/// f(i, keep of i's sample) over the elements begin..end
template <typename T, typename F>
void for_each_kept(const T* keep, int64_t size, int64_t begin, int64_t end, F&& f) {
    while (begin < end) {
        const int64_t b = begin / size, stop = std::min(end, (b + 1) * size);
        f(begin, stop, keep != nullptr ? keep[b] : T{1});
        begin = stop;
    }
}

}  // namespace

void weighted_sum(Arg x, Arg f, Arg keep, Arg k1, Arg k2, Arg y) {
    check_like(x, y);
    check_like(f, y);
    check_size(k1, 1, x.dtype());
    check_size(k2, 1, x.dtype());
    const int64_t size = sample_size(x, keep);
    with_floating(x.dtype(), [&]<typename T>() {
        const T *px = x.data<T>(), *pf = f.data<T>(), *pk = keep.defined() ? keep.data<T>() : nullptr;
        const T a = *k1.data<T>(), b = *k2.data<T>();
        T* py = y.data<T>();
        parallel_chunks(x.numel(), kChunk, [=](int64_t, int64_t begin, int64_t end) {
            for_each_kept(pk, size, begin, end, [=](int64_t first, int64_t last, T kept) {
#pragma omp simd
                for (int64_t i = first; i < last; ++i) py[i] = a * px[i] + kept * b * pf[i];
            });
        });
    });
}

void weighted_sum_backward(Arg dy, Arg x, Arg f, Arg keep, Arg k1, Arg k2, Arg dx, Arg df, Arg dk1, Arg dk2) {
    check_like(dy, x);
    check_like(f, x);
    check_like(dx, x);
    check_like(df, x);
    check_size(dk1, 1, x.dtype());
    check_size(dk2, 1, x.dtype());
    const int64_t size = sample_size(x, keep);
    with_floating(x.dtype(), [&]<typename T>() {
        const T *pdy = dy.data<T>(), *px = x.data<T>(), *pf = f.data<T>();
        const T* pk = keep.defined() ? keep.data<T>() : nullptr;
        const T a = *k1.data<T>(), b = *k2.data<T>();
        T *pdx = dx.data<T>(), *pdf = df.data<T>();
        parallel_chunks(x.numel(), kChunk, [=](int64_t, int64_t begin, int64_t end) {
            for_each_kept(pk, size, begin, end, [=](int64_t first, int64_t last, T kept) {
#pragma omp simd
                for (int64_t i = first; i < last; ++i) {
                    pdx[i] = a * pdy[i];
                    pdf[i] = kept * b * pdy[i];
                }
            });
        });
        const auto product = [&](const T* with, const T* factors) {
            return static_cast<T>(parallel_sum(x.numel(), [=](int64_t begin, int64_t end) {
                double total = 0;
                for_each_kept(factors, size, begin, end, [&](int64_t first, int64_t last, T kept) {
                    T sum = 0;
#pragma omp simd reduction(+ : sum)
                    for (int64_t i = first; i < last; ++i) sum += pdy[i] * with[i];
                    total += static_cast<double>(kept * sum);
                });
                return total;
            }));
        };
        *dk1.data<T>() = product(px, nullptr);
        *dk2.data<T>() = product(pf, pk);
    });
}

}  // namespace vvtq::engine::cpu
