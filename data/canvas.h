// canvas: the part of a picture that is looked at, in the layout that resampling reads.
#pragma once

#include <cstdint>

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
};

/// The pixels of `box`, which lies inside of `image`.
void paint(const Image& image, const Box& box, Canvas& canvas);

/// `box` of a picture, of which `canvas` must hold all that lies inside; (box.height, box.width, 3), black
/// where the box sticks out of the canvas.
void copy_out(const Canvas& canvas, const Box& box, Bytes& rgb);

}  // namespace vvtq::data
