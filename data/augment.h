// augment: what training does to a crop beside cutting it: the DeiT recipe on 8-bit pixels. The operations
// are Pillow's, their strengths those of timm's RandAugment with increasing severity.
#pragma once

#include <cstdint>
#include <string>

#include "data/image.h"
#include "engine/random.h"

namespace vvtq::data {

/// The operations of RandAugment, in timm's order.
enum class Operation {
    auto_contrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    solarize_add,
    color,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y
};
constexpr int kOperations = 15;
const char* operation_name(Operation operation);

/// "rand-m9-mstd0.5-inc1": `layers` operations drawn with replacement, each applied with `probability` at
/// a magnitude drawn from a normal distribution and cut to [0, 10].
struct RandAugment {
    int layers = 0;  ///< 0: none
    double magnitude = 9.0;
    double deviation = 0.0;
    double probability = 0.5;
};

/// Errors: input_error naming `rand_augment` where the text is neither "none" nor of the form above with
/// inc1. Parts: m magnitude, mstd deviation, n layers (2 without), p probability, inc1 increasing severity.
RandAugment parse_rand_augment(const std::string& text);

/// Applies one operation at a magnitude of 0 to 10 to `image`; its sign, where the operation has one, is
/// drawn.
void apply(Operation operation, double magnitude, engine::Random& random, Image& image);
void apply(const RandAugment& augment, engine::Random& random, Image& image);

/// Brightness, contrast and saturation, in an order that is drawn, each by a factor from
/// U(max(0, 1 - strength), 1 + strength).
void color_jitter(double strength, engine::Random& random, Image& image);

void mirror(Image& image);

/// The factor ops: 0 gives black (brightness), the mean gray (contrast), gray (color), a blurred picture
/// (sharpness); 1 the picture itself; beyond 1 away from these.
void enhance(Operation operation, double factor, Image& image);

/// out(x, y) = in(a x + b y + c, d x + e y + f), bilinear between pixel centers; gray-brown (124, 116, 104)
/// outside of the picture.
struct Affine {
    double a, b, c, d, e, f;
};
void transform(const Affine& map, Image& image);

}  // namespace vvtq::data
