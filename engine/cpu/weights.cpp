// weights: the quantizers of all weights of a model, one after the other, and the bin regularizer: how far
// weights lie from the middle of their bins (specification section 5).
//
// Within bin k the clamped weight is u = k a + d, so var(u) = var(d), and (y - u)^2 = d^2: one pass that sums
// 1, d and d^2 a bin gives both terms of the regularizer.
#include <cmath>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"
#include "engine/cpu/quantize.h"

namespace vvtq::engine::cpu {
namespace {

constexpr int64_t kWeights = 65536;  // of one chunk
constexpr int64_t kSets = 4;         // of sums: neighbours of one bin would wait for each other

CodeRange range_of(const QuantParams& quantizer) {
    const int32_t* range = quantizer.range.data<int32_t>();
    return {range[0], range[1]};
}

struct Bin {
    double count = 0, sum = 0, squares = 0;
};

/// Adds d = u - y of n weights to the sums of their bins. sums (kSets, bins + 1): a weight that is NaN goes
/// to the last one; it shows in the loss of the step itself, and an infinite one as in CUDA's kernel counts
/// as clipped.
template <typename T>
void sum_bins(const T* w, Step<T> step, CodeRange range, int64_t n, Bin* sums) {
    constexpr int64_t kTile = 256;
    int32_t place[kTile];
    T d[kTile];
    for (int64_t begin = 0; begin < n; begin += kTile) {
        const int64_t count = std::min(kTile, n - begin);
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
            const T x = w[begin + i], v = step.scaled(x);
            const T code = std::nearbyint(step.clamped(v));
            place[i] = code == code ? static_cast<int32_t>(code) - range.low : range.count();
            d[i] = step.inside(v) ? std::fma(-code, step.a, x) : T{0};
        }
        for (int64_t i = 0; i < count; ++i) {
            Bin& bin = sums[i % kSets * (range.count() + 1) + place[i]];
            const double distance = static_cast<double>(d[i]);
            bin.count += 1;
            bin.sum += distance;
            bin.squares += distance * distance;
        }
    }
}

/// dw = upstream (slope_k d - shift_k) where not clipped; returns sum of du c over clipped weights. A
/// function of its own, with all it reads as arguments, so that the loop vectorizes.
template <typename T>
double backward_chunk(const T* w, Step<T> step, const T* slope, const T* shift, int low, T upstream,
                      int64_t n, T* dw) {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) {
        const T v = step.scaled(w[i]);
        const T clamped = step.clamped(v);
        const T code = std::nearbyint(clamped);
        const bool in = step.inside(v);
        const T d = in ? std::fma(-code, step.a, w[i]) : T{0};
        const int k = static_cast<int>(code == code ? code : step.low) - low;
        const T du = upstream * (slope[k] * d - shift[k]);
        dw[i] = in ? du : T{0};
        sum += in ? T{0} : du * clamped;
    }
    return static_cast<double>(sum);
}

/// loss (1); stats (bins, 3): {count, mean, sum (d - mean)^2} of each bin.
void bin_regularizer(Arg w, const QuantParams& quantizer, Arg loss, Arg stats) {
    check_size(quantizer.scale, 1, w.dtype());
    check_size(loss, 1, w.dtype());
    const CodeRange range = range_of(quantizer);
    check_size(stats, int64_t{3} * range.count(), DType::f64);
    with_floating(w.dtype(), [&]<typename T>() {
        const T* pw = w.data<T>();
        const Step<T> step(quantizer);
        const int64_t n = w.numel();
        const auto bins = static_cast<size_t>(range.count());
        const int64_t chunks = (n + kWeights - 1) / kWeights;
        const size_t each = bins + 1;
        std::vector<Bin> partial(static_cast<size_t>(chunks * kSets) * each);
        parallel_chunks(n, kWeights, [&](int64_t c, int64_t begin, int64_t end) {
            Bin* sums = &partial[static_cast<size_t>(c * kSets) * each];
            sum_bins<T>(pw + begin, step, range, end - begin, sums);
        });
        double distance = 0, variance = 0;
        double* out = stats.data<double>();
        for (size_t k = 0; k < bins; ++k) {
            Bin all;
            for (int64_t c = 0; c < chunks * kSets; ++c) {
                const Bin& bin = partial[static_cast<size_t>(c) * each + k];
                all.count += bin.count;
                all.sum += bin.sum;
                all.squares += bin.squares;
            }
            const double mean = all.count > 0 ? all.sum / all.count : 0.0;
            const double spread = all.squares - all.sum * mean;
            distance += all.squares;
            if (all.count > 1) variance += spread / (all.count - 1);
            out[3 * k] = all.count;
            out[3 * k + 1] = mean;
            out[3 * k + 2] = spread;
        }
        *loss.data<T>() = static_cast<T>(distance / static_cast<double>(n) + variance);
    });
}

/// dy (1); dw like w; dscale (1) through clipped weights, times g.
void bin_regularizer_backward(Arg dy, Arg w, const QuantParams& quantizer, Arg stats, Arg dw, Arg dscale) {
    check_like(w, dw);
    check_size(dy, 1, w.dtype());
    check_size(quantizer.grad_scale, 1, w.dtype());
    check_size(dscale, 1, w.dtype());
    const CodeRange range = range_of(quantizer);
    check_size(stats, int64_t{3} * range.count(), DType::f64);
    with_floating(w.dtype(), [&]<typename T>() {
        const T* pw = w.data<T>();
        T* pdw = dw.data<T>();
        const Step<T> step(quantizer);
        const T upstream = *dy.data<T>();
        const double* pstats = stats.data<double>();
        // d loss / du = 2 d / n + 2 (d - mean_k) / (count_k - 1) = slope_k d - shift_k
        const int64_t n = w.numel();
        const auto bins = static_cast<size_t>(range.count());
        std::vector<T> slope(bins), shift(bins);
        for (size_t k = 0; k < bins; ++k) {
            const double count = pstats[3 * k];
            const double spread = count > 1 ? 2.0 / (count - 1) : 0.0;
            slope[k] = static_cast<T>(2.0 / static_cast<double>(n) + spread);
            shift[k] = static_cast<T>(spread * pstats[3 * k + 1]);
        }
        const double total = parallel_sum(n, [&](int64_t begin, int64_t end) {
            return backward_chunk<T>(pw + begin, step, slope.data(), shift.data(), range.low, upstream,
                                     end - begin, pdw + begin);
        });
        *dscale.data<T>() = static_cast<T>(total * static_cast<double>(*quantizer.grad_scale.data<T>()));
    });
}

}  // namespace

void quantize_weights(const std::vector<WeightItem>& items) {
    for (const WeightItem& item : items) {
        lsq_codes(item.w, item.params, item.codes);
        lsq_weight_grad_scale(item.w, item.params, item.params.grad_scale);
        if (item.reg.defined()) bin_regularizer(item.w, item.params, item.reg, item.stats);
    }
}

void quantize_weights_backward(const std::vector<WeightGradientItem>& items, Arg dreg) {
    for (const WeightGradientItem& item : items) {
        const bool regularized = item.stats.defined() && dreg.defined();
        if (item.dy.defined()) lsq_backward(item.dy, item.w, item.params, item.dw, item.dscale, {});
        if (!regularized) {
            if (!item.dy.defined()) {
                fill(0.0, item.dw);
                fill(0.0, item.dscale);
            }
            continue;
        }
        const Tensor dw = item.dy.defined() ? item.w.like() : item.dw;
        const Tensor dscale = item.dy.defined() ? item.dscale.like() : item.dscale;
        bin_regularizer_backward(dreg, item.w, item.params, item.stats, dw, dscale);
        if (item.dy.defined()) {
            accumulate_add(dw, item.dw);
            accumulate_add(dscale, item.dscale);
        }
    }
}

}  // namespace vvtq::engine::cpu
