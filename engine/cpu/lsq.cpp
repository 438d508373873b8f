// lsq: learned step size quantizers, forward, backward and start values.
#include <cmath>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"
#include "engine/cpu/quantize.h"
#include "engine/cpu/rows.h"

namespace vvtq::engine::cpu {
namespace {

void check_quantizer(Arg x, const QuantParams& quantizer) {
    const int64_t groups = quantizer.groups();
    check_size(quantizer.scale, groups, x.dtype());
    check_size(quantizer.range, 2, DType::i32);
    if (quantizer.offset.defined()) check_size(quantizer.offset, groups, x.dtype());
    VVTQ_CHECK(
        groups == 1 || (groups > 1 && quantizer.inner > 0 && x.numel() % (groups * quantizer.inner) == 0),
        x.shape().str(), " in ", groups, " groups of ", quantizer.inner);
}

/// The pieces that a pass over n elements is cut into, so that each is of one group and at most kChunk long.
struct Pieces {
    int64_t inner, groups, each, in_run, count;

    Pieces(int64_t n, const QuantParams& quantizer)
        : inner(quantizer.groups() == 1 ? n : quantizer.inner),
          groups(quantizer.groups()),
          each(std::max<int64_t>(1, std::min(inner, kChunk))),
          in_run((inner + each - 1) / each),
          count(n == 0 ? 0 : n / inner * in_run) {}
    int64_t group(int64_t piece) const { return piece / in_run % groups; }
    /// f(piece, begin, end), in parallel.
    template <typename F>
    void for_each(F&& f) const {
        parallel_chunks(count, std::max<int64_t>(1, kChunk / each),
                        [&](int64_t, int64_t first, int64_t last) {
                            for (int64_t piece = first; piece < last; ++piece) {
                                const int64_t run = piece / in_run * inner, begin = piece % in_run * each;
                                f(piece, run + begin, run + std::min(inner, begin + each));
                            }
                        });
    }
};

// Loops with reductions stand in functions of their own, with all they read as arguments: behind the
// references of a lambda they would not vectorize.

/// sums = {sum dy (q - in v), sum dy (1 - in)}
template <typename T>
void backward_chunk(const T* dy, const T* x, Step<T> step, int64_t n, T* dx, double* sums) {
    T sum_alpha = 0, sum_beta = 0;
#pragma omp simd reduction(+ : sum_alpha, sum_beta)
    for (int64_t i = 0; i < n; ++i) {
        const T v = step.scaled(x[i]);
        const T code = std::nearbyint(step.clamped(v));
        const bool in = step.inside(v);
        const T g = dy[i];
        dx[i] = in ? g : T{0};
        sum_alpha += g * (in ? code - v : code);
        sum_beta += in ? T{0} : g;
    }
    sums[0] = static_cast<double>(sum_alpha);
    sums[1] = static_cast<double>(sum_beta);
}

/// sums = {sum (x - o) q, sum q q, sum (x - a q)}
template <typename T>
void fit_chunk(const T* x, double a, double o, double low, double high, int64_t n, double* sums) {
    double product = 0, squares = 0, rest = 0;
#pragma omp simd reduction(+ : product, squares, rest)
    for (int64_t i = 0; i < n; ++i) {
        const double shifted = static_cast<double>(x[i]) - o;
        const double v = shifted / a;
        const double q = std::nearbyint(v < low ? low : (v > high ? high : v));
        product += shifted * q;
        squares += q * q;
        rest += static_cast<double>(x[i]) - a * q;
    }
    sums[0] = product;
    sums[1] = squares;
    sums[2] = rest;
}

}  // namespace

void lsq(Arg x, const QuantParams& quantizer, Arg y) {
    check_like(x, y);
    check_quantizer(x, quantizer);
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        const Pieces pieces(x.numel(), quantizer);
        pieces.for_each([&](int64_t piece, int64_t begin, int64_t end) {
            const Step<T> step(quantizer, pieces.group(piece));
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) py[i] = step.code(px[i]) * step.a + step.o;
        });
    });
}

void lsq_backward(Arg dy, Arg x, const QuantParams& quantizer, Arg dx, Arg dscale, Arg doffset) {
    check_like(dy, x);
    check_like(x, dx);
    check_quantizer(x, quantizer);
    check_like(quantizer.scale, dscale);
    if (doffset.defined()) check_like(quantizer.scale, doffset);
    check_size(quantizer.grad_scale, 1, x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T *pdy = dy.data<T>(), *px = x.data<T>();
        T* pdx = dx.data<T>();
        const Pieces pieces(x.numel(), quantizer);
        std::vector<double> sums(static_cast<size_t>(2 * pieces.count));
        pieces.for_each([&](int64_t piece, int64_t begin, int64_t end) {
            backward_chunk<T>(pdy + begin, px + begin, Step<T>(quantizer, pieces.group(piece)), end - begin,
                              pdx + begin, &sums[static_cast<size_t>(2 * piece)]);
        });
        std::vector<double> of_scale(static_cast<size_t>(pieces.groups)), of_offset = of_scale;
        for (int64_t piece = 0; piece < pieces.count; ++piece) {
            const auto group = static_cast<size_t>(pieces.group(piece));
            of_scale[group] += sums[static_cast<size_t>(2 * piece)];
            of_offset[group] += sums[static_cast<size_t>(2 * piece + 1)];
        }
        const double g = static_cast<double>(*quantizer.grad_scale.data<T>());
        for (size_t group = 0; group < of_scale.size(); ++group) {
            dscale.data<T>()[group] = static_cast<T>(of_scale[group] * g);
            if (doffset.defined()) doffset.data<T>()[group] = static_cast<T>(of_offset[group]);
        }
    });
}

void lsq_codes(Arg x, const QuantParams& quantizer, Arg q) {
    check_quantizer(x, quantizer);
    VVTQ_CHECK(q.numel() == x.numel(), q.shape().str(), " codes for ", x.shape().str());
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        const Pieces pieces(x.numel(), quantizer);
        const auto into = [&](auto* pq) {
            pieces.for_each([&](int64_t piece, int64_t begin, int64_t end) {
                codes_row(px + begin, Step<T>(quantizer, pieces.group(piece)), end - begin, pq + begin);
            });
        };
        switch (q.dtype()) {
            case DType::i32:
                return into(q.data<int32_t>());
            case DType::i8:
                return into(q.data<int8_t>());
            case DType::u8:
                return into(q.data<uint8_t>());
            default:
                return into(q.data<T>());
        }
    });
}

void clamp_steps(const std::vector<Tensor>& scales) {
    for (const Tensor& scale : scales) {
        with_floating(scale.dtype(), [&]<typename T>() {
            T* a = scale.data<T>();
            for (int64_t i = 0; i < scale.numel(); ++i) {
                if (std::isfinite(a[i])) a[i] = used_step(a[i]);
            }
        });
    }
}

void lsq_weight_grad_scale(Arg w, const QuantParams& quantizer, Arg g) {
    check_size(g, 1, w.dtype());
    const Tensor total(Shape{1}, DType::f64);
    sum_abs(w, total);
    const double of_group = *total.data<double>() / static_cast<double>(quantizer.groups());
    fill(1.0 / std::sqrt(of_group * quantizer.range.data<int32_t>()[1]), g);
}

void lsq_fit_sums(Arg x, double a, double o, CodeRange range, Arg sums) {
    check_size(sums, 3, DType::f64);
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        const int64_t n = x.numel();
        const int64_t chunks = (n + kChunk - 1) / kChunk;
        std::vector<double> partial(static_cast<size_t>(3 * chunks));
        parallel_chunks(n, kChunk, [&](int64_t c, int64_t begin, int64_t end) {
            fit_chunk<T>(px + begin, a, o, range.low, range.high, end - begin,
                         &partial[static_cast<size_t>(3 * c)]);
        });
        double* out = sums.data<double>();
        std::fill_n(out, 3, 0.0);
        for (size_t i = 0; i < partial.size(); ++i) out[i % 3] += partial[i];
    });
}

}  // namespace vvtq::engine::cpu
