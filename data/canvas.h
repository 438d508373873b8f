// canvas: the part of a picture that is looked at, in the layout that resampling reads.
#pragma once

#include <cstdint>
#include <functional>

#include "data/image.h"

namespace vvtq::data {

/// The pixels that hold `box` in a picture of 1/reduce the height and width, rounded up.
inline Box reduced(const Box& box, int reduce) {
    const int bottom = box.top + box.height, right = box.left + box.width;
    const auto down = [&](int at) { return at >= 0 ? at / reduce : -((reduce - 1 - at) / reduce); };
    const auto up = [&](int at) { return -down(-at); };
    return {down(box.top), down(box.left), up(bottom) - down(box.top), up(right) - down(box.left)};
}

/// Pixels of `box` of a picture: four bytes each (R, G, B, unused), four rows of the box side by side, so
/// that one load gives a column of four pixels. quads: (ceil(box.height / 4), box.width, 4 rows, 4 bytes);
/// rows below the last are anything.
struct Canvas {
    Box box;
    int reduce = 1;  ///< the picture has 1/reduce the height and width of the file's, rounded up
    Bytes quads;

    static constexpr size_t kQuad = 16;  ///< bytes of a column of four pixels
    size_t quad_row_bytes() const { return static_cast<size_t>(box.width) * kQuad; }

    /// Takes a new box; the pixels are anything.
    void reset(const Box& new_box, int new_reduce = 1);
    /// Writes rows 4 * quad_row and the three below it. rows: four rows of `width` pixels of four bytes,
    /// `stride` bytes apart.
    void write_quad(int quad_row, const uint8_t* rows, size_t stride);
    /// Takes a new box and calls row(y, out) for each of its rows from the top: it writes the box's pixels of
    /// the picture's row y, four bytes each.
    void draw(const Box& new_box, const std::function<void(int y, uint8_t* out)>& row);

    /// Bytes that a box takes.
    static uint64_t memory(const Box& box) {
        return kQuad * static_cast<uint64_t>(box.width) * ((static_cast<uint64_t>(box.height) + 3) / 4);
    }
};

/// The pixels of `box`, which lies inside of `image`.
void paint(const Image& image, const Box& box, Canvas& canvas);

/// `box` of a picture, of which `canvas` must hold all that lies inside; (box.height, box.width, 3), black
/// where the box sticks out of the canvas.
void copy_out(const Canvas& canvas, const Box& box, Bytes& rgb);

}  // namespace vvtq::data
