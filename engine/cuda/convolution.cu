// convolution: windows of 3 x 3, as columns of a product or as groups of one channel.
#include "engine/cuda/columns.cuh"
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

/// Strides of a picture's elements, and where windows lie.
struct Windows {
    int channels, height, width, stride, out_height, out_width;
    int of_channel, of_row, of_column, picture;

    explicit Windows(const Convolution& s)
        : channels(static_cast<int>(s.channels)),
          height(static_cast<int>(s.height)),
          width(static_cast<int>(s.width)),
          stride(static_cast<int>(s.stride)),
          out_height(static_cast<int>(s.out_height())),
          out_width(static_cast<int>(s.out_width())),
          of_channel(s.channels_last ? 1 : height * width),
          of_row(s.channels_last ? width * channels : width),
          of_column(s.channels_last ? channels : 1),
          picture(channels * height * width) {
        VVTQ_CHECK(s.channels > 0 && s.height > 0 && s.width > 0 && s.stride > 0 &&
                       s.channels * s.height * s.width < (int64_t{1} << 31),
                   "pictures of ", s.channels, " x ", s.height, " x ", s.width, ", stride ", s.stride);
    }
    int64_t batch(Arg x) const {
        VVTQ_CHECK(x.numel() % picture == 0, x.shape().str(), " in pictures of ", picture, " elements");
        return x.numel() / picture;
    }
    __host__ __device__ int positions() const { return out_height * out_width; }
    /// Offset of a position's tap in its picture, -1 outside.
    __device__ int offset(int position, int tap) const {
        const int row = position / out_width * stride - 1 + tap / 3;
        const int column = position % out_width * stride - 1 + tap % 3;
        const bool inside = row >= 0 && row < height && column >= 0 && column < width;
        return inside ? row * of_row + column * of_column : -1;
    }
    /// The position whose tap lies at a picture's (row, column), -1 where there is none.
    __device__ int position(int row, int column, int tap) const {
        const int top = row + 1 - tap / 3, left = column + 1 - tap % 3;
        if (top < 0 || left < 0 || top % stride != 0 || left % stride != 0) return -1;
        const int y = top / stride, x = left / stride;
        return y < out_height && x < out_width ? y * out_width + x : -1;
    }
};

/// A thread copies V channels of a tap, in every so-manieth picture.
template <typename T, int V>
__global__ void unfold_kernel(const T* x, Windows windows, int batch, T* u) {
    const int columns = windows.channels / V, count = windows.positions() * kTaps * columns;
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= count) return;
    const int line = i / columns, c = (i - line * columns) * V, position = line / kTaps;
    const int tap = windows.offset(position, line - position * kTaps), at = tap + c * windows.of_channel;
    Pack<T, V> pack;
#pragma unroll
    for (T& value : pack.at) value = from_float<T>(0.0f);
    for (int b = static_cast<int>(blockIdx.y); b < batch; b += static_cast<int>(gridDim.y)) {
        if (tap >= 0) {
            pack = *reinterpret_cast<const Pack<T, V>*>(x + static_cast<int64_t>(b) * windows.picture + at);
        }
        reinterpret_cast<Pack<T, V>*>(u + static_cast<int64_t>(b) * count * V)[i] = pack;
    }
}

/// Where element `at` of a picture lies.
struct Place {
    int channel, row, column;
    __device__ Place(int at, const Windows& windows) {
        row = at / windows.of_row % windows.height;
        column = at / windows.of_column % windows.width;
        channel = at / windows.of_channel % windows.channels;
    }
};

/// A thread adds up V channels of an element, in every so-manieth picture.
template <typename T, int V>
__global__ void fold_kernel(const T* u, Windows windows, int batch, T* x) {
    const int count = windows.picture / V, columns = windows.channels * kTaps;
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= count) return;
    const Place at(i * V, windows);
    int place[kTaps];  // of the tap in a picture's windows, or -1
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
        const int p = windows.position(at.row, at.column, tap);
        place[tap] = p < 0 ? -1 : p * columns + tap * windows.channels + at.channel;
    }
    for (int b = static_cast<int>(blockIdx.y); b < batch; b += static_cast<int>(gridDim.y)) {
        const T* const lines = u + static_cast<int64_t>(b) * windows.positions() * columns;
        float total[V] = {};
#pragma unroll
        for (int tap = 0; tap < kTaps; ++tap) {
            if (place[tap] < 0) continue;
            const auto values = *reinterpret_cast<const Pack<T, V>*>(lines + place[tap]);
#pragma unroll
            for (int j = 0; j < V; ++j) total[j] += to_float(values.at[j]);
        }
        Pack<T, V> y;
#pragma unroll
        for (int j = 0; j < V; ++j) y.at[j] = from_float<T>(total[j]);
        reinterpret_cast<Pack<T, V>*>(x + static_cast<int64_t>(b) * windows.picture)[i] = y;
    }
}

template <typename T>
__global__ void grouped_kernel(const T* x, Windows windows, const T* w, const float* scale, const T* bias,
                               int outputs, int64_t n, T* y) {
    const float factor = scale != nullptr ? *scale : 1.0f;
    const int each = outputs / windows.channels;
    for (int64_t i = first_index(); i < n; i += index_stride()) {
        const int64_t line = i / outputs, b = line / windows.positions();
        const int o = static_cast<int>(i - line * outputs);
        const int p = static_cast<int>(line - b * windows.positions());
        const T* in = x + b * windows.picture + o / each;
        float total = 0.0f;
        for (int tap = 0; tap < kTaps; ++tap) {
            const int at = windows.offset(p, tap);
            if (at >= 0) total += to_float(in[at]) * to_float(w[o * kTaps + tap]);
        }
        y[i] = from_float<T>(factor * total + (bias != nullptr ? to_float(bias[o]) : 0.0f));
    }
}

template <typename T>
__global__ void grouped_input_kernel(const T* dy, Windows windows, const T* w, const float* scale,
                                     int outputs, int64_t n, T* dx) {
    const float factor = scale != nullptr ? *scale : 1.0f;
    const int each = outputs / windows.channels;
    for (int64_t i = first_index(); i < n; i += index_stride()) {
        const int64_t sample = i / windows.picture;
        const Place place(static_cast<int>(i - sample * windows.picture), windows);
        float total = 0.0f;
        for (int tap = 0; tap < kTaps; ++tap) {
            const int p = windows.position(place.row, place.column, tap);
            if (p < 0) continue;
            const int64_t line = sample * windows.positions() + p;
            for (int o = place.channel * each; o < (place.channel + 1) * each; ++o) {
                total += to_float(dy[line * outputs + o]) * to_float(w[o * kTaps + tap]);
            }
        }
        dx[i] = from_float<T>(factor * total);
    }
}

/// parts (chunks, outputs, 9): a thread adds up all taps of one output over a chunk of positions
template <typename T>
__global__ void grouped_weight_kernel(const T* dy, Windows windows, const T* x, const float* scale,
                                      int outputs, int64_t lines, int64_t chunk, float* parts) {
    const float factor = scale != nullptr ? *scale : 1.0f;
    const int o = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (o >= outputs) return;
    const int channel = o / (outputs / windows.channels);
    float total[kTaps] = {};
    const int64_t begin = int64_t{blockIdx.y} * chunk, end = min(lines, begin + chunk);
    for (int64_t line = begin; line < end; ++line) {
        const int64_t b = line / windows.positions();
        const int p = static_cast<int>(line - b * windows.positions());
        const float g = to_float(dy[line * outputs + o]);
        const T* in = x + b * windows.picture + channel;
#pragma unroll
        for (int tap = 0; tap < kTaps; ++tap) {
            const int at = windows.offset(p, tap);
            if (at >= 0) total[tap] += g * to_float(in[at]);
        }
    }
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
        parts[(int64_t{blockIdx.y} * outputs + o) * kTaps + tap] = factor * total[tap];
    }
}

/// Whether unfold and fold can move 16 bytes of neighbouring channels.
template <typename T>
bool in_packs(const Convolution& shape, Arg x, Arg u) {
    return shape.channels_last && shape.channels % kPack<T> == 0 && aligned(16, x, u);
}
/// Blocks for so many threads a picture, and for enough pictures at a time.
dim3 picture_blocks(int64_t threads, int64_t batch) {
    constexpr int64_t kBlocks = 8192;
    const int64_t blocks = std::max<int64_t>(1, ceil_div(threads, kPassThreads));
    return {static_cast<unsigned>(blocks), static_cast<unsigned>(std::clamp<int64_t>(
                                               ceil_div(kBlocks, blocks), 1, std::max<int64_t>(batch, 1)))};
}
/// Batch of u and x, checked.
int checked_batch(Arg x, const Windows& windows, Arg u) {
    const int64_t batch = windows.batch(x), line = int64_t{windows.channels} * kTaps;
    VVTQ_CHECK(batch < (int64_t{1} << 31) && line * windows.positions() < (int64_t{1} << 31), "windows of ",
               batch, " pictures of ", windows.picture, " elements");
    check_size(u, batch * windows.positions() * line, x.dtype());
    return static_cast<int>(batch);
}

}  // namespace

void unfold(Arg x, const Convolution& shape, Arg u) {
    const Windows windows(shape);
    const int batch = checked_batch(x, windows, u);
    with_activation(x.dtype(), [&]<typename T>() {
        const bool packs = in_packs<T>(shape, x, u);
        const int64_t threads = shape.positions() * kTaps * shape.channels / (packs ? kPack<T> : 1);
        launch(packs ? unfold_kernel<T, kPack<T>> : unfold_kernel<T, 1>, picture_blocks(threads, batch),
               kPassThreads, 0, pointer<T>(x), windows, batch, pointer<T>(u));
    });
}

void fold(Arg u, const Convolution& shape, Arg x) {
    const Windows windows(shape);
    const int batch = checked_batch(x, windows, u);
    with_activation(x.dtype(), [&]<typename T>() {
        const bool packs = in_packs<T>(shape, x, u);
        const int64_t threads = windows.picture / (packs ? kPack<T> : 1);
        launch(packs ? fold_kernel<T, kPack<T>> : fold_kernel<T, 1>, picture_blocks(threads, batch),
               kPassThreads, 0, pointer<T>(u), windows, batch, pointer<T>(x));
    });
}

void grouped_convolution(Arg x, const Convolution& shape, Arg w, Arg scale, Arg bias, Arg y) {
    const Windows windows(shape);
    const int64_t outputs = grouped_outputs(shape, w), n = windows.batch(x) * shape.positions() * outputs;
    check_size(y, n, x.dtype());
    if (bias.defined()) check_size(bias, outputs, x.dtype());
    with_activation(x.dtype(), [&]<typename T>() {
        launch(grouped_kernel<T>, pass_blocks(n), kPassThreads, 0, pointer<T>(x), windows, pointer<T>(w),
               pointer<float>(scale), pointer<T>(bias), outputs, n, pointer<T>(y));
    });
}

void grouped_convolution_backward_input(Arg dy, const Convolution& shape, Arg w, Arg scale, Arg dx) {
    const Windows windows(shape);
    const int64_t outputs = grouped_outputs(shape, w);
    check_size(dy, windows.batch(dx) * shape.positions() * outputs, dx.dtype());
    with_activation(dx.dtype(), [&]<typename T>() {
        launch(grouped_input_kernel<T>, pass_blocks(dx.numel()), kPassThreads, 0, pointer<T>(dy), windows,
               pointer<T>(w), pointer<float>(scale), outputs, dx.numel(), pointer<T>(dx));
    });
}

void grouped_convolution_backward_weight(Arg dy, const Convolution& shape, Arg x, Arg scale, Arg dw) {
    constexpr int64_t kThreads = 128;
    const Windows windows(shape);
    const int64_t outputs = grouped_outputs(shape, dw), lines = windows.batch(x) * shape.positions();
    check_size(dy, lines * outputs, x.dtype());
    check_size(dw, outputs * kTaps, DType::f32);
    if (lines == 0) return fill(0.0, dw);
    const int64_t chunk = std::max<int64_t>(16, ceil_div(lines, 2 * kPartials)),
                  chunks = ceil_div(lines, chunk);
    const Tensor parts(Shape{chunks, outputs * kTaps}, DType::f32, Device::cuda);
    with_activation(x.dtype(), [&]<typename T>() {
        launch(grouped_weight_kernel<T>,
               dim3(static_cast<unsigned>(ceil_div(outputs, kThreads)), static_cast<unsigned>(chunks)),
               static_cast<unsigned>(kThreads), 0, pointer<T>(dy), windows, pointer<T>(x),
               pointer<float>(scale), outputs, lines, chunk, pointer<float>(parts));
    });
    column_sums(Value{}, parts, 1, chunks, outputs * kTaps, 1.0, dw);
}

}  // namespace vvtq::engine::cuda
