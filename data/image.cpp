#include "data/image.h"

#include <algorithm>
#include <array>

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
    return starts_with(bytes, std::array<uint8_t, 2>{0xFF, 0xD8});
}

Image decode_image(std::span<const uint8_t> bytes, const std::string& name) {
    if (is_jpeg(bytes)) return decode_jpeg(bytes, name);
    if (starts_with(bytes, std::array<uint8_t, 4>{0x89, 'P', 'N', 'G'})) return decode_png(bytes, name);
    if (starts_with(bytes, std::array<uint8_t, 2>{'B', 'M'})) return decode_bmp(bytes, name);
    if (starts_with(bytes, std::array<uint8_t, 2>{'P', '6'}) ||
        starts_with(bytes, std::array<uint8_t, 2>{'P', '5'})) {
        return decode_ppm(bytes, name);
    }
    engine::input_error("picture '", printable(name),
                        bytes.empty() ? "' is empty" : "' is not JPEG, PNG, BMP or binary PPM",
                        ": replace or remove the file");
}

Image decode_ppm(std::span<const uint8_t> bytes, const std::string& name) {
    const auto refuse = [&](const char* reason) {
        engine::input_error("picture '", printable(name), "' is a truncated or damaged PPM (", reason,
                            "): replace or remove the file");
    };
    size_t at = 2;
    int64_t numbers[3];  // width, height, largest value
    for (int64_t& number : numbers) {
        const auto space = [&] { return bytes[at] == ' ' || (bytes[at] >= '\t' && bytes[at] <= '\r'); };
        while (at < bytes.size() && (space() || bytes[at] == '#')) {
            if (bytes[at] == '#') {
                while (at < bytes.size() && bytes[at] != '\n') ++at;
            } else {
                ++at;
            }
        }
        number = 0;
        const size_t begin = at;
        for (; at < bytes.size() && bytes[at] >= '0' && bytes[at] <= '9' && number < INT32_MAX; ++at) {
            number = number * 10 + bytes[at] - '0';
        }
        if (at == begin || at == bytes.size() || !space()) refuse("bad header");
    }
    ++at;
    check_picture_size(numbers[1], numbers[0], bytes.size(), name);
    if (numbers[2] != 255) refuse("not of 8 bits");
    const size_t channels = bytes[1] == '6' ? 3 : 1;
    Image image{static_cast<int>(numbers[1]), static_cast<int>(numbers[0]), {}};
    const size_t pixels = static_cast<size_t>(image.height) * static_cast<size_t>(image.width);
    if (bytes.size() - at < pixels * channels) refuse("it ends too early");
    image.rgb.resize(pixels * 3);
    for (size_t i = 0; i < pixels * 3; ++i) image.rgb[i] = bytes[at + (channels == 3 ? i : i / 3)];
    return image;
}

}  // namespace vvtq::data
