// tokens: pictures to patches, and the class token.
#include <cstring>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {
namespace {

/// Visits the runs of P elements that a patch row has in both layouts: f(offset in pictures, offset in
/// patches).
template <typename F>
void for_each_patch_row(const Tensor& pictures, const Tensor& patches, int64_t patch, F&& f) {
    const Shape& shape = pictures.shape();
    VVTQ_CHECK(shape.rank() == 4 && patch > 0 && shape[2] % patch == 0 && shape[3] % patch == 0,
               "patches of ", patch, " in ", shape.str());
    check_like(pictures, patches);
    const int64_t channels = shape[1], height = shape[2], width = shape[3];
    const int64_t down = height / patch, across = width / patch;
    parallel_chunks(shape[0] * down * across, std::max<int64_t>(1, kChunk / (channels * patch * patch)),
                    [&](int64_t, int64_t begin, int64_t end) {
                        for (int64_t index = begin; index < end; ++index) {
                            const int64_t b = index / (down * across);
                            const int64_t row = index / across % down * patch, col = index % across * patch;
                            int64_t to = index * channels * patch * patch;
                            for (int64_t c = 0; c < channels; ++c) {
                                for (int64_t r = 0; r < patch; ++r, to += patch) {
                                    f(((b * channels + c) * height + row + r) * width + col, to);
                                }
                            }
                        }
                    });
}

template <typename F>
void for_each_picture(int64_t batch, F&& f) {
    parallel_chunks(batch, 1, [&](int64_t b, int64_t, int64_t) { f(b); });
}

}  // namespace

void normalize_pixels(Arg x, const std::array<double, 3>& mean, const std::array<double, 3>& std, Arg y) {
    const Shape& shape = x.shape();
    VVTQ_CHECK(shape.rank() == 4 && shape[1] == 3 && x.dtype() == DType::u8,
               "pixels (B, 3, S, S) of u8 wanted, not ", shape.str());
    VVTQ_CHECK(y.numel() == x.numel(), y.shape().str(), " from ", shape.str());
    const int64_t size = shape[2] * shape[3];
    with_floating(y.dtype(), [&]<typename T>() {
        const uint8_t* px = x.data<uint8_t>();
        T* py = y.data<T>();
        parallel_chunks(shape[0] * 3, 1, [=](int64_t plane, int64_t, int64_t) {
            T value[256];
            for (int i = 0; i < 256; ++i) {
                value[i] = (static_cast<T>(i) / T{255} - static_cast<T>(mean[plane % 3])) /
                           static_cast<T>(std[plane % 3]);
            }
            for (int64_t i = plane * size; i < (plane + 1) * size; ++i) py[i] = value[px[i]];
        });
    });
}

void patchify(Arg x, int64_t patch, Arg y) {
    with_elements(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        for_each_patch_row(x, y, patch,
                           [=](int64_t from, int64_t to) { std::copy_n(px + from, patch, py + to); });
    });
}

void unpatchify(Arg y, int64_t patch, Arg x) {
    with_floating(x.dtype(), [&]<typename T>() {
        const T* py = y.data<T>();
        T* px = x.data<T>();
        for_each_patch_row(x, y, patch,
                           [=](int64_t to, int64_t from) { std::copy_n(py + from, patch, px + to); });
    });
}

void prepend_token(Arg token, Arg x, Arg y) {
    check_tokens(x);
    const int64_t batch = x.shape()[0], size = x.shape()[1] * x.shape()[2], cols = x.shape()[2];
    check_size(token, cols, x.dtype());
    check_size(y, batch * (size + cols), x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T *pt = token.data<T>(), *px = x.data<T>();
        T* py = y.data<T>();
        for_each_picture(batch, [&](int64_t b) {
            T* out = py + b * (size + cols);
            std::copy_n(pt, cols, out);
            std::copy_n(px + b * size, size, out + cols);
        });
    });
}

void drop_first_token(Arg x, Arg y) {
    check_tokens(x);
    const int64_t batch = x.shape()[0], size = x.shape()[1] * x.shape()[2], cols = x.shape()[2];
    check_size(y, batch * (size - cols), x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        for_each_picture(batch, [&](int64_t b) {
            std::copy_n(px + b * size + cols, size - cols, py + b * (size - cols));
        });
    });
}

void select_token(Arg x, int64_t index, Arg y) {
    check_tokens(x);
    const int64_t batch = x.shape()[0], tokens = x.shape()[1], cols = x.shape()[2];
    VVTQ_CHECK(index >= 0 && index < tokens, "token ", index, " of ", tokens);
    check_size(y, batch * cols, x.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        for_each_picture(
            batch, [&](int64_t b) { std::copy_n(px + (b * tokens + index) * cols, cols, py + b * cols); });
    });
}

void scatter_token(Arg x, int64_t index, Arg y) {
    check_tokens(y);
    const int64_t batch = y.shape()[0], tokens = y.shape()[1], cols = y.shape()[2];
    VVTQ_CHECK(index >= 0 && index < tokens, "token ", index, " of ", tokens);
    check_size(x, batch * cols, y.dtype());
    with_floating(x.dtype(), [&]<typename T>() {
        const T* px = x.data<T>();
        T* py = y.data<T>();
        for_each_picture(batch, [&](int64_t b) {
            T* out = py + b * tokens * cols;
            std::fill_n(out, tokens * cols, T{0});
            std::copy_n(px + b * cols, cols, out + index * cols);
        });
    });
}

}  // namespace vvtq::engine::cpu
