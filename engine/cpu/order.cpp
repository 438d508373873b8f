// order: tokens in another order, their mean, and tables that are read by index.
#include <algorithm>
#include <numeric>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"
#include "engine/random.h"

namespace vvtq::engine::cpu {

void gather_tokens(Arg x, Arg index, Arg y) {
    check_like(x, y);
    const Shape& shape = x.shape();
    check_tokens(x);
    const int64_t tokens = shape[1], cols = shape[2];
    check_size(index, tokens, DType::i32);
    const int32_t* from = index.data<int32_t>();
    for (int64_t n = 0; n < tokens; ++n) {
        VVTQ_CHECK(from[n] >= 0 && from[n] < tokens, "token ", from[n], " of ", tokens);
    }
    with_elements(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        parallel_chunks(shape[0] * tokens, rows_per_chunk(cols), [=](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                std::copy_n(px + (r / tokens * tokens + from[r % tokens]) * cols, cols, py + r * cols);
            }
        });
    });
}

void random_permutation(Arg key, int64_t salt, Arg index, Arg inverse) {
    check_size(key, 1, DType::i64);
    const int64_t n = index.numel();
    check_size(index, n, DType::i32);
    check_size(inverse, n, DType::i32);
    const auto seed = static_cast<uint64_t>(*key.data<int64_t>());
    std::vector<double> draws(static_cast<size_t>(n));
    for (size_t i = 0; i < draws.size(); ++i) {
        draws[i] = Random(mix_key({seed, static_cast<uint64_t>(salt), i})).uniform();
    }
    int32_t* order = index.data<int32_t>();
    std::iota(order, order + n, 0);
    std::stable_sort(order, order + n, [&](int32_t a, int32_t b) {
        return draws[static_cast<size_t>(a)] < draws[static_cast<size_t>(b)];
    });
    for (int64_t i = 0; i < n; ++i) inverse.data<int32_t>()[order[i]] = static_cast<int32_t>(i);
}

void mean_tokens(Arg x, Arg y) {
    const Shape& shape = x.shape();
    check_tokens(x);
    const int64_t tokens = shape[1], cols = shape[2];
    check_size(y, shape[0] * cols, x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        parallel_chunks(shape[0], 1, [=](int64_t b, int64_t, int64_t) {
            T* out = py + b * cols;
            std::fill_n(out, cols, T{0});
            for (int64_t n = 0; n < tokens; ++n) {
                const T* row = px + (b * tokens + n) * cols;
#pragma omp simd
                for (int64_t c = 0; c < cols; ++c) out[c] += row[c];
            }
            for (int64_t c = 0; c < cols; ++c) out[c] /= static_cast<T>(tokens);
        });
    });
}

void spread_token(Arg x, Arg y) {
    const Shape& shape = y.shape();
    check_tokens(y);
    const int64_t tokens = shape[1], cols = shape[2];
    check_size(x, shape[0] * cols, y.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        parallel_chunks(shape[0] * tokens, rows_per_chunk(cols), [=](int64_t, int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T* row = px + r / tokens * cols;
#pragma omp simd
                for (int64_t c = 0; c < cols; ++c) py[r * cols + c] = row[c] / static_cast<T>(tokens);
            }
        });
    });
}

void transpose(Arg x, Arg y) {
    check_like(x, y);
    const int64_t rows = x.shape().rows(), cols = x.shape().cols();
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        parallel_chunks(cols, rows_per_chunk(rows), [=](int64_t, int64_t begin, int64_t end) {
            for (int64_t c = begin; c < end; ++c) {
                for (int64_t r = 0; r < rows; ++r) py[c * rows + r] = px[r * cols + c];
            }
        });
    });
}

namespace {

/// Throws where an entry of the index is not below `entries`.
void check_index(Arg index, int64_t entries) {
    const int32_t* p = index.data<int32_t>();
    const bool within = std::all_of(p, p + index.numel(), [=](int32_t e) { return e >= 0 && e < entries; });
    VVTQ_CHECK(within, "index ", index.shape().str(), " reaches beyond ", entries, " entries");
}

}  // namespace

void table_bias(Arg t, Arg index, Arg y) {
    const int64_t entries = t.shape().rows(), heads = t.shape().cols(), n = index.numel();
    check_size(y, heads * n, t.dtype());
    check_index(index, entries);
    with_floating(t.dtype(), [&]<typename T>() {
        for (int64_t h = 0; h < heads; ++h) {
            for (int64_t i = 0; i < n; ++i) {
                y.data<T>()[h * n + i] = t.data<T>()[index.data<int32_t>()[i] * heads + h];
            }
        }
    });
}

void table_bias_backward(Arg dy, Arg index, Arg dt) {
    const int64_t entries = dt.shape().rows(), heads = dt.shape().cols(), n = index.numel();
    check_size(dy, heads * n, dt.dtype());
    check_index(index, entries);
    with_floating(dt.dtype(), [&]<typename T>() {
        T* sums = dt.data<T>();
        std::fill_n(sums, dt.numel(), T{0});
        for (int64_t h = 0; h < heads; ++h) {
            for (int64_t i = 0; i < n; ++i) {
                sums[index.data<int32_t>()[i] * heads + h] += dy.data<T>()[h * n + i];
            }
        }
    });
}

}  // namespace vvtq::engine::cpu
