// position_grid: parameters with a value for each place of a square grid, brought to another grid where a
// model looks at pictures or windows of another size.
#pragma once

#include <cstdint>
#include <vector>

namespace vvtq::nn {

/// How a parameter lies on its grid of side s.
struct PositionGrid {
    bool rows = true;        // (.., before + s s, C), a row for each place; otherwise (1, C, s, s)
    int64_t before = 0;      // rows in front that belong to no place: class tokens
    bool antialias = false;  // see resize_positions

    /// The side s of a tensor of this shape; 0 where it has no such grid.
    int64_t side(const std::vector<int64_t>& shape) const;
};

/// The values of a tensor of `shape` on a grid of side `to`, by bicubic interpolation as torch's interpolate
/// with align_corners false. Without `antialias` four taps a direction, a = -0.75, edges repeated; with it
/// taps as wide as a place of the coarser grid, a = -0.5, those outside left out. Rows in front are copied.
std::vector<double> resize_positions(const std::vector<double>& values, const std::vector<int64_t>& shape,
                                     const PositionGrid& grid, int64_t to);

}  // namespace vvtq::nn
