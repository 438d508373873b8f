#include "data/crops.h"

#include <algorithm>
#include <cmath>

#include "engine/check.h"

namespace vvtq::data {

Box random_crop(engine::Random& random, int height, int width, const CropRule& rule) {
    VVTQ_CHECK(height > 0 && width > 0, height, " x ", width);
    constexpr int kTries = 10;
    const double area = static_cast<double>(height) * width;
    for (int attempt = 0; attempt < kTries; ++attempt) {
        const double target = area * random.uniform(rule.area_low, rule.area_high);
        const double aspect = std::exp(random.uniform(std::log(rule.aspect_low), std::log(rule.aspect_high)));
        const double w = std::nearbyint(std::sqrt(target * aspect));
        const double h = std::nearbyint(std::sqrt(target / aspect));
        if (w > 0 && w <= width && h > 0 && h <= height) {
            const int box_h = static_cast<int>(h);
            const int box_w = static_cast<int>(w);
            const auto top = random.below(static_cast<uint64_t>(height - box_h + 1));
            const auto left = random.below(static_cast<uint64_t>(width - box_w + 1));
            return {static_cast<int>(top), static_cast<int>(left), box_h, box_w};
        }
    }
    const double aspect = static_cast<double>(width) / height;
    int h = height;
    int w = width;
    if (aspect < rule.aspect_low) h = static_cast<int>(std::nearbyint(width / rule.aspect_low));
    if (aspect > rule.aspect_high) w = static_cast<int>(std::nearbyint(height * rule.aspect_high));
    h = std::clamp(h, 1, height);
    w = std::clamp(w, 1, width);
    return {(height - h) / 2, (width - w) / 2, h, w};
}

Box label_crop(const Coords& coords, int height, int width) {
    const double top = coords[0] * height;
    const double left = coords[1] * width;
    const double h = coords[2] * height;
    const double w = coords[3] * width;
    const int top_edge = static_cast<int>(std::nearbyint(top));
    const int left_edge = static_cast<int>(std::nearbyint(left));
    return {top_edge, left_edge, static_cast<int>(std::nearbyint(top + h)) - top_edge,
            static_cast<int>(std::nearbyint(left + w)) - left_edge};
}

Coords label_coords(const Box& box, int height, int width) {
    return {static_cast<double>(box.top) / height, static_cast<double>(box.left) / width,
            static_cast<double>(box.height) / height, static_cast<double>(box.width) / width};
}

EvaluationCrop central_crop(int height, int width, int size, int shorter) {
    VVTQ_CHECK(height > 0 && width > 0 && size > 0 && shorter >= size, height, " x ", width, " to ", shorter,
               ", ", size);
    const int64_t longer = int64_t{shorter} * std::max(height, width) / std::min(height, width);
    VVTQ_CHECK(longer <= INT32_MAX, height, " x ", width, " to ", shorter);
    const int h = static_cast<int>(height <= width ? shorter : longer);
    const int w = static_cast<int>(height <= width ? longer : shorter);
    const auto offset = [size](int side) { return static_cast<int>(std::nearbyint((side - size) / 2.0)); };
    return {h, w, {offset(h), offset(w), size, size}};
}

EvaluationCrop whole_picture(int size) { return {size, size, {0, 0, size, size}}; }

}  // namespace vvtq::data
