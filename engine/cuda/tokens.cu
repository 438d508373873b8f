// tokens: pictures to patches, and the class token.
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

struct Channels {
    float mean[3], std[3];
};

template <int N, typename T>
__global__ void normalize_kernel(Channels channels, int64_t packs, int64_t packs_per_plane, const uint8_t* x,
                                 T* y) {
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        const int64_t c = i / packs_per_plane % 3;
        const float mean = c == 0 ? channels.mean[0] : (c == 1 ? channels.mean[1] : channels.mean[2]);
        const float std = c == 0 ? channels.std[0] : (c == 1 ? channels.std[1] : channels.std[2]);
        const float factor = 1.0f / (255.0f * std), summand = -mean / std;
        const Pack<uint8_t, N> in = load<N>(x + i * N);
        Pack<T, N> out;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            out.at[k] = from_float<T>(static_cast<float>(in.at[k]) * factor + summand);
        }
        store(y + i * N, out);
    }
}

// --- patches

/// Pictures (B, channels, height, width) and patches of patch rows by patch words.
struct Patches {
    int64_t channels, height, width, rows, words;

    /// Where word i of the patches (B, height / rows, width / words, channels, rows, words) is in the
    /// pictures.
    __device__ int64_t in_pictures(int64_t i) const {
        const auto next = [&](int64_t size) {  // the lowest digit of i, which is taken off
            const int64_t rest = i / size, digit = i - rest * size;
            i = rest;
            return digit;
        };
        const int64_t k = next(words), r = next(rows), c = next(channels);
        const int64_t across = next(width / words), down = next(height / rows);
        return ((i * channels + c) * height + down * rows + r) * width + across * words + k;
    }
};

template <bool kToPatches, typename Word>
__global__ void patch_kernel(Patches patches, int64_t n, const Word* from, Word* to) {
    for (int64_t i = first_index(); i < n; i += index_stride()) {
        const int64_t j = patches.in_pictures(i);
        if constexpr (kToPatches) {
            to[i] = from[j];
        } else {
            to[j] = from[i];
        }
    }
}

/// In the widest words that a row of a patch consists of.
template <bool kToPatches>
void move_patches(Arg pictures, Arg patches, int64_t patch, Arg from, Arg to) {
    const Shape& shape = pictures.shape();
    VVTQ_CHECK(shape.rank() == 4 && patch > 0 && shape[2] % patch == 0 && shape[3] % patch == 0,
               "patches of ", patch, " in ", shape.str());
    check_like(pictures, patches);
    const auto run = [&]<typename Word, typename T>() {
        constexpr int64_t kSize = sizeof(Word) / sizeof(T);
        const Patches layout{shape[1], shape[2], shape[3] / kSize, patch, patch / kSize};
        const int64_t n = pictures.numel() / kSize;
        launch(patch_kernel<kToPatches, Word>, pass_blocks(n), kPassThreads, 0, layout, n,
               reinterpret_cast<const Word*>(pointer<T>(from)), reinterpret_cast<Word*>(pointer<T>(to)));
    };
    with_activation(pictures.dtype(), [&]<typename T>() {
        const auto fits = [&](size_t bytes) {
            return static_cast<size_t>(patch) * sizeof(T) % bytes == 0 && aligned(bytes, from, to);
        };
        if (fits(16)) return run.template operator()<uint4, T>();
        if (fits(8)) return run.template operator()<uint2, T>();
        return run.template operator()<T, T>();
    });
}

// --- tokens: a row is a sample

/// y_rc = x (., stride) at row r, column first + c - begin where begin <= c < end, else 0
template <typename T>
struct SomeTokens {
    const T* x;
    int64_t stride, first, begin, end;

    template <int N>
    struct At {
        Pack<T, N> x;
        __device__ float operator()(int k) const { return to_float(x.at[k]); }
    };
    template <int N>
    __device__ At<N> at(int64_t row, int64_t c) const {
        if (c >= begin && c < end) return {load<N>(x + row * stride + first + c - begin)};
        At<N> zero;
#pragma unroll
        for (int k = 0; k < N; ++k) zero.x.at[k] = from_float<T>(0.0f);
        return zero;
    }
};

/// token where c < cols, then the tokens of x (., stride)
template <typename T>
struct TokenFirst {
    const float* token;
    const T* x;
    int64_t cols, stride;

    template <int N>
    struct At {
        float x[N];
        __device__ float operator()(int k) const { return x[k]; }
    };
    template <int N>
    __device__ At<N> at(int64_t row, int64_t c) const {
        At<N> here;
        if (c < cols) {
            load_floats(token + c, here.x);
        } else {
            const Pack<T, N> pack = load<N>(x + row * stride + c - cols);
#pragma unroll
            for (int k = 0; k < N; ++k) here.x[k] = to_float(pack.at[k]);
        }
        return here;
    }
};

}  // namespace

void normalize_pixels(Arg x, const std::array<double, 3>& mean, const std::array<double, 3>& std, Arg y) {
    const Shape& shape = x.shape();
    VVTQ_CHECK(shape.rank() == 4 && shape[1] == 3 && x.numel() == y.numel(), "pictures ", shape.str(), " to ",
               y.shape().str());
    Channels channels;
    for (size_t c = 0; c < 3; ++c) {
        channels.mean[c] = static_cast<float>(mean[c]);
        channels.std[c] = static_cast<float>(std[c]);
    }
    const int64_t plane = shape[2] * shape[3];
    const uint8_t* px = pointer<uint8_t>(x);
    with_activation(y.dtype(), [&]<typename T>() {
        constexpr int N = kPack<T>;
        const bool vector = plane % N == 0 && aligned(N, x) && aligned(16, y);
        const int64_t width = vector ? N : 1, packs = x.numel() / width;
        launch(vector ? normalize_kernel<N, T> : normalize_kernel<1, T>, pass_blocks(packs), kPassThreads, 0,
               channels, packs, plane / width, px, pointer<T>(y));
    });
}

void patchify(Arg x, int64_t patch, Arg y) { move_patches<true>(x, y, patch, x, y); }

void unpatchify(Arg y, int64_t patch, Arg x) { move_patches<false>(x, y, patch, y, x); }

void prepend_token(Arg token, Arg x, Arg y) {
    check_tokens(x);
    const int64_t batch = x.shape()[0], size = x.shape()[1] * x.shape()[2], cols = x.shape()[2];
    check_size(token, cols, DType::f32);
    check_size(y, batch * (size + cols), x.dtype());
    with_activation(x.dtype(), [&]<typename T>() {
        const TokenFirst<T> tokens{pointer<float>(token), pointer<T>(x), cols, size};
        map_rows<T>(tokens, size + cols, cols % kPack<T> == 0 && aligned(16, token, x), y);
    });
}

void drop_first_token(Arg x, Arg y) {
    check_tokens(x);
    const int64_t batch = x.shape()[0], size = x.shape()[1] * x.shape()[2], cols = x.shape()[2];
    check_size(y, batch * (size - cols), x.dtype());
    with_activation(x.dtype(), [&]<typename T>() {
        const SomeTokens<T> tokens{pointer<T>(x), size, cols, 0, size - cols};
        map_rows<T>(tokens, size - cols, cols % kPack<T> == 0 && aligned(16, x), y);
    });
}

void select_token(Arg x, int64_t index, Arg y) {
    check_tokens(x);
    const int64_t batch = x.shape()[0], count = x.shape()[1], cols = x.shape()[2];
    VVTQ_CHECK(index >= 0 && index < count, "token ", index, " of ", count);
    check_size(y, batch * cols, x.dtype());
    with_activation(x.dtype(), [&]<typename T>() {
        const SomeTokens<T> tokens{pointer<T>(x), count * cols, index * cols, 0, cols};
        map_rows<T>(tokens, cols, aligned(16, x), y);
    });
}

void scatter_token(Arg x, int64_t index, Arg y) {
    check_tokens(y);
    const int64_t batch = y.shape()[0], count = y.shape()[1], cols = y.shape()[2];
    VVTQ_CHECK(index >= 0 && index < count, "token ", index, " of ", count);
    check_size(x, batch * cols, y.dtype());
    with_activation(y.dtype(), [&]<typename T>() {
        const SomeTokens<T> tokens{pointer<T>(x), cols, 0, index * cols, (index + 1) * cols};
        map_rows<T>(tokens, count * cols, cols % kPack<T> == 0 && aligned(16, x), y);
    });
}

}  // namespace vvtq::engine::cuda
