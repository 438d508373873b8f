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

/// A rectangle in whole pixels.
struct Box {
    int top = 0;
    int left = 0;
    int height = 0;
    int width = 0;
    bool operator==(const Box&) const = default;
};

/// Largest picture that is decoded, in pixels; larger ones are refused before memory is taken.
constexpr int64_t kLargestPicture = int64_t{1} << 27;

/// Throws input_error unless 0 < height, width and height * width <= kLargestPicture and the picture is not
/// absurdly large for a file of `file_bytes` bytes.
void check_picture_size(int64_t height, int64_t width, size_t file_bytes, const std::string& name);

bool is_jpeg(std::span<const uint8_t> bytes);

/// Decodes JPEG, PNG, BMP or binary PPM and PGM, told apart by their first bytes. `name` appears in messages.
/// Errors: input_error where the bytes are truncated, damaged or of another type.
Image decode_image(std::span<const uint8_t> bytes, const std::string& name);

/// The whole of a JPEG, as data/jpeg.h decodes it.
Image decode_jpeg(std::span<const uint8_t> bytes, const std::string& name);

/// PNG by libspng, which verifies the checksums of the chunks that make the pixels. Alpha is dropped. As by
/// Pillow's convert("RGB"), 16 bits of a color are cut to the upper 8, while 16-bit gray without alpha is
/// clipped: 255 for 256 and above.
Image decode_png(std::span<const uint8_t> bytes, const std::string& name);

/// Uncompressed BMP by stb_image.
Image decode_bmp(std::span<const uint8_t> bytes, const std::string& name);

/// Binary PPM (P6) and PGM (P5) of 8 bits.
Image decode_ppm(std::span<const uint8_t> bytes, const std::string& name);

}  // namespace vvtq::data
