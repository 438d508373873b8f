// canvas: the part of a picture that is looked at, in the layout that resampling reads.
#pragma once

#include <cstdint>
#include <functional>

#include "data/image.h"

namespace vvtq::data {

/// Pixels of `box` of a picture: four bytes each (R, G, B, unused), four rows of the box side by side, so
/// that one load gives a column of four pixels. quads: (ceil(box.height / 4), box.width, 4 rows, 4 bytes);
/// rows below the last are anything.
struct Canvas {
    Box box;
    Bytes quads;

    static constexpr size_t kQuad = 16;  ///< bytes of a column of four pixels
    size_t quad_row_bytes() const { return static_cast<size_t>(box.width) * kQuad; }

    /// Takes a new box; the pixels are anything.
    void reset(const Box& new_box);
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
