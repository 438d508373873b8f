// image: a decoded picture, and the decoders by file type.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/bytes.h"

namespace vvtq::data {

/// rgb: (height, width, 3), 8 bits each.
struct Image {
    int height = 0;
    int width = 0;
    Bytes rgb;
};

/// Largest picture that is decoded, in pixels; larger ones are refused before memory is taken.
constexpr int64_t kLargestPicture = int64_t{1} << 27;

/// Throws input_error unless 0 < height, width and height * width <= kLargestPicture and the picture is not
/// absurdly large for a file of `file_bytes` bytes.
void check_picture_size(int64_t height, int64_t width, size_t file_bytes, const std::string& name);

/// Decodes JPEG, PNG or BMP, told apart by their first bytes. `name` appears in messages.
/// Errors: input_error where the bytes are truncated, damaged or of another type.
Image decode_image(std::span<const uint8_t> bytes, const std::string& name);

/// JPEG by libjpeg with Pillow's settings (accurate integer DCT, smooth chroma upsampling), converted to RGB
/// as Pillow's convert("RGB") does: gray is repeated, CMYK and YCCK are taken as Adobe's inverted form.
/// Orientation tags are not applied. A file that ends too early is an error, not a half-gray picture.
Image decode_jpeg(std::span<const uint8_t> bytes, const std::string& name);

/// PNG by stb_image, after every chunk's length and checksum and the size of its inflated data were verified.
/// Alpha is dropped, 16 bits are cut to 8.
Image decode_png(std::span<const uint8_t> bytes, const std::string& name);

/// Uncompressed BMP by stb_image.
Image decode_bmp(std::span<const uint8_t> bytes, const std::string& name);

}  // namespace vvtq::data
