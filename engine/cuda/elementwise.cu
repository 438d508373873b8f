// elementwise: one pass over memory each.
#include <bit>

#include "engine/cuda/families.h"
#include "engine/cuda/normal.cuh"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

// --- memory

template <typename Word>
__global__ void fill_kernel(Word value, int64_t n, Word* y) {
    constexpr int N = kPack<Word>;
    Pack<Word, N> all;
#pragma unroll
    for (int k = 0; k < N; ++k) all.at[k] = value;
    const bool vector = reinterpret_cast<uintptr_t>(y) % 16 == 0;
    const int64_t packs = vector ? n / N : 0;
    for (int64_t i = first_index(); i < packs; i += index_stride()) store(y + i * N, all);
    for (int64_t i = packs * N + first_index(); i < n; i += index_stride()) y[i] = value;
}

template <typename Word, typename T>
void fill_with(T value, Arg y) {
    launch(fill_kernel<Word>, pass_blocks(ceil_div(y.numel(), kPack<Word>)), kPassThreads, 0,
           std::bit_cast<Word>(value), y.numel(), static_cast<Word*>(y.raw()));
}

template <typename To, typename From>
__device__ To convert(From x) {
    if constexpr (std::is_same_v<From, To>) {
        return x;
    } else if constexpr (std::is_same_v<From, bf16>) {
        return static_cast<To>(__bfloat162float(x));
    } else if constexpr (std::is_same_v<To, bf16> && std::is_same_v<From, double>) {
        return __double2bfloat16(x);
    } else if constexpr (std::is_same_v<To, bf16>) {
        return __float2bfloat16_rn(static_cast<float>(x));
    } else {
        return static_cast<To>(x);
    }
}

template <int N, typename From, typename To>
__global__ void cast_kernel(int64_t n, const From* x, To* y) {
    const int64_t packs = n / N;
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        const Pack<From, N> from = load<N>(x + i * N);
        Pack<To, N> to;
#pragma unroll
        for (int k = 0; k < N; ++k) to.at[k] = convert<To>(from.at[k]);
        store(y + i * N, to);
    }
    for (int64_t i = packs * N + first_index(); i < n; i += index_stride()) y[i] = convert<To>(x[i]);
}

template <typename From, typename To>
void cast_from(Arg x, Arg y) {
    constexpr int N = std::min(kPack<From>, kPack<To>);
    const int64_t n = x.numel();
    const From* from = pointer<From>(x);
    To* to = pointer<To>(y);
    if (aligned(N * sizeof(From), x) && aligned(N * sizeof(To), y)) {
        launch(cast_kernel<N, From, To>, pass_blocks(ceil_div(n, N)), kPassThreads, 0, n, from, to);
    } else {
        launch(cast_kernel<1, From, To>, pass_blocks(n), kPassThreads, 0, n, from, to);
    }
}

template <typename To>
void cast_to(Arg x, Arg y) {
    switch (x.dtype()) {
        case DType::f32:
            return cast_from<float, To>(x, y);
        case DType::f64:
            return cast_from<double, To>(x, y);
        case DType::bf16:
            return cast_from<bf16, To>(x, y);
        case DType::i8:
            return cast_from<int8_t, To>(x, y);
        case DType::u8:
            return cast_from<uint8_t, To>(x, y);
        case DType::i32:
            return cast_from<int32_t, To>(x, y);
        case DType::i64:
            return cast_from<int64_t, To>(x, y);
    }
}

// --- element by element

struct Add {
    __device__ float operator()(float a, float b) const { return a + b; }
};
struct Scale {
    float s;
    __device__ float operator()(float x) const { return s * x; }
};
struct ScaleBy {
    const float* s;
    __device__ float operator()(float x) const { return *s * x; }
};
struct Gelu {
    __device__ float operator()(float x) const { return x * normal_of(x).cdf; }
};
struct GeluBackward {
    __device__ float operator()(float dy, float x) const {
        const Normal normal = normal_of(x);
        return dy * (normal.cdf + x * normal.pdf);
    }
};

// --- with a factor or a summand per row or column

struct AddBroadcast {
    const float* p;
    template <int N>
    struct At {
        float p[N];
        __device__ float operator()(int k, float x) const { return x + p[k]; }
    };
    template <int N>
    __device__ At<N> at(int64_t, int64_t c) const {
        At<N> here;
        load_floats(p + c, here.p);
        return here;
    }
};

struct ScaleRow {
    const float* s;
    struct At {
        float s;
        __device__ float operator()(int, float x) const { return s * x; }
        __device__ float operator()(int, float x, float f) const { return x + s * f; }
    };
    template <int>
    __device__ At at(int64_t row, int64_t) const {
        return {s[row]};
    }
};

struct AddOuter {
    const float *u, *s;
    struct At {
        float summand;
        __device__ float operator()(int, float y) const { return y + summand; }
    };
    template <int>
    __device__ At at(int64_t row, int64_t) const {
        return {*s * u[row]};
    }
};

/// Elements of one row where n elements lie in `rows` rows.
int64_t row_size(int64_t n, int64_t rows) {
    VVTQ_CHECK(rows > 0 && n % rows == 0, n, " elements in ", rows, " rows");
    return n / rows;
}

// --- columns of a matrix

/// to = s t from + bias; s, t, bias may be null.
template <int N, typename T>
__global__ void columns_kernel(int64_t packs, int64_t packs_per_row, const T* from, int64_t from_ld, T* to,
                               int64_t to_ld, const float* s, const float* t, const float* bias) {
    const float factor = (s != nullptr ? *s : 1.0f) * (t != nullptr ? *t : 1.0f);
    for (int64_t i = first_index(); i < packs; i += index_stride()) {
        const int64_t row = i / packs_per_row, c = (i - row * packs_per_row) * N;
        float summand[N] = {};
        if (bias != nullptr) load_floats(bias + c, summand);
        const auto g = [&](int k, float x) { return factor * x + summand[k]; };
        store(to + row * to_ld + c, apply<N, T>(g, load<N>(from + row * from_ld + c)));
    }
}

/// Columns from `from_first` on of `from` to those from `to_first` on of `to`, `cols` of them.
template <typename T>
void move_columns(int64_t cols, Arg from, int64_t from_first, Arg to, int64_t to_first, Arg s, Arg t,
                  Arg bias) {
    constexpr int N = kPack<T>;
    if (s.defined()) check_size(s, 1, DType::f32);
    if (t.defined()) check_size(t, 1, DType::f32);
    if (bias.defined()) check_size(bias, cols, DType::f32);
    const int64_t rows = from.shape().rows(), from_ld = from.shape().cols(), to_ld = to.shape().cols();
    const auto run = [&](auto kernel, int64_t width) {
        launch(kernel, pass_blocks(rows * (cols / width)), kPassThreads, 0, rows * (cols / width),
               cols / width, pointer<T>(from) + from_first, from_ld, pointer<T>(to) + to_first, to_ld,
               pointer<float>(s), pointer<float>(t), pointer<float>(bias));
    };
    const bool vector = cols % N == 0 && from_ld % N == 0 && to_ld % N == 0 && from_first % N == 0 &&
                        to_first % N == 0 && aligned(16, from, to, bias);
    if (vector) {
        run(columns_kernel<N, T>, N);
    } else {
        run(columns_kernel<1, T>, 1);
    }
}

/// Throws unless `part` (R, C) fits into the columns of `whole` (R, W) from `first` on.
void check_columns(Arg whole, int64_t first, Arg part) {
    VVTQ_CHECK(whole.dtype() == part.dtype() && whole.shape().rows() == part.shape().rows() && first >= 0 &&
                   first + part.shape().cols() <= whole.shape().cols(),
               part.shape().str(), " at column ", first, " of ", whole.shape().str());
}

}  // namespace

cudaError_t has_kernels() {
    cudaFuncAttributes attributes{};
    return cudaFuncGetAttributes(&attributes, fill_kernel<uint32_t>);
}

void fill(double value, Arg y) {
    if (y.numel() == 0) return;
    VVTQ_CHECK(y.device() == Device::cuda, "a tensor on ", name_of(y.device()));
    switch (y.dtype()) {
        case DType::f32:
            return fill_with<uint32_t>(static_cast<float>(value), y);
        case DType::f64:
            return fill_with<uint64_t>(value, y);
        case DType::bf16:
            return fill_with<uint16_t>(__nv_bfloat16_raw(__double2bfloat16(value)), y);
        case DType::i8:
            return fill_with<uint8_t>(static_cast<int8_t>(value), y);
        case DType::u8:
            return fill_with<uint8_t>(static_cast<uint8_t>(value), y);
        case DType::i32:
            return fill_with<uint32_t>(static_cast<int32_t>(value), y);
        case DType::i64:
            return fill_with<uint64_t>(static_cast<int64_t>(value), y);
    }
}

void copy(Arg x, Arg y) {
    check_like(x, y);
    if (x.numel() == 0) return;
    VVTQ_CHECK(x.device() == Device::cuda && y.device() == Device::cuda, "from ", name_of(x.device()), " to ",
               name_of(y.device()));
    VVTQ_CUDA(cudaMemcpyAsync(y.raw(), x.raw(), x.bytes(), cudaMemcpyDeviceToDevice, gpu().stream));
}

void cast(Arg x, Arg y) {
    VVTQ_CHECK(x.numel() == y.numel(), x.shape().str(), " to ", y.shape().str());
    switch (y.dtype()) {
        case DType::f32:
            return cast_to<float>(x, y);
        case DType::f64:
            return cast_to<double>(x, y);
        case DType::bf16:
            return cast_to<bf16>(x, y);
        default:
            internal_error("cast: to ", name_of(y.dtype()));
    }
}

void add(Arg a, Arg b, Arg y) {
    check_like(a, y);
    check_like(b, y);
    with_activation(y.dtype(), [&]<typename T>() { map<T>(Add{}, y, a, b); });
}

void accumulate_add(Arg x, Arg y) {
    check_like(x, y);
    with_activation(y.dtype(), [&]<typename T>() { map<T>(Add{}, y, y, x); });
}

void scale(Arg x, double s, Arg y) {
    check_like(x, y);
    with_activation(y.dtype(), [&]<typename T>() { map<T>(Scale{static_cast<float>(s)}, y, x); });
}

void scale_by(Arg x, Arg s, Arg y) {
    check_like(x, y);
    check_size(s, 1, DType::f32);
    with_activation(y.dtype(), [&]<typename T>() { map<T>(ScaleBy{pointer<float>(s)}, y, x); });
}

void add_broadcast(Arg x, Arg p, Arg y) {
    check_like(x, y);
    const int64_t cols = p.numel();
    VVTQ_CHECK(cols > 0 && x.numel() % cols == 0, x.shape().str(), " + ", p.shape().str());
    const float* pp = pointer<float>(p);
    with_activation(y.dtype(),
                    [&]<typename T>() { map_rows<T>(AddBroadcast{pp}, cols, aligned(16, p), y, x); });
}

void residual(Arg x, Arg f, Arg keep, Arg y) {
    check_like(x, y);
    check_like(f, y);
    if (!keep.defined()) return add(x, f, y);
    const int64_t size = row_size(y.numel(), keep.numel());
    with_activation(y.dtype(),
                    [&]<typename T>() { map_rows<T>(ScaleRow{pointer<float>(keep)}, size, true, y, x, f); });
}

void scale_samples(Arg x, Arg s, Arg y) {
    check_like(x, y);
    const int64_t size = row_size(y.numel(), s.numel());
    with_activation(y.dtype(),
                    [&]<typename T>() { map_rows<T>(ScaleRow{pointer<float>(s)}, size, true, y, x); });
}

void take_columns(Arg z, int64_t first, Arg s, Arg t, Arg bias, Arg y) {
    check_columns(z, first, y);
    with_activation(y.dtype(),
                    [&]<typename T>() { move_columns<T>(y.shape().cols(), z, first, y, 0, s, t, bias); });
}

void put_columns(Arg x, Arg s, int64_t first, Arg z) {
    check_columns(z, first, x);
    with_activation(x.dtype(),
                    [&]<typename T>() { move_columns<T>(x.shape().cols(), x, 0, z, first, s, {}, {}); });
}

void accumulate_outer(Arg u, Arg s, Arg y) {
    check_size(s, 1, DType::f32);
    const int64_t cols = row_size(y.numel(), u.numel());
    map_rows<float>(AddOuter{pointer<float>(u), pointer<float>(s)}, cols, true, y, y);
}

void gelu(Arg x, Arg y) {
    check_like(x, y);
    with_activation(y.dtype(), [&]<typename T>() { map<T>(Gelu{}, y, x); });
}

void gelu_backward(Arg dy, Arg x, Arg dx) {
    check_like(dy, dx);
    check_like(x, dx);
    with_activation(dx.dtype(), [&]<typename T>() { map<T>(GeluBackward{}, dx, dy, x); });
}

}  // namespace vvtq::engine::cuda
