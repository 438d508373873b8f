#include "data/image.h"

#include <algorithm>
#include <array>

#include "data/picture_reader.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

template <size_t N>
bool starts_with(std::span<const uint8_t> bytes, const std::array<uint8_t, N>& magic) {
    return bytes.size() >= N && std::equal(magic.begin(), magic.end(), bytes.begin());
}

}  // namespace

void check_picture_size(int64_t height, int64_t width, size_t file_bytes, const std::string& name) {
    // No encoder of these formats spends less than a bit on 64 pixels (JPEG) or a byte on 1032 (PNG's
    // deflate, eight pixels to a byte at one bit each).
    constexpr int64_t kPixelsPerByte = 8 * 1032;
    const bool possible = height > 0 && width > 0 && height <= kLargestPicture / width &&
                          height * width / kPixelsPerByte <= static_cast<int64_t>(file_bytes);
    if (!possible) {
        engine::input_error("picture '", printable(name), "' claims ", height, " x ", width,
                            " pixels in a file of ", file_bytes, " bytes: replace or remove the file");
    }
}

bool is_jpeg(std::span<const uint8_t> bytes) {
    return starts_with(bytes, std::array<uint8_t, 3>{0xFF, 0xD8, 0xFF});
}

bool is_png(std::span<const uint8_t> bytes) {
    return starts_with(bytes, std::array<uint8_t, 4>{0x89, 'P', 'N', 'G'});
}

bool is_bmp(std::span<const uint8_t> bytes) { return starts_with(bytes, std::array<uint8_t, 2>{'B', 'M'}); }

bool is_ppm(std::span<const uint8_t> bytes) {
    return starts_with(bytes, std::array<uint8_t, 2>{'P', '6'}) ||
           starts_with(bytes, std::array<uint8_t, 2>{'P', '5'});
}

void check_picture_type(std::span<const uint8_t> bytes, const std::string& name) {
    if (is_jpeg(bytes) || is_png(bytes) || is_bmp(bytes) || is_ppm(bytes)) return;
    engine::input_error("picture '", printable(name),
                        bytes.empty() ? "' is empty" : "' is not JPEG, PNG, BMP or binary PPM",
                        ": replace or remove the file");
}

Image decode_image(std::span<const uint8_t> bytes, const std::string& name) {
    PictureReader reader;
    reader.open_bytes(bytes, name);
    return reader.whole();
}

}  // namespace vvtq::data
