// Binary PPM and PGM.
#include <algorithm>

#include "data/canvas.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

struct Header {
    PictureSize size;
    size_t channels = 0;
    size_t pixels_at = 0;
};

Header read_header(std::span<const uint8_t> bytes, const std::string& name) {
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
    Header header{
        {static_cast<int>(numbers[1]), static_cast<int>(numbers[0])}, bytes[1] == '6' ? 3U : 1U, at};
    const size_t pixels = static_cast<size_t>(header.size.height) * static_cast<size_t>(header.size.width);
    if (bytes.size() - at < pixels * header.channels) refuse("it ends too early");
    return header;
}

}  // namespace

PictureSize ppm_size(std::span<const uint8_t> bytes, const std::string& name) {
    return read_header(bytes, name).size;
}

void decode_ppm(std::span<const uint8_t> bytes, const std::string& name, const Box& box, Canvas& canvas) {
    const Header header = read_header(bytes, name);
    const size_t channels = header.channels;
    canvas.draw(box, [&](int y, uint8_t* out) {
        const size_t first =
            static_cast<size_t>(y) * static_cast<size_t>(header.size.width) + static_cast<size_t>(box.left);
        const uint8_t* in = &bytes[header.pixels_at + first * channels];
        for (int x = 0; x < box.width; ++x, in += channels, out += 4) {
            for (size_t c = 0; c < 3; ++c) out[c] = in[channels == 3 ? c : 0];
        }
    });
}

}  // namespace vvtq::data
