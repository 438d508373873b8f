#include "data/resample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/check.h"

namespace vvtq::data {
namespace {

constexpr int kFraction = 22;
constexpr int32_t kHalf = 1 << (kFraction - 1);

double triangle(double x) {
    x = std::abs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

double cubic(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

uint8_t to_byte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kFraction, 0, 255)); }

}  // namespace

void Resampler::weigh(Axis& axis, int input, int output, int begin, int count, Filter filter) {
    axis.copy = input == output;
    axis.first.resize(static_cast<size_t>(count));
    axis.taps.resize(static_cast<size_t>(count));
    if (axis.copy) {
        for (int i = 0; i < count; ++i) axis.first[static_cast<size_t>(i)] = begin + i;
        std::fill(axis.taps.begin(), axis.taps.end(), 1);
        return;
    }
    const double scale = static_cast<double>(input) / output;
    const double filter_scale = std::max(scale, 1.0);
    const double support = (filter == Filter::bilinear ? 1.0 : 2.0) * filter_scale;
    const double inverse = 1.0 / filter_scale;
    axis.stride = static_cast<size_t>(std::ceil(support)) * 2 + 1;
    axis.weights.resize(static_cast<size_t>(count) * axis.stride);
    axis.row.resize(axis.stride);
    for (int i = 0; i < count; ++i) {
        const double center = (begin + i + 0.5) * scale;
        const int first = std::max(0, static_cast<int>(center - support + 0.5));
        const int taps = std::min(input, static_cast<int>(center + support + 0.5)) - first;
        double total = 0.0;
        for (int t = 0; t < taps; ++t) {
            const double at = (t + first - center + 0.5) * inverse;
            const double weight = filter == Filter::bilinear ? triangle(at) : cubic(at);
            axis.row[static_cast<size_t>(t)] = weight;
            total += weight;
        }
        int32_t* weights = &axis.weights[static_cast<size_t>(i) * axis.stride];
        for (int t = 0; t < taps; ++t) {
            double weight = axis.row[static_cast<size_t>(t)];
            if (total != 0.0) weight /= total;
            weights[t] = static_cast<int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kFraction));
        }
        axis.first[static_cast<size_t>(i)] = first;
        axis.taps[static_cast<size_t>(i)] = taps;
    }
}

void Resampler::horizontal(const Image& image, const Box& box, int row_begin, int rows, int width) {
    const size_t row_bytes = static_cast<size_t>(width) * 3;
    middle_.resize(row_bytes * static_cast<size_t>(rows));
    if (!x_.copy) expanded_.resize(static_cast<size_t>(box.width) * 4);
    for (int y = 0; y < rows; ++y) {
        const size_t from = static_cast<size_t>(box.top + row_begin + y) * static_cast<size_t>(image.width) +
                            static_cast<size_t>(box.left);
        const uint8_t* in = image.rgb.data() + from * 3;
        uint8_t* out = middle_.data() + row_bytes * static_cast<size_t>(y);
        if (x_.copy) {
            std::memcpy(out, in + 3 * static_cast<size_t>(x_.first[0]), row_bytes);
            continue;
        }
        int32_t* expanded = expanded_.data();
        for (int x = 0; x < box.width; ++x) {
            for (int c = 0; c < 3; ++c) expanded[4 * x + c] = in[3 * x + c];
        }
        for (int x = 0; x < width; ++x) {
            const auto at = static_cast<size_t>(x);
            const int32_t* pixel = expanded + 4 * static_cast<size_t>(x_.first[at]);
            const int32_t* weights = &x_.weights[at * x_.stride];
            int32_t sum[4] = {kHalf, kHalf, kHalf, kHalf};
            for (int t = 0; t < x_.taps[at]; ++t) {
                for (int c = 0; c < 4; ++c) sum[c] += weights[t] * pixel[4 * t + c];
            }
            for (int c = 0; c < 3; ++c) out[3 * x + c] = to_byte(sum[c]);
        }
    }
}

void Resampler::vertical(int row_begin, const Box& window, Bytes& rgb) {
    const size_t row_bytes = static_cast<size_t>(window.width) * 3;
    rgb.resize(row_bytes * static_cast<size_t>(window.height));
    if (y_.copy) {
        std::copy(middle_.begin(), middle_.end(), rgb.begin());
        return;
    }
    sums_.resize(row_bytes);
    int32_t* __restrict sums = sums_.data();
    for (size_t y = 0; y < static_cast<size_t>(window.height); ++y) {
        std::fill(sums_.begin(), sums_.end(), kHalf);
        for (int t = 0; t < y_.taps[y]; ++t) {
            const int32_t weight = y_.weights[y * y_.stride + static_cast<size_t>(t)];
            const uint8_t* __restrict in =
                middle_.data() + row_bytes * static_cast<size_t>(y_.first[y] + t - row_begin);
            for (size_t i = 0; i < row_bytes; ++i) sums[i] += weight * in[i];
        }
        uint8_t* __restrict out = rgb.data() + row_bytes * y;
        for (size_t i = 0; i < row_bytes; ++i) out[i] = to_byte(sums[i]);
    }
}

void Resampler::resize_inside(const Image& image, const Box& box, int height, int width, const Box& window,
                              Filter filter, Bytes& rgb) {
    weigh(x_, box.width, width, window.left, window.width, filter);
    weigh(y_, box.height, height, window.top, window.height, filter);
    const int row_begin = y_.first.front();
    const int row_end = y_.first.back() + y_.taps.back();
    horizontal(image, box, row_begin, row_end - row_begin, window.width);
    vertical(row_begin, window, rgb);
}

void Resampler::resize(const Image& image, const Box& box, int height, int width, const Box& window,
                       Filter filter, Bytes& rgb) {
    VVTQ_CHECK(box.height > 0 && box.width > 0 && height > 0 && width > 0, "box ", box.height, " x ",
               box.width, " to ", height, " x ", width);
    VVTQ_CHECK(window.top >= 0 && window.left >= 0 && window.height > 0 && window.width > 0 &&
                   window.height <= height - window.top && window.width <= width - window.left,
               "window ", window.height, " x ", window.width, " of ", height, " x ", width);
    const bool inside = box.top >= 0 && box.left >= 0 && box.height <= image.height - box.top &&
                        box.width <= image.width - box.left;
    if (inside) {
        resize_inside(image, box, height, width, window, filter, rgb);
        return;
    }
    padded_.height = box.height;
    padded_.width = box.width;
    padded_.rgb.assign(static_cast<size_t>(box.height) * static_cast<size_t>(box.width) * 3, 0);
    const int left = std::max(0, box.left);
    const int right = std::min(image.width, box.left + box.width);
    for (int y = std::max(0, box.top); y < std::min(image.height, box.top + box.height) && left < right;
         ++y) {
        const size_t from =
            (static_cast<size_t>(y) * static_cast<size_t>(image.width) + static_cast<size_t>(left)) * 3;
        const size_t to = (static_cast<size_t>(y - box.top) * static_cast<size_t>(box.width) +
                           static_cast<size_t>(left - box.left)) *
                          3;
        std::memcpy(&padded_.rgb[to], &image.rgb[from], static_cast<size_t>(right - left) * 3);
    }
    resize_inside(padded_, {0, 0, box.height, box.width}, height, width, window, filter, rgb);
}

void Resampler::resize(const Image& image, const Box& box, int height, int width, Filter filter, Bytes& rgb) {
    resize(image, box, height, width, {0, 0, height, width}, filter, rgb);
}

void to_planes(const Bytes& rgb, int side, bool flip, uint8_t* planes) {
    const auto n = static_cast<size_t>(side);
    VVTQ_CHECK(rgb.size() == n * n * 3, rgb.size(), " bytes for side ", side);
    for (size_t c = 0; c < 3; ++c) {
        for (size_t y = 0; y < n; ++y) {
            const uint8_t* in = rgb.data() + y * n * 3 + c;
            uint8_t* out = planes + (c * n + y) * n;
            if (flip) {
                for (size_t x = 0; x < n; ++x) out[n - 1 - x] = in[3 * x];
            } else {
                for (size_t x = 0; x < n; ++x) out[x] = in[3 * x];
            }
        }
    }
}

}  // namespace vvtq::data
