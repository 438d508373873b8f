// stb_image decodes; it reads past truncated ends with zeros and inflates without a limit, so the checks here
// come first.
#include <zlib.h>

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

uint32_t big_endian(const uint8_t* at) {
    return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | uint32_t{at[3]};
}

uint32_t little_endian(const uint8_t* at, int size) {
    uint32_t value = 0;
    for (int i = size - 1; i >= 0; --i) value = value << 8 | at[i];
    return value;
}

Image decode_by_stb(std::span<const uint8_t> bytes, const std::string& name, const char* type) {
    int width = 0;
    int height = 0;
    int channels = 0;
    const std::unique_ptr<uint8_t, void (*)(void*)> pixels(
        stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height, &channels, 3),
        stbi_image_free);
    if (pixels == nullptr) damaged(name, type, stbi_failure_reason());
    Image image{height, width, {}};
    image.rgb.assign(pixels.get(),
                     pixels.get() + static_cast<size_t>(height) * static_cast<size_t>(width) * 3);
    return image;
}

// Feeds the IDAT chunks through zlib into a scratch buffer, to know that they end well and how much they
// hold.
class InflatedSize {
  public:
    InflatedSize() { good_ = inflateInit(&stream_) == Z_OK; }
    InflatedSize(const InflatedSize&) = delete;
    InflatedSize& operator=(const InflatedSize&) = delete;
    ~InflatedSize() { inflateEnd(&stream_); }

    // False: the data are damaged or larger than `most`.
    bool feed(std::span<const uint8_t> chunk, uint64_t most) {
        stream_.next_in = const_cast<uint8_t*>(chunk.data());
        stream_.avail_in = static_cast<uInt>(chunk.size());
        while (good_ && !ended_ && (stream_.avail_in > 0 || stream_.avail_out == 0)) {
            stream_.next_out = scratch_.data();
            stream_.avail_out = static_cast<uInt>(scratch_.size());
            const int status = inflate(&stream_, Z_NO_FLUSH);
            ended_ = status == Z_STREAM_END;
            good_ = (ended_ || status == Z_OK || (status == Z_BUF_ERROR && stream_.avail_in == 0)) &&
                    stream_.total_out <= most;
        }
        return good_;
    }
    bool ended() const { return ended_; }
    uint64_t size() const { return stream_.total_out; }

  private:
    z_stream stream_{};
    Bytes scratch_ = Bytes(1 << 15);
    bool good_ = false;
    bool ended_ = false;
};

struct PngHeader {
    int64_t width, height;
    int depth, color, interlace;

    int64_t channels() const { return color == 2 ? 3 : color == 4 ? 2 : color == 6 ? 4 : 1; }
    // Bytes of filtered rows: each row of each pass has one filter byte.
    uint64_t raw_size() const {
        const auto pass = [&](int64_t x0, int64_t dx, int64_t y0, int64_t dy) -> int64_t {
            const int64_t columns = (width - x0 + dx - 1) / dx;
            const int64_t rows = (height - y0 + dy - 1) / dy;
            return columns > 0 && rows > 0 ? rows * (1 + (columns * channels() * depth + 7) / 8) : 0;
        };
        if (interlace == 0) return static_cast<uint64_t>(pass(0, 1, 0, 1));
        return static_cast<uint64_t>(pass(0, 8, 0, 8) + pass(4, 8, 0, 8) + pass(0, 4, 4, 8) +
                                     pass(2, 4, 0, 4) + pass(0, 2, 2, 4) + pass(1, 2, 0, 2) +
                                     pass(0, 1, 1, 2));
    }
};

// Lengths and checksums of every chunk, IHDR first, IEND last, and pixel data of exactly the size IHDR asks
// for.
PngHeader check_png(std::span<const uint8_t> bytes, const std::string& name) {
    constexpr size_t kSignature = 8, kAround = 12;  // around a chunk's data: length, type, checksum
    constexpr uint32_t kHeader = 0x49484452, kData = 0x49444154, kEnd = 0x49454E44;
    PngHeader header{};
    InflatedSize inflated;
    size_t at = kSignature;
    bool first = true;
    for (uint32_t type = 0; type != kEnd; first = false) {
        if (bytes.size() < at + kAround) damaged(name, "PNG", "it ends too early");
        const uint32_t length = big_endian(&bytes[at]);
        type = big_endian(&bytes[at + 4]);
        if (length > bytes.size() - at - kAround) damaged(name, "PNG", "it ends too early");
        const uint8_t* content = bytes.data() + at + 8;
        if (crc32(0, content - 4, length + 4) != big_endian(content + length)) {
            damaged(name, "PNG", "wrong checksum");
        }
        if (first) {
            if (type != kHeader || length != 13) damaged(name, "PNG", "no header");
            header = {big_endian(content), big_endian(content + 4), content[8], content[9], content[12]};
            check_picture_size(header.height, header.width, bytes.size(), name);
        } else if (type == kData && !inflated.feed({content, length}, header.raw_size())) {
            damaged(name, "PNG", "bad pixel data");
        }
        at += kAround + length;
    }
    if (!inflated.ended() || inflated.size() != header.raw_size()) damaged(name, "PNG", "pixels are missing");
    return header;
}

}  // namespace

Image decode_png(std::span<const uint8_t> bytes, const std::string& name) {
    if (bytes.size() > INT32_MAX) damaged(name, "PNG", "larger than 2 GiB");
    const PngHeader header = check_png(bytes, name);
    constexpr int kGray = 0;
    if (header.depth != 16 || header.color != kGray) return decode_by_stb(bytes, name, "PNG");
    // Pillow keeps 16-bit gray as it is, and clips where it converts to RGB.
    int width = 0;
    int height = 0;
    int channels = 0;
    const std::unique_ptr<uint16_t, void (*)(void*)> gray(
        stbi_load_16_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height, &channels, 1),
        stbi_image_free);
    if (gray == nullptr) damaged(name, "PNG", stbi_failure_reason());
    Image image{height, width, {}};
    image.rgb.resize(static_cast<size_t>(height) * static_cast<size_t>(width) * 3);
    for (size_t i = 0; i < image.rgb.size(); ++i) {
        image.rgb[i] = static_cast<uint8_t>(std::min<int>(gray.get()[i / 3], 255));
    }
    return image;
}

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
    return decode_by_stb(bytes, name, "BMP");
}

}  // namespace vvtq::data
