// convolution: windows of 3 x 3, as columns of a product or as groups of one channel.
#include "engine/cpu/code_tiles.h"
#include "engine/cpu/families.h"
#include "engine/cpu/rows.h"

namespace vvtq::engine::cpu {
namespace {

/// Strides of a picture's elements, and which of a window's taps lie inside.
struct Windows {
    Convolution shape;
    int64_t of_channel, of_row, of_column, picture;

    explicit Windows(const Convolution& s)
        : shape(s),
          of_channel(s.channels_last ? 1 : s.height * s.width),
          of_row(s.channels_last ? s.width * s.channels : s.width),
          of_column(s.channels_last ? s.channels : 1),
          picture(s.channels * s.height * s.width) {
        VVTQ_CHECK(s.channels > 0 && s.height > 0 && s.width > 0 && s.stride > 0, "pictures of ", s.channels,
                   " x ", s.height, " x ", s.width, ", stride ", s.stride);
    }
    int64_t batch(Arg x) const {
        VVTQ_CHECK(x.numel() % picture == 0, x.shape().str(), " in pictures of ", picture, " elements");
        return x.numel() / picture;
    }
    /// f(tap, offset in the picture) for the taps of a position that lie inside.
    template <typename F>
    void each_tap(int64_t position, F&& f) const {
        const int64_t top = position / shape.out_width() * shape.stride - 1;
        const int64_t left = position % shape.out_width() * shape.stride - 1;
        for (int64_t tap = 0; tap < kTaps; ++tap) {
            const int64_t row = top + tap / 3, column = left + tap % 3;
            if (row < 0 || row >= shape.height || column < 0 || column >= shape.width) continue;
            f(tap, row * of_row + column * of_column);
        }
    }
};

template <typename F>
void for_each_picture(int64_t batch, F&& f) {
    parallel_chunks(batch, 1, [&](int64_t b, int64_t, int64_t) { f(b); });
}

template <typename T>
T factor_of(Arg scale) {
    return scale.defined() ? *scale.data<T>() : T{1};
}

}  // namespace

void unfold(Arg x, const Convolution& shape, Arg u) {
    const Windows windows(shape);
    const int64_t batch = windows.batch(x), size = shape.positions() * shape.channels * kTaps;
    check_size(u, batch * size, x.dtype());
    with_elements(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* pu = u.data<T>();
        for_each_picture(batch, [&](int64_t b) {
            std::fill_n(pu + b * size, size, T{0});
            for (int64_t p = 0; p < shape.positions(); ++p) {
                T* out = pu + b * size + p * shape.channels * kTaps;
                windows.each_tap(p, [&](int64_t tap, int64_t at) {
                    const T* in = px + b * windows.picture + at;
                    for (int64_t c = 0; c < shape.channels; ++c) {
                        out[tap * shape.channels + c] = in[c * windows.of_channel];
                    }
                });
            }
        });
    });
}

void fold(Arg u, const Convolution& shape, Arg x) {
    const Windows windows(shape);
    const int64_t batch = windows.batch(x), size = shape.positions() * shape.channels * kTaps;
    check_size(u, batch * size, x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T* pu = u.data<T>();
        T* px = x.data<T>();
        for_each_picture(batch, [&](int64_t b) {
            std::fill_n(px + b * windows.picture, windows.picture, T{0});
            for (int64_t p = 0; p < shape.positions(); ++p) {
                const T* in = pu + b * size + p * shape.channels * kTaps;
                windows.each_tap(p, [&](int64_t tap, int64_t at) {
                    T* out = px + b * windows.picture + at;
                    for (int64_t c = 0; c < shape.channels; ++c) {
                        out[c * windows.of_channel] += in[tap * shape.channels + c];
                    }
                });
            }
        });
    });
}

namespace {

/// Sums are taken in S: i32 of codes, else T.
template <typename X, typename W, typename S, typename T>
void convolve_groups(const X* px, const Windows& windows, const W* pw, int64_t batch, int64_t outputs,
                     T factor, const T* pb, T* py) {
    const int64_t each = outputs / windows.shape.channels, positions = windows.shape.positions();
    const int64_t size = positions * outputs;
    for_each_picture(batch, [&](int64_t b) {
        std::vector<S> sums(static_cast<size_t>(outputs));
        for (int64_t p = 0; p < positions; ++p) {
            std::fill(sums.begin(), sums.end(), S{0});
            windows.each_tap(p, [&](int64_t tap, int64_t at) {
                const X* in = px + b * windows.picture + at;
                for (int64_t o = 0; o < outputs; ++o) {
                    sums[static_cast<size_t>(o)] +=
                        static_cast<S>(in[o / each]) * static_cast<S>(pw[o * kTaps + tap]);
                }
            });
            affine_row(sums.data(), factor, pb, outputs, py + b * size + p * outputs);
        }
    });
}

}  // namespace

void grouped_convolution(Arg x, const Convolution& shape, Arg w, Arg scale, Arg bias, Arg y) {
    const Windows windows(shape);
    const int64_t batch = windows.batch(x), outputs = grouped_outputs(shape, w);
    check_size(y, batch * shape.positions() * outputs, y.dtype());
    if (bias.defined()) check_size(bias, outputs, y.dtype());
    with_floating(y.dtype(), [&]<typename T>() {
        const T* pb = bias.defined() ? bias.data<T>() : nullptr;
        T* py = y.data<T>();
        const T factor = factor_of<T>(scale);
        if (w.dtype() != DType::i8) {
            convolve_groups<T, T, T>(x.data<T>(), windows, w.data<T>(), batch, outputs, factor, pb, py);
            return;
        }
        with_codes(x.dtype(), [&]<typename Q>() {
            convolve_groups<Q, int8_t, int32_t>(x.data<Q>(), windows, w.data<int8_t>(), batch, outputs,
                                                factor, pb, py);
        });
    });
}

void grouped_convolution_backward_input(Arg dy, const Convolution& shape, Arg w, Arg scale, Arg dx) {
    const Windows windows(shape);
    const int64_t batch = windows.batch(dx), outputs = grouped_outputs(shape, w);
    const int64_t each = outputs / shape.channels, size = shape.positions() * outputs;
    check_size(dy, batch * size, dx.dtype());
    with_floating(dx.dtype(), [&]<typename T>() {
        const T *pdy = dy.data<T>(), *pw = w.data<T>();
        T* pdx = dx.data<T>();
        const T factor = factor_of<T>(scale);
        for_each_picture(batch, [&](int64_t b) {
            std::fill_n(pdx + b * windows.picture, windows.picture, T{0});
            for (int64_t p = 0; p < shape.positions(); ++p) {
                const T* in = pdy + b * size + p * outputs;
                windows.each_tap(p, [&](int64_t tap, int64_t at) {
                    T* out = pdx + b * windows.picture + at;
                    for (int64_t o = 0; o < outputs; ++o) {
                        out[o / each] += factor * in[o] * pw[o * kTaps + tap];
                    }
                });
            }
        });
    });
}

void grouped_convolution_backward_weight(Arg dy, const Convolution& shape, Arg x, Arg scale, Arg dw) {
    const Windows windows(shape);
    const int64_t batch = windows.batch(x), outputs = grouped_outputs(shape, dw);
    const int64_t each = outputs / shape.channels, size = shape.positions() * outputs;
    check_size(dy, batch * size, x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T *pdy = dy.data<T>(), *px = x.data<T>();
        const T factor = factor_of<T>(scale);
        const Tensor parts = Tensor::zeros({batch, outputs * kTaps}, x.dtype());
        T* sums = parts.data<T>();
        for_each_picture(batch, [&](int64_t b) {
            T* out = sums + b * outputs * kTaps;
            for (int64_t p = 0; p < shape.positions(); ++p) {
                const T* g = pdy + b * size + p * outputs;
                windows.each_tap(p, [&](int64_t tap, int64_t at) {
                    const T* in = px + b * windows.picture + at;
                    for (int64_t o = 0; o < outputs; ++o) out[o * kTaps + tap] += g[o] * in[o / each];
                });
            }
        });
        sum_rows(parts, dw);
        engine::cpu::scale(dw, static_cast<double>(factor), dw);
    });
}

}  // namespace vvtq::engine::cpu
