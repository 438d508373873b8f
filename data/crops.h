// crops: which rectangle of a picture a model sees.
#pragma once

#include <array>

#include "data/resample.h"
#include "engine/random.h"

namespace vvtq::data {

/// Bounds of a random crop: share of the picture's area (uniform) and width / height (log-uniform).
struct CropRule {
    double area_low = 0.08;
    double area_high = 0.936;  ///< as the published labels were made; 1.0 is usual for training
    double aspect_low = 3.0 / 4.0;
    double aspect_high = 4.0 / 3.0;
};

/// Crop of a label file: (top / height, left / width, h / height, w / width) of the picture.
using Coords = std::array<double, 4>;

/// Up to ten tries of a random area and aspect, w = round(sqrt(area aspect)), h = round(sqrt(area / aspect)),
/// at a uniform position among those that fit; else the central crop with its aspect clamped to the rule's
/// range. The result lies inside of the picture and holds at least one pixel.
Box random_crop(engine::Random& random, int height, int width, const CropRule& rule);

/// The label's crop in pixels as Pillow's crop takes it: the edges left, top, left + w, top + h are rounded
/// half to even, each by itself. May hold no pixel (height or width 0), and may stick out by a pixel or two.
Box label_crop(const Coords& coords, int height, int width);

/// Inverse of label_crop for whole pixels.
Coords label_coords(const Box& box, int height, int width);

/// How a picture is brought to `size` for evaluation: resize all of it to height x width, keep `window`.
struct EvaluationCrop {
    int height, width;
    Box window;
};

/// 256/224 of `size`, rounded down: the shorter side before the central crop.
constexpr int evaluation_side(int size) { return static_cast<int>(int64_t{size} * 256 / 224); }

/// Shorter side to `shorter` (at least `size`), longer side to floor(that times the aspect), then the central
/// size x size at offset (side - size) / 2, rounded half to even.
EvaluationCrop central_crop(int height, int width, int size, int shorter);

/// The whole picture squeezed to size x size, nothing cut off: for pictures that are small already.
EvaluationCrop whole_picture(int size);

}  // namespace vvtq::data
