#include "data/resample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "data/lanes.h"
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
// For shuffles of sixteen bytes.
using Bytes16 = uint8_t __attribute__((vector_size(16)));

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

Resize reduced(const Resize& resize, int reduce) {
    if (reduce == 1) return resize;
    const Box& whole = resize.box;
    const auto part = [&](int begin, int size, int from) {
        return Resize::Part{static_cast<double>(begin) / reduce - from, static_cast<double>(size) / reduce};
    };
    Resize small = resize;
    small.box = reduced(whole, reduce);
    small.rows = part(whole.top, whole.height, small.box.top);
    small.columns = part(whole.left, whole.width, small.box.left);
    return small;
}

void Resampler::weigh(Axis& axis, int input, Resize::Part part, int output, int begin, int count,
                      Filter filter) {
    if (part.size == 0) part = {0.0, static_cast<double>(input)};
    const bool known = axis.input == input && axis.part == part && axis.output == output &&
                       axis.begin == begin && axis.count == count && axis.filter == filter;
    if (known) return;
    axis.input = input;
    axis.part = part;
    axis.output = output;
    axis.begin = begin;
    axis.count = count;
    axis.filter = filter;
    axis.first.resize(static_cast<size_t>(count));
    axis.taps.resize(static_cast<size_t>(count));
    const double scale = part.size / output;
    const double filter_scale = std::max(scale, 1.0);
    const double support = (filter == Filter::bilinear ? 1.0 : 2.0) * filter_scale;
    const double inverse = 1.0 / filter_scale;
    axis.stride = static_cast<size_t>(std::ceil(support)) * 2 + 1;
    axis.weights.resize(static_cast<size_t>(count) * axis.stride);
    axis.row.resize(axis.stride);
    for (int i = 0; i < count; ++i) {
        const double center = part.begin + (begin + i + 0.5) * scale;
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

// Four rows at once: a tap is a column of four pixels. Rows of quads begin at the canvas's top, so up to
// three rows before row_begin and after the last are computed along.
void Resampler::horizontal(const Canvas& canvas, const Box& box, int row_begin, int rows, int width) {
    middle_stride_ = round_up(static_cast<size_t>(width) * 4, Lanes::kCount);
    const int top = box.top - canvas.box.top + row_begin;  // in the canvas
    const int quad_begin = top / 4;
    const int quad_end = (top + rows + 3) / 4;
    middle_.resize(middle_stride_ * 4 * static_cast<size_t>(quad_end - quad_begin));
    for (int quad = quad_begin; quad < quad_end; ++quad) {
        const uint8_t* in = canvas.quads.data() + canvas.quad_row_bytes() * static_cast<size_t>(quad) +
                            Canvas::kQuad * static_cast<size_t>(box.left - canvas.box.left);
        uint8_t* out = middle_.data() + middle_stride_ * 4 * static_cast<size_t>(quad - quad_begin);
        for (size_t x = 0; x < static_cast<size_t>(width); ++x) {
            const uint8_t* column = in + Canvas::kQuad * static_cast<size_t>(x_.first[x]);
            const int32_t* weights = &x_.weights[x * x_.stride];
            Lanes sums(kHalf);
            for (int t = 0; t < x_.taps[x]; ++t, column += Canvas::kQuad) sums.add(column, weights[t]);
            sums.store<kFraction>(out + 4 * x, middle_stride_);
        }
    }
}

uint64_t Resampler::memory(const Box& box, int size, const Box& held) {
    const auto height = static_cast<uint64_t>(box.height), width = static_cast<uint64_t>(box.width);
    const auto out = static_cast<uint64_t>(size);
    const bool inside = box.top >= held.top && box.left >= held.left &&
                        box.top + box.height <= held.top + held.height &&
                        box.left + box.width <= held.left + held.width;
    // Of the widest filter: four weights of four bytes for each row and column, and a row of doubles.
    const uint64_t weights = (height + width) * 4 * (4 + 2) + out * 64;
    const uint64_t middle = (height + 6) * round_up(out * 4, Lanes::kCount);
    const uint64_t padded = inside ? 0 : height * width * (3 + 4) + width * Canvas::kQuad;
    return weights + middle + padded;
}

// Output row y into row_. row_begin: the canvas's row that middle_ begins with.
void Resampler::vertical(int y, int row_begin) {
    const auto at = static_cast<size_t>(y);
    const uint8_t* first = middle_.data() + middle_stride_ * static_cast<size_t>(y_.first[at] - row_begin);
    const int32_t* weights = &y_.weights[at * y_.stride];
    const auto taps = static_cast<size_t>(y_.taps[at]);
    for (size_t i = 0; i < middle_stride_; i += Lanes::kCount) {
        Lanes sums(kHalf);
        for (size_t t = 0; t < taps; ++t) sums.add(first + t * middle_stride_ + i, weights[t]);
        sums.store<kFraction>(row_.data() + i);
    }
}

// Calls row(y) for each row of the window after it was computed into row_.
template <typename Row>
void Resampler::rows(const Canvas& canvas, const Resize& resize, Row row) {
    const Box& box = resize.box;
    const Box& window = resize.window;
    VVTQ_CHECK(box.height > 0 && box.width > 0 && resize.height > 0 && resize.width > 0, "box ", box.height,
               " x ", box.width, " to ", resize.height, " x ", resize.width);
    VVTQ_CHECK(window.top >= 0 && window.left >= 0 && window.height > 0 && window.width > 0 &&
                   window.height <= resize.height - window.top && window.width <= resize.width - window.left,
               "window ", window.height, " x ", window.width, " of ", resize.height, " x ", resize.width);
    const Box& held = canvas.box;
    const bool inside = box.top >= held.top && box.left >= held.left &&
                        box.top + box.height <= held.top + held.height &&
                        box.left + box.width <= held.left + held.width;
    const Canvas* from = &canvas;
    if (!inside) {
        copy_out(canvas, box, rgb_);
        const Image image{box.height, box.width, std::move(rgb_)};
        paint(image, {0, 0, box.height, box.width}, padded_);
        padded_.box = box;
        from = &padded_;
    }
    weigh(x_, box.width, resize.columns, resize.width, window.left, window.width, resize.filter);
    weigh(y_, box.height, resize.rows, resize.height, window.top, window.height, resize.filter);
    const int begin = y_.first.front();
    const int end = y_.first.back() + y_.taps.back();
    horizontal(*from, box, begin, end - begin, window.width);
    row_.resize(middle_stride_);
    const int before = (box.top - from->box.top + begin) % 4;  // rows computed along
    for (int y = 0; y < window.height; ++y) {
        vertical(y, begin - before);
        row(static_cast<size_t>(y));
    }
}

void Resampler::resize(const Canvas& canvas, const Resize& resize, Bytes& rgb) {
    const auto width = static_cast<size_t>(resize.window.width);
    rgb.resize(static_cast<size_t>(resize.window.height) * width * 3);
    rows(canvas, resize, [&](size_t y) {
        uint8_t* out = rgb.data() + y * width * 3;
        for (size_t x = 0; x < width; ++x) std::memcpy(out + 3 * x, row_.data() + 4 * x, 3);
    });
}

void Resampler::resize(const Canvas& canvas, const Resize& resize, bool flip, uint8_t* planes) {
    const auto width = static_cast<size_t>(resize.window.width);
    const size_t plane = static_cast<size_t>(resize.window.height) * width;
    const size_t whole = width / 4 * 4;
    rows(canvas, resize, [&](size_t y) {
        uint8_t* out = planes + y * width;
        for (size_t x = 0; x < whole; x += 4) {
            Bytes16 pixels;
            std::memcpy(&pixels, row_.data() + 4 * x, sizeof pixels);
            // Planes of four bytes; mirrored in the second case.
            pixels = flip ? __builtin_shufflevector(pixels, pixels, 12, 8, 4, 0, 13, 9, 5, 1, 14, 10, 6, 2,
                                                    15, 11, 7, 3)
                          : __builtin_shufflevector(pixels, pixels, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3,
                                                    7, 11, 15);
            const size_t to = flip ? width - 4 - x : x;
            for (size_t c = 0; c < 3; ++c) {
                std::memcpy(out + c * plane + to, reinterpret_cast<const uint8_t*>(&pixels) + 4 * c, 4);
            }
        }
        for (size_t x = whole; x < width; ++x) {
            for (size_t c = 0; c < 3; ++c) out[c * plane + (flip ? width - 1 - x : x)] = row_[4 * x + c];
        }
    });
}

void Resampler::resize(const Image& image, const Box& box, int height, int width, const Box& window,
                       Filter filter, Bytes& rgb) {
    const int top = std::clamp(box.top, 0, image.height);
    const int left = std::clamp(box.left, 0, image.width);
    const int bottom = std::clamp(box.top + box.height, top, image.height);
    const int right = std::clamp(box.left + box.width, left, image.width);
    if (bottom > top && right > left) {
        paint(image, {top, left, bottom - top, right - left}, part_);
    } else {
        paint(image, {0, 0, 1, 1}, part_);  // the box lies outside: none of this is looked at
    }
    resize(part_, {box, height, width, window, filter}, rgb);
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
