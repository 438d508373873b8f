// PNG by libspng, BMP by stb_image.
#include <spng.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "data/image.h"
#include "data/stb_image.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

[[noreturn]] void damaged(const std::string& name, const char* type, const char* reason) {
    engine::input_error("picture '", printable(name), "' is a truncated or damaged ", type, " (", reason,
                        "): replace or remove the file");
}

uint32_t little_endian(const uint8_t* at, int size) {
    uint32_t value = 0;
    for (int i = size - 1; i >= 0; --i) value = value << 8 | at[i];
    return value;
}

/// The chunks that make the pixels. Others may be large, inflate without end, or break rules that do not
/// matter here.
Bytes without_ancillary_chunks(std::span<const uint8_t> bytes, const std::string& name) {
    constexpr size_t kSignature = 8, kAround = 12;  // around a chunk's content: length, type, checksum
    constexpr uint8_t kAncillary = 0x20;            // bit of the type's first letter: it is small
    size_t at = std::min(kSignature, bytes.size());
    Bytes kept(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
    for (bool end = false; !end;) {
        if (bytes.size() - at < kAround) damaged(name, "PNG", "it ends too early");
        const auto chunk = bytes.subspan(at);
        const size_t length =
            size_t{chunk[0]} << 24 | size_t{chunk[1]} << 16 | size_t{chunk[2]} << 8 | chunk[3];
        if (length > chunk.size() - kAround) damaged(name, "PNG", "it ends too early");
        end = std::string_view(reinterpret_cast<const char*>(&chunk[4]), 4) == "IEND";
        const auto next = static_cast<std::ptrdiff_t>(kAround + length);
        if ((chunk[4] & kAncillary) == 0) kept.insert(kept.end(), chunk.begin(), chunk.begin() + next);
        at += kAround + length;
    }
    return kept;
}

}  // namespace

Image decode_png(std::span<const uint8_t> bytes, const std::string& name) {
    const Bytes file = without_ancillary_chunks(bytes, name);
    const std::unique_ptr<spng_ctx, void (*)(spng_ctx*)> png(spng_ctx_new(0), spng_ctx_free);
    const auto must = [&](int status) {
        if (status != SPNG_OK) damaged(name, "PNG", spng_strerror(status));
    };
    spng_ihdr header{};
    must(spng_set_png_buffer(png.get(), file.data(), file.size()));
    must(spng_get_ihdr(png.get(), &header));
    constexpr uint64_t kMostInflated = 1032;  // bytes that deflate makes of one
    check_picture_size(header.height, header.width, bytes.size(), name);
    size_t raw = 0;
    must(spng_decoded_image_size(png.get(), SPNG_FMT_RAW, &raw));
    if (raw > kMostInflated * bytes.size()) damaged(name, "PNG", "it ends too early");
    Image image{static_cast<int>(header.height), static_cast<int>(header.width), {}};
    image.rgb.resize(size_t{header.height} * header.width * 3);
    if (header.bit_depth == 16 && header.color_type == SPNG_COLOR_TYPE_GRAYSCALE) {
        // Pillow keeps 16-bit gray as it is, and clips where it converts to RGB.
        std::vector<uint16_t> gray(image.rgb.size() / 3);
        must(spng_decode_image(png.get(), gray.data(), gray.size() * sizeof gray[0], SPNG_FMT_PNG, 0));
        for (size_t i = 0; i < image.rgb.size(); ++i) {
            image.rgb[i] = static_cast<uint8_t>(std::min<int>(gray[i / 3], 255));
        }
    } else {
        must(spng_decode_image(png.get(), image.rgb.data(), image.rgb.size(), SPNG_FMT_RGB8, 0));
    }
    must(spng_decode_chunks(png.get()));
    return image;
}

// stb_image reads past truncated ends with zeros, so the checks here come first.
Image decode_bmp(std::span<const uint8_t> bytes, const std::string& name) {
    constexpr size_t kHeaders = 14 + 40;
    if (bytes.size() < kHeaders || bytes.size() > INT32_MAX) damaged(name, "BMP", "it ends too early");
    const uint32_t pixels_at = little_endian(&bytes[10], 4);
    const uint32_t header_size = little_endian(&bytes[14], 4);
    if (header_size < 40) damaged(name, "BMP", "a header from before Windows 3");
    const int64_t width = static_cast<int32_t>(little_endian(&bytes[18], 4));
    const int64_t height = std::abs(int64_t{static_cast<int32_t>(little_endian(&bytes[22], 4))});
    const int64_t bits = little_endian(&bytes[28], 2);
    check_picture_size(height, width, bytes.size(), name);
    const int64_t needed = int64_t{pixels_at} + (width * bits + 31) / 32 * 4 * height;
    if (pixels_at < kHeaders || bits == 0 || needed > static_cast<int64_t>(bytes.size())) {
        damaged(name, "BMP", "it ends too early");
    }
    int decoded_width = 0, decoded_height = 0, channels = 0;
    const std::unique_ptr<uint8_t, void (*)(void*)> pixels(
        stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &decoded_width, &decoded_height,
                              &channels, 3),
        stbi_image_free);
    if (pixels == nullptr) damaged(name, "BMP", stbi_failure_reason());
    return {decoded_height, decoded_width, Bytes(pixels.get(), pixels.get() + height * width * 3)};
}

}  // namespace vvtq::data
