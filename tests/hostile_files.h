// hostile_files: small files that ask for much work or memory.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "data/bytes.h"

namespace vvtq::tests {

/// A PNG of zeros, however large. color: PNG's type, 0 gray, 2 RGB, 3 palette of two colors, 6 RGB and alpha.
data::Bytes blank_png(uint32_t width, uint32_t height, uint8_t depth, uint8_t color, bool passes = false);

/// A PNG of 4 x 2 pixels of 8 bits, all of color `index` of a palette of two: (1, 2, 3), (4, 5, 6).
data::Bytes filled_palette_png(uint8_t index);

/// A JPEG of one gray in `components` components. scans: 0 for a baseline picture, else those of a
/// progressive one, each over all of the picture.
data::Bytes blank_jpeg(uint32_t width, uint32_t height, int components, int scans);

/// Windows' BMP without compression, each byte of its pixels `value`; its palette has gray `colors` times.
data::Bytes plain_bmp(uint32_t width, uint32_t height, uint16_t bits, uint32_t colors, uint8_t value);

/// A zip archive of deflated files. names: each content may have several, all with headers of their own and
/// one content.
data::Bytes deflated_zip(const std::vector<std::pair<std::vector<std::string>, data::Bytes>>& files);

struct PickledTensor {
    std::string storage;  ///< "FloatStorage"
    std::string key;
    std::vector<int64_t> shape, strides;
};
/// The pickle that torch.save makes of a list of tensors.
data::Bytes pickled_tensors(const std::vector<PickledTensor>& tensors);

}  // namespace vvtq::tests
