// resample: a rectangle of a picture brought to another size, to the last bit as Pillow's Image.resize does.
//
// Each output pixel is a weighted mean over the filter's support, which widens by the scale when shrinking
// (antialiasing). Weights are rounded to 22 fractional bits; the horizontal pass comes first and its result
// is rounded to 8 bits before the vertical pass. Pillow up to 12 does it so, and the published pictures were
// made so; Pillow 13 turns the passes around for some sizes, which moves single pixels by a few units.
#pragma once

#include <cstdint>
#include <vector>

#include "data/image.h"

namespace vvtq::data {

enum class Filter { bilinear, bicubic };  ///< triangle of support 1; cubic with a = -0.5, support 2

/// A rectangle in whole pixels.
struct Box {
    int top = 0;
    int left = 0;
    int height = 0;
    int width = 0;
    bool operator==(const Box&) const = default;
};

/// Holds the scratch memory of repeated calls; one per thread.
class Resampler {
  public:
    /// Resizes `box` of `image` to height x width; rgb becomes (height, width, 3). What of the box lies
    /// outside of the picture is black, as after Pillow's crop.
    void resize(const Image& image, const Box& box, int height, int width, Filter filter, Bytes& rgb);

    /// The same, but only the rectangle `window` of the result is computed; rgb is (window.height,
    /// window.width, 3).
    void resize(const Image& image, const Box& box, int height, int width, const Box& window, Filter filter,
                Bytes& rgb);

  private:
    // The weights that make `count` outputs from inputs first[i] .. first[i] + taps[i] - 1.
    struct Axis {
        std::vector<int> first;
        std::vector<int> taps;
        std::vector<int32_t> weights;  // (count, stride)
        size_t stride = 0;
        std::vector<double> row;
        bool copy = false;  // input and output sizes agree: nothing to weigh
    };

    static void weigh(Axis& axis, int input, int output, int begin, int count, Filter filter);
    void resize_inside(const Image& image, const Box& box, int height, int width, const Box& window,
                       Filter filter, Bytes& rgb);
    void horizontal(const Image& image, const Box& box, int row_begin, int rows, int width);
    void vertical(int row_begin, const Box& window, Bytes& rgb);

    Axis x_;
    Axis y_;
    Bytes middle_;                   // (rows, window width, 3) between the two passes
    std::vector<int32_t> expanded_;  // one input row, four integers a pixel
    std::vector<int32_t> sums_;      // one output row
    Image padded_;
};

/// (side, side, 3) to (3, side, side), mirrored left to right where `flip`.
void to_planes(const Bytes& rgb, int side, bool flip, uint8_t* planes);

}  // namespace vvtq::data
