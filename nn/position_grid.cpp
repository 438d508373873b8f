#include "nn/position_grid.h"

#include <algorithm>
#include <cmath>

#include "engine/check.h"

namespace vvtq::nn {
namespace {

/// Keys' cubic convolution kernel.
double cubic(double x, double a) {
    x = std::abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    return 0;
}

/// (to, from): what each old place gives to each new one.
std::vector<double> taps(int64_t from, int64_t to, bool antialias) {
    std::vector<double> matrix(static_cast<size_t>(from * to));
    const double scale = static_cast<double>(from) / static_cast<double>(to);
    const double width = antialias ? std::max(scale, 1.0) : 1.0;
    const double a = antialias ? -0.5 : -0.75;
    for (int64_t i = 0; i < to; ++i) {
        double* row = &matrix[static_cast<size_t>(i * from)];
        const double center = (static_cast<double>(i) + 0.5) * scale - 0.5;
        const auto first = static_cast<int64_t>(std::floor(center - 2 * width));
        const auto last = static_cast<int64_t>(std::ceil(center + 2 * width));
        double sum = 0;
        for (int64_t j = first; j <= last; ++j) {
            if (antialias && (j < 0 || j >= from)) continue;
            const double weight = cubic((static_cast<double>(j) - center) / width, a);
            row[std::clamp<int64_t>(j, 0, from - 1)] += weight;
            sum += weight;
        }
        for (int64_t j = 0; j < from; ++j) row[j] /= sum;
    }
    return matrix;
}

}  // namespace

int64_t PositionGrid::side(const std::vector<int64_t>& shape) const {
    if (rows && shape.size() >= 2) {
        const int64_t places = shape[shape.size() - 2] - before;
        const auto side =
            static_cast<int64_t>(std::lround(std::sqrt(std::max<double>(0, static_cast<double>(places)))));
        return side * side == places ? side : 0;
    }
    if (rows || shape.size() != 4 || shape[2] != shape[3]) return 0;
    return shape[2];
}

std::vector<double> resize_positions(const std::vector<double>& values, const std::vector<int64_t>& shape,
                                     const PositionGrid& grid, int64_t to) {
    const int64_t from = grid.side(shape);
    VVTQ_CHECK(from > 0 && to > 0, "a grid of side ", from, " to one of ", to);
    // a value of channel c at place p lies at p * place + c * channel behind the rows in front
    const int64_t channels = grid.rows ? shape.back() : shape[1];
    const int64_t front = grid.rows ? grid.before * channels : 0;
    VVTQ_CHECK(static_cast<int64_t>(values.size()) == front + from * from * channels, values.size(),
               " values");
    const auto at = [&](int64_t side, int64_t y, int64_t x, int64_t c) {
        const int64_t p = y * side + x;
        return static_cast<size_t>(grid.rows ? front + p * channels + c : c * side * side + p);
    };
    const std::vector<double> matrix = taps(from, to, grid.antialias);
    std::vector<double> out(static_cast<size_t>(front + to * to * channels));
    std::copy_n(values.begin(), front, out.begin());
    std::vector<double> across(static_cast<size_t>(from * to));  // (from, to): rows resized
    for (int64_t c = 0; c < channels; ++c) {
        for (int64_t y = 0; y < from; ++y) {
            for (int64_t x = 0; x < to; ++x) {
                double sum = 0;
                for (int64_t j = 0; j < from; ++j) {
                    sum += matrix[static_cast<size_t>(x * from + j)] * values[at(from, y, j, c)];
                }
                across[static_cast<size_t>(y * to + x)] = sum;
            }
        }
        for (int64_t y = 0; y < to; ++y) {
            for (int64_t x = 0; x < to; ++x) {
                double sum = 0;
                for (int64_t j = 0; j < from; ++j) {
                    sum +=
                        matrix[static_cast<size_t>(y * from + j)] * across[static_cast<size_t>(j * to + x)];
                }
                out[at(to, y, x, c)] = sum;
            }
        }
    }
    return out;
}

}  // namespace vvtq::nn
