// elementwise: one pass over memory each.
#include <cstring>

#include "engine/bf16.h"
#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"
#include "engine/cpu/rows.h"
#include "engine/cpu/vector_math.h"

namespace vvtq::engine::cpu {
namespace {

/// y_i = f(i)
template <typename F>
void for_each(int64_t n, F&& f) {
    parallel_chunks(n, kChunk, [&](int64_t, int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) f(i);
    });
}

template <typename From, typename To>
void convert(Arg x, Arg y) {
    const From* from = x.data<From>();
    To* to = y.data<To>();
    for_each(x.numel(), [=](int64_t i) { to[i] = static_cast<To>(from[i]); });
}

}  // namespace

void fill(double value, Arg y) {
    with_floating(y.dtype(), [&]<typename T>() {
        T* to = y.data<T>();
        const T v = static_cast<T>(value);
        for_each(y.numel(), [=](int64_t i) { to[i] = v; });
    });
}

void copy(Arg x, Arg y) {
    check_like(x, y);
    const size_t size = size_of(x.dtype());
    parallel_chunks(x.numel(), kChunk, [&](int64_t, int64_t begin, int64_t end) {
        const size_t at = static_cast<size_t>(begin) * size;
        std::memcpy(static_cast<char*>(y.raw()) + at, static_cast<const char*>(x.raw()) + at,
                    static_cast<size_t>(end - begin) * size);
    });
}

void cast(Arg x, Arg y) {
    VVTQ_CHECK(x.numel() == y.numel(), x.shape().str(), " to ", y.shape().str());
    with_floating(y.dtype(), [&]<typename To>() {
        switch (x.dtype()) {
            case DType::f32:
                convert<float, To>(x, y);
                return;
            case DType::f64:
                convert<double, To>(x, y);
                return;
            case DType::i8:
                convert<int8_t, To>(x, y);
                return;
            case DType::u8:
                convert<uint8_t, To>(x, y);
                return;
            case DType::i32:
                convert<int32_t, To>(x, y);
                return;
            case DType::i64:
                convert<int64_t, To>(x, y);
                return;
            case DType::bf16: {
                const auto* from = static_cast<const uint16_t*>(x.raw());
                To* to = y.data<To>();
                for_each(x.numel(), [=](int64_t i) { to[i] = static_cast<To>(bf16_value(from[i])); });
            }
        }
    });
}

void add(Arg a, Arg b, Arg y) {
    check_like(a, y);
    check_like(b, y);
    with_floating(y.dtype(), [&]<typename T>() {
        const T *pa = a.data<T>(), *pb = b.data<T>();
        T* py = y.data<T>();
        for_each(y.numel(), [=](int64_t i) { py[i] = pa[i] + pb[i]; });
    });
}

void accumulate_add(Arg x, Arg y) {
    check_like(x, y);
    with_floating(y.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        for_each(y.numel(), [=](int64_t i) { py[i] += px[i]; });
    });
}

void scale(Arg x, double s, Arg y) {
    check_like(x, y);
    with_floating(y.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        const T factor = static_cast<T>(s);
        for_each(y.numel(), [=](int64_t i) { py[i] = factor * px[i]; });
    });
}

void scale_by(Arg x, Arg s, Arg y) {
    check_size(s, 1, x.dtype());
    with_floating(y.dtype(), [&]<typename T>() { scale(x, static_cast<double>(*s.data<T>()), y); });
}

void add_broadcast(Arg x, Arg p, Arg y) {
    check_like(x, y);
    const int64_t cols = p.numel();
    VVTQ_CHECK(cols > 0 && x.numel() % cols == 0, x.shape().str(), " + ", p.shape().str());
    with_floating(y.dtype(), [&]<typename T>() {
        const T *px = x.data<T>(), *pp = p.data<T>();
        T* py = y.data<T>();
        const int64_t rows = x.numel() / cols;
        const int64_t pieces = (cols + kChunk - 1) / kChunk;
        parallel_chunks(rows * pieces, rows_per_chunk(cols), [&](int64_t, int64_t begin, int64_t end) {
            for (int64_t task = begin; task < end; ++task) {
                const int64_t at = task / pieces * cols;
                const int64_t first = task % pieces * kChunk;
                const int64_t last = std::min(cols, first + kChunk);
#pragma omp simd
                for (int64_t c = first; c < last; ++c) py[at + c] = px[at + c] + pp[c];
            }
        });
    });
}

namespace {

/// g(sample b, begin, end) over pieces of the samples of a tensor of n elements.
template <typename G>
void for_each_sample(int64_t n, int64_t samples, G&& g) {
    VVTQ_CHECK(samples > 0 && n % samples == 0, n, " elements in ", samples, " samples");
    const int64_t size = n / samples;
    const int64_t pieces = std::max<int64_t>(1, (size + kChunk - 1) / kChunk);
    parallel_chunks(samples * pieces, rows_per_chunk(size), [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / pieces;
            const int64_t first = task % pieces * kChunk;
            g(b, b * size + first, b * size + std::min(size, first + kChunk));
        }
    });
}

}  // namespace

void residual(Arg x, Arg f, Arg keep, Arg y) {
    check_like(x, y);
    check_like(f, y);
    if (!keep.defined()) return add(x, f, y);
    with_floating(y.dtype(), [&]<typename T>() {
        const T *px = x.data<T>(), *pf = f.data<T>(), *pk = keep.data<T>();
        T* py = y.data<T>();
        for_each_sample(y.numel(), keep.numel(), [&](int64_t b, int64_t begin, int64_t end) {
            const T k = pk[b];
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) py[i] = px[i] + k * pf[i];
        });
    });
}

void scale_samples(Arg x, Arg s, Arg y) {
    check_like(x, y);
    with_floating(y.dtype(), [&]<typename T>() {
        const T *px = x.data<T>(), *ps = s.data<T>();
        T* py = y.data<T>();
        for_each_sample(y.numel(), s.numel(), [&](int64_t b, int64_t begin, int64_t end) {
            const T k = ps[b];
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) py[i] = k * px[i];
        });
    });
}

void divide_parts(Arg x, const std::vector<Tensor>& scales, Arg y) {
    check_like(x, y);
    const auto parts = static_cast<int64_t>(scales.size());
    VVTQ_CHECK(parts > 0 && x.numel() % parts == 0, x.shape().str(), " in ", parts, " parts");
    const int64_t size = x.numel() / parts;
    with_floating(y.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        for_each_sample(y.numel(), parts, [&](int64_t, int64_t begin, int64_t end) {
            const Tensor& s = scales[static_cast<size_t>(begin / size)];
            const T inverse = s.defined() ? static_cast<T>(1.0 / static_cast<double>(*s.data<T>())) : T{1};
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) py[i] = px[i] * inverse;
        });
    });
}

void take_columns(Arg z, int64_t first, Arg s, Arg t, Arg bias, Arg y) {
    const int64_t rows = y.shape().rows(), cols = y.shape().cols(), width = z.shape().cols();
    VVTQ_CHECK(z.shape().rows() == rows && z.dtype() == y.dtype() && first >= 0 && first + cols <= width,
               "columns ", first, "..", first + cols, " of ", z.shape().str());
    if (bias.defined()) check_size(bias, cols, y.dtype());
    with_floating(y.dtype(), [&]<typename T>() {
        const T* pz = z.data<T>();
        const T* pb = bias.defined() ? bias.data<T>() : nullptr;
        T* py = y.data<T>();
        const T factor = (s.defined() ? *s.data<T>() : T{1}) * (t.defined() ? *t.data<T>() : T{1});
        parallel_chunks(rows, rows_per_chunk(cols), [=](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                affine_row(pz + r * width + first, factor, pb, cols, py + r * cols);
            }
        });
    });
}

void put_columns(Arg x, Arg s, int64_t first, Arg z) {
    const int64_t rows = x.shape().rows(), cols = x.shape().cols(), width = z.shape().cols();
    VVTQ_CHECK(z.shape().rows() == rows && z.dtype() == x.dtype() && first >= 0 && first + cols <= width,
               "columns ", first, "..", first + cols, " of ", z.shape().str());
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* pz = z.data<T>();
        const T factor = s.defined() ? *s.data<T>() : T{1};
        parallel_chunks(rows, rows_per_chunk(cols), [=](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
#pragma omp simd
                for (int64_t c = 0; c < cols; ++c) pz[r * width + first + c] = factor * px[r * cols + c];
            }
        });
    });
}

void accumulate_outer(Arg u, Arg s, Arg y) {
    const int64_t rows = u.numel(), cols = y.numel() / std::max<int64_t>(1, rows);
    check_size(y, rows * cols, u.dtype());
    check_size(s, 1, u.dtype());
    with_floating(u.dtype(), [&]<typename T>() {
        const T *pu = u.data<T>(), *ps = s.data<T>();
        T* py = y.data<T>();
        parallel_chunks(rows, rows_per_chunk(cols), [=](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T value = *ps * pu[r];
#pragma omp simd
                for (int64_t c = 0; c < cols; ++c) py[r * cols + c] += value;
            }
        });
    });
}

void gelu(Arg x, Arg y) {
    check_like(x, y);
    with_floating(y.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        parallel_chunks(y.numel(), kChunk, [=](int64_t, int64_t begin, int64_t end) {
            gelu_row(px + begin, end - begin, py + begin);
        });
    });
}

void gelu_backward(Arg dy, Arg x, Arg dx) {
    check_like(dy, dx);
    check_like(x, dx);
    with_floating(dx.dtype(), [&]<typename T>() {
        const T *pdy = dy.data<T>(), *px = x.data<T>();
        T* pdx = dx.data<T>();
        for_each(dx.numel(), [=](int64_t i) {
            const Normal<T> normal = normal_of(px[i]);
            pdx[i] = pdy[i] * (normal.cdf + px[i] * normal.pdf);
        });
    });
}

}  // namespace vvtq::engine::cpu
