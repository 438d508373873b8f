// jpeg_encode: pictures written by libjpeg-turbo as Pillow's save() writes them: JFIF, color at half
// resolution, the standard tables.
#pragma once

#include "data/image.h"

namespace vvtq::data {

/// A JPEG of `image`. quality: 1..100. Errors: run_error where there is no memory.
Bytes encode_jpeg(const Image& image, int quality);

}  // namespace vvtq::data
