// image: a decoded picture, and the decoders by file type. JPEG and PNG have readers of their own (jpeg.h,
// png.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/bytes.h"

namespace vvtq::data {

struct Canvas;

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
bool is_png(std::span<const uint8_t> bytes);
bool is_bmp(std::span<const uint8_t> bytes);
bool is_ppm(std::span<const uint8_t> bytes);

/// Throws input_error unless a file that begins with `bytes` may be JPEG, PNG, BMP or binary PPM and PGM.
void check_picture_type(std::span<const uint8_t> bytes, const std::string& name);

/// All pixels of a JPEG, PNG, BMP or binary PPM and PGM, told apart by their first bytes. `name` appears in
/// messages. Errors: input_error where the bytes are truncated, damaged or of another type.
Image decode_image(std::span<const uint8_t> bytes, const std::string& name);

struct PictureSize {
    int height = 0;
    int width = 0;
};

/// Uncompressed BMP of 1 to 32 bits, with Windows' headers. Pixels of a color that the palette lacks are
/// black. Errors of both: input_error where the file is damaged, or of a kind that Pillow refuses.
PictureSize bmp_size(std::span<const uint8_t> bytes, const std::string& name);
/// box: inside of the picture.
void decode_bmp(std::span<const uint8_t> bytes, const std::string& name, const Box& box, Canvas& canvas);

/// Binary PPM (P6) and PGM (P5) of 8 bits. Errors likewise.
PictureSize ppm_size(std::span<const uint8_t> bytes, const std::string& name);
void decode_ppm(std::span<const uint8_t> bytes, const std::string& name, const Box& box, Canvas& canvas);

}  // namespace vvtq::data
