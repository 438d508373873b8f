// resample: a rectangle of a picture brought to another size, to the last bit as Pillow's Image.resize does.
//
// Each output pixel is a weighted mean over the filter's support, which widens by the scale when shrinking
// (antialiasing). Weights are rounded to 22 fractional bits; the horizontal pass comes first and its result
// is rounded to 8 bits before the vertical pass. Pillow up to 12 does it so, and the published pictures were
// made so; Pillow 13 turns the passes around for some sizes, which moves single pixels by a few units.
#pragma once

#include <cstdint>
#include <vector>

#include "data/canvas.h"

namespace vvtq::data {

enum class Filter { bilinear, bicubic };  ///< triangle of support 1; cubic with a = -0.5, support 2

/// What is asked of a resize: all of a picture's `box` to height x width, of which `window` is computed.
struct Resize {
    Box box;
    int height = 0;
    int width = 0;
    Box window;
    Filter filter = Filter::bilinear;
    /// Less than the box, in pixels of it and fractions of them, as Pillow's resize(box=...); size 0: all.
    struct Part {
        double begin = 0, size = 0;
        bool operator==(const Part&) const = default;
    } rows = {}, columns = {};
};

/// The same resize of a picture that was brought to 1/reduce its height and width.
Resize reduced(const Resize& resize, int reduce);

/// Holds the scratch memory of repeated calls; one per thread.
class Resampler {
  public:
    /// The canvas must hold what of the box lies inside of the picture; the rest is black, as after Pillow's
    /// crop. rgb: (window.height, window.width, 3).
    void resize(const Canvas& canvas, const Resize& resize, Bytes& rgb);
    /// The same, as planes: (3, window.height, window.width), mirrored left to right where `flip`.
    void resize(const Canvas& canvas, const Resize& resize, bool flip, uint8_t* planes);

    /// Resizes `box` of `image` to height x width; rgb becomes (height, width, 3).
    void resize(const Image& image, const Box& box, int height, int width, Filter filter, Bytes& rgb);
    /// The same, but only the rectangle `window` of the result is computed.
    void resize(const Image& image, const Box& box, int height, int width, const Box& window, Filter filter,
                Bytes& rgb);

    /// Bytes of scratch, at most, where `box` becomes size x size and the canvas holds its part of `held`.
    static uint64_t memory(const Box& box, int size, const Box& held);

  private:
    // The weights that make `count` outputs from inputs first[i] .. first[i] + taps[i] - 1.
    struct Axis {
        std::vector<int> first;
        std::vector<int> taps;
        std::vector<int32_t> weights;  // (count, stride)
        size_t stride = 0;
        std::vector<double> row;
        // What they were made for.
        int input = 0, output = 0, begin = 0, count = 0;
        Resize::Part part;
        Filter filter = Filter::bilinear;
    };

    static void weigh(Axis& axis, int input, Resize::Part part, int output, int begin, int count,
                      Filter filter);
    template <typename Row>
    void rows(const Canvas& canvas, const Resize& resize, Row row);
    void horizontal(const Canvas& canvas, const Box& box, int row_begin, int rows, int width);
    void vertical(int y, int row_begin);

    Axis x_;
    Axis y_;
    size_t middle_stride_ = 0;  // bytes of a row between the passes
    Bytes middle_;              // (rows, window width rounded up, 4) between the two passes
    Bytes row_;                 // an output row, four bytes a pixel
    Canvas part_;               // of an Image
    Canvas padded_;             // a box that sticks out
    Bytes rgb_;
};

/// (side, side, 3) to (3, side, side), mirrored left to right where `flip`.
void to_planes(const Bytes& rgb, int side, bool flip, uint8_t* planes);

}  // namespace vvtq::data
