// matmul: products by OpenBLAS. OpenBLAS itself runs on one thread; the output is cut into tiles whose bounds
// depend on the shape alone, and the tiles are spread over threads, so results do not depend on the number of
// threads.
#include <cblas.h>
#include <omp.h>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"
#include "engine/cpu/rows.h"

namespace vvtq::engine::cpu {
namespace {

constexpr int64_t kTiles = 16;      // wanted number of tiles
constexpr int64_t kTileEdge = 96;   // least rows or columns of a halved tile
constexpr int64_t kTileAlign = 16;  // tiles start at multiples of the micro-kernel's width

/// y (m, n) = a . b in row-major order, on the calling thread.
template <typename T>
void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb,
          T* y, int64_t ldy) {
    const auto transpose_a = ta ? CblasTrans : CblasNoTrans;
    const auto transpose_b = tb ? CblasTrans : CblasNoTrans;
    const auto i = [](int64_t v) { return static_cast<blasint>(v); };
    if constexpr (std::is_same_v<T, float>) {
        cblas_sgemm(CblasRowMajor, transpose_a, transpose_b, i(m), i(n), i(k), 1.0f, a, i(lda), b, i(ldb),
                    0.0f, y, i(ldy));
    } else {
        cblas_dgemm(CblasRowMajor, transpose_a, transpose_b, i(m), i(n), i(k), 1.0, a, i(lda), b, i(ldb), 0.0,
                    y, i(ldy));
    }
}

/// OpenBLAS on one thread while it lives, whichever way it was built. A build on its own threads takes the
/// number once; a build on OpenMP asks OpenMP before each product.
class OneThreadBlas {
  public:
    OneThreadBlas() : threads_(omp_get_max_threads()) {
        static const bool said = (openblas_set_num_threads(1), true);
        static_cast<void>(said);
        omp_set_num_threads(1);
    }
    ~OneThreadBlas() { omp_set_num_threads(threads_); }
    OneThreadBlas(const OneThreadBlas&) = delete;
    OneThreadBlas& operator=(const OneThreadBlas&) = delete;

  private:
    int threads_;
};

/// f(index) for count products, each by one thread.
template <typename F>
void parallel_products(int64_t count, F&& f) {
    parallel_chunks(count, 1, [&](int64_t index, int64_t, int64_t) {
        const OneThreadBlas one_thread;  // sets the number of this thread alone
        f(index);
    });
}

struct Tiling {
    int64_t rows, cols;  // of one tile
};

Tiling tiling_of(int64_t m, int64_t n) {
    const auto half = [](int64_t size) { return (size / 2 + kTileAlign - 1) / kTileAlign * kTileAlign; };
    Tiling tile{m, n};
    for (int64_t tiles = 1; tiles < kTiles; tiles *= 2) {
        int64_t& longer = tile.rows >= tile.cols ? tile.rows : tile.cols;
        if (longer < 2 * kTileEdge) break;
        longer = half(longer);
    }
    return tile;
}

/// A matrix in memory: element (r, c) of the untransposed matrix is at data[r * ld + c].
template <typename T>
struct Operand {
    const T* data;
    int64_t ld;
    bool transposed;
};

/// y (m, n) = scale a (m, k) . b (k, n) [+ bias (n)], tile by tile. Where a and b are codes, the product
/// itself is exact below 2^24, and rounding begins with the scale.
template <typename T>
void tiled_product(Operand<T> a, Operand<T> b, int64_t m, int64_t n, int64_t k, T scale, const T* bias,
                   T* y) {
    if (m == 0 || n == 0) return;
    const Tiling tile = tiling_of(m, n);
    const int64_t across = (n + tile.cols - 1) / tile.cols;
    const int64_t down = (m + tile.rows - 1) / tile.rows;
    parallel_products(across * down, [&](int64_t index) {
        const int64_t r = index / across * tile.rows, c = index % across * tile.cols;
        const int64_t rows = std::min(tile.rows, m - r), cols = std::min(tile.cols, n - c);
        const T* pa = a.data + (a.transposed ? r : r * a.ld);
        const T* pb = b.data + (b.transposed ? c * b.ld : c);
        T* out = y + r * n + c;
        gemm(a.transposed, b.transposed, rows, cols, k, pa, a.ld, pb, b.ld, out, n);
        if (bias == nullptr && scale == T{1}) return;
        for (int64_t i = 0; i < rows; ++i) {
            affine_row(out + i * n, scale, bias == nullptr ? nullptr : bias + c, cols, out + i * n);
        }
    });
}

/// The value of a scale, 1 where there is none.
template <typename T>
T factor_of(Arg scale) {
    return scale.defined() ? *scale.data<T>() : T{1};
}

}  // namespace

void linear(Arg x, Arg w, Arg scale, Arg bias, Arg y) {
    const int64_t m = x.shape().rows(), k = x.shape().cols(), n = w.shape().rows();
    VVTQ_CHECK(w.shape().cols() == k && w.dtype() == x.dtype(), x.shape().str(), " . ", w.shape().str(),
               "^T");
    check_size(y, m * n, x.dtype());
    if (bias.defined()) check_size(bias, n, x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        tiled_product<T>({x.data<T>(), k, false}, {w.data<T>(), k, true}, m, n, k, factor_of<T>(scale),
                         bias.defined() ? bias.data<T>() : nullptr, y.data<T>());
    });
}

void linear_backward_input(Arg dy, Arg w, Arg scale, Arg dx) {
    const int64_t m = dy.shape().rows(), n = dy.shape().cols(), k = w.shape().cols();
    VVTQ_CHECK(w.shape().rows() == n && w.dtype() == dy.dtype(), dy.shape().str(), " . ", w.shape().str());
    check_size(dx, m * k, dy.dtype());
    with_floating(dy.dtype(), [&]<typename T>() {
        tiled_product<T>({dy.data<T>(), n, false}, {w.data<T>(), k, false}, m, k, n, factor_of<T>(scale),
                         nullptr, dx.data<T>());
    });
}

void linear_backward_weight(Arg dy, Arg x, Arg scale, Arg dw) {
    const int64_t m = dy.shape().rows(), n = dy.shape().cols(), k = x.shape().cols();
    VVTQ_CHECK(x.shape().rows() == m && x.dtype() == dy.dtype(), dy.shape().str(), "^T . ", x.shape().str());
    check_size(dw, n * k, dy.dtype());
    with_floating(dy.dtype(), [&]<typename T>() {
        tiled_product<T>({dy.data<T>(), n, true}, {x.data<T>(), k, false}, n, k, m, factor_of<T>(scale),
                         nullptr, dw.data<T>());
    });
}

namespace {

/// Throws where a matrix of (rows, cols) elements in this layout would reach outside the tensor.
void check_layout(const Tensor& t, const MatrixLayout& layout, const BatchedShape& shape, int64_t rows,
                  int64_t cols) {
    if (layout.transposed) std::swap(rows, cols);
    const int64_t last = (shape.outer - 1) * layout.outer + (shape.inner - 1) * layout.inner +
                         (rows - 1) * layout.ld + cols - 1;
    VVTQ_CHECK(layout.ld >= cols && layout.outer >= 0 && layout.inner >= 0 && last < t.numel(), "matrices (",
               rows, ", ", cols, ") end at element ", last, " of ", t.shape().str());
}

}  // namespace

void batched_matmul(const BatchedShape& shape, Arg a, Arg b, Arg y) {
    const int64_t count = shape.outer * shape.inner;
    if (count == 0 || shape.m == 0 || shape.n == 0) return;
    VVTQ_CHECK(a.dtype() == y.dtype() && b.dtype() == y.dtype() && !shape.y.transposed && shape.k > 0,
               "mixed dtypes or a transposed output");
    check_layout(a, shape.a, shape, shape.m, shape.k);
    check_layout(b, shape.b, shape, shape.k, shape.n);
    check_layout(y, shape.y, shape, shape.m, shape.n);
    with_floating(y.dtype(), [&]<typename T>() {
        const T *pa = a.data<T>(), *pb = b.data<T>();
        T* py = y.data<T>();
        const auto at = [&](const MatrixLayout& layout, int64_t index) {
            return index / shape.inner * layout.outer + index % shape.inner * layout.inner;
        };
        parallel_products(count, [&](int64_t index) {
            gemm(shape.a.transposed, shape.b.transposed, shape.m, shape.n, shape.k, pa + at(shape.a, index),
                 shape.a.ld, pb + at(shape.b, index), shape.b.ld, py + at(shape.y, index), shape.y.ld);
        });
    });
}

}  // namespace vvtq::engine::cpu
