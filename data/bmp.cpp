// BMP. What is taken and what is refused follows Pillow.
#include <algorithm>
#include <array>

#include "data/canvas.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

[[noreturn]] void damaged(const std::string& name, const char* reason) {
    engine::input_error("picture '", printable(name), "' is a truncated or damaged BMP (", reason,
                        "): replace or remove the file");
}

uint32_t little_endian(const uint8_t* at, int size) {
    uint32_t value = 0;
    for (int i = size - 1; i >= 0; --i) value = value << 8 | at[i];
    return value;
}

struct Header {
    int height = 0, width = 0;
    bool downwards = false;  // rows begin at the top
    int bits = 0;
    size_t pixels_at = 0, row_bytes = 0;
    std::array<int, 3> byte{2, 1, 0};                   // of 24 and 32 bits: where red, green, blue lie
    int green_bits = 5;                                 // of 16 bits
    std::array<std::array<uint8_t, 3>, 256> palette{};  // of 8 bits and fewer; black where the file has none
};

// Of a palette whose entries are the grays of their numbers Pillow takes the numbers themselves, and gives up
// where they are not whole bytes.
void read_palette(std::span<const uint8_t> bytes, size_t at, uint32_t colors, const std::string& name,
                  Header& header) {
    constexpr size_t kEntry = 4;  // blue, green, red, unused
    bool numbers = colors > 2;
    for (size_t i = 0; i < colors && at + kEntry <= bytes.size(); ++i, at += kEntry) {
        header.palette[i] = {bytes[at + 2], bytes[at + 1], bytes[at]};
        const auto gray = static_cast<uint8_t>(i);
        numbers = numbers && header.palette[i] == std::array<uint8_t, 3>{gray, gray, gray};
    }
    if (numbers && header.bits < 8) damaged(name, "a palette that is none");
    for (size_t i = colors; numbers && i < header.palette.size(); ++i) {
        header.palette[i].fill(static_cast<uint8_t>(i));
    }
}

void read_masks(std::span<const uint8_t> bytes, uint32_t header_size, const std::string& name,
                Header& header) {
    using Masks = std::array<uint32_t, 4>;
    constexpr size_t kMasksAt = 14 + 40;  // behind a short header, in a longer one
    if (bytes.size() < kMasksAt + sizeof(Masks)) damaged(name, "it ends too early");
    Masks masks{};
    for (size_t i = 0; i < (header_size >= 56 ? 4U : 3U); ++i)
        masks[i] = little_endian(&bytes[kMasksAt + 4 * i], 4);
    constexpr Masks kFiveSixFive{0xF800, 0x7E0, 0x1F, 0}, kFives{0x7C00, 0x3E0, 0x1F, 0};
    const Masks colors{masks[0], masks[1], masks[2], 0};
    if (header.bits == 16 && (colors == kFiveSixFive || colors == kFives)) {
        header.green_bits = colors == kFives ? 5 : 6;
        return;
    }
    if (header.bits == 24 && colors == Masks{0xFF0000, 0xFF00, 0xFF, 0}) return;
    struct Layout {
        Masks masks;
        std::array<int, 3> byte;
    };
    constexpr Layout kLayouts[] = {{{0xFF0000, 0xFF00, 0xFF, 0}, {2, 1, 0}},
                                   {{0xFF0000, 0xFF00, 0xFF, 0xFF000000}, {2, 1, 0}},
                                   {{0, 0, 0, 0}, {2, 1, 0}},
                                   {{0xFF, 0xFF00, 0xFF0000, 0xFF000000}, {0, 1, 2}},
                                   {{0xFF000000, 0xFF0000, 0xFF00, 0}, {3, 2, 1}},
                                   {{0xFF000000, 0xFF0000, 0xFF00, 0xFF}, {3, 2, 1}},
                                   {{0xFF000000, 0xFF00, 0xFF, 0}, {3, 1, 0}},
                                   {{0xFF000000, 0xFF00, 0xFF, 0xFF0000}, {3, 1, 0}}};
    const auto* found = std::find_if(std::begin(kLayouts), std::end(kLayouts),
                                     [&](const Layout& each) { return each.masks == masks; });
    if (header.bits != 32 || found == std::end(kLayouts)) damaged(name, "an unknown order of colors");
    header.byte = found->byte;
}

Header read_header(std::span<const uint8_t> bytes, const std::string& name) {
    constexpr size_t kHeaders = 14 + 40;
    constexpr std::array<uint32_t, 6> kSizes{40, 52, 56, 64, 108, 124};
    if (bytes.size() < kHeaders) damaged(name, "it ends too early");
    const uint32_t size = little_endian(&bytes[14], 4);
    if (std::find(kSizes.begin(), kSizes.end(), size) == kSizes.end())
        damaged(name, "a header of unknown size");
    Header header;
    const int64_t width = little_endian(&bytes[18], 4);
    int64_t height = little_endian(&bytes[22], 4);
    header.downwards = bytes[25] == 0xFF;  // a negative height
    if (header.downwards) height = (int64_t{1} << 32) - height;
    header.bits = static_cast<int>(little_endian(&bytes[28], 2));
    check_picture_size(height, width, bytes.size(), name);
    header.height = static_cast<int>(height);
    header.width = static_cast<int>(width);
    const bool known = header.bits == 1 || header.bits == 4 || header.bits == 8 || header.bits == 16 ||
                       header.bits == 24 || header.bits == 32;
    const uint32_t compression = little_endian(&bytes[30], 4);
    constexpr uint32_t kPlain = 0, kMasks = 3;
    if (!known) damaged(name, "a pixel of unknown size");
    if (compression != kPlain && compression != kMasks) damaged(name, "compressed, which is not read");
    if (compression == kMasks) read_masks(bytes, size, name, header);
    header.pixels_at = little_endian(&bytes[10], 4);
    if (header.pixels_at < kHeaders) damaged(name, "its pixels lie in its header");
    if (header.bits <= 8) {
        constexpr uint32_t kMostColors = 256;
        uint32_t colors = little_endian(&bytes[46], 4);
        if (colors == 0) colors = 1U << header.bits;
        if (colors > kMostColors) damaged(name, "too many colors");
        read_palette(bytes, 14 + size, colors, name, header);
        if (header.pixels_at == 14 + size)
            header.pixels_at += size_t{4} * colors;  // forgotten by some writers
    }
    header.row_bytes = (static_cast<size_t>(width) * static_cast<size_t>(header.bits) + 31) / 32 * 4;
    if (header.pixels_at > bytes.size() ||
        (bytes.size() - header.pixels_at) / header.row_bytes < static_cast<size_t>(height)) {
        damaged(name, "it ends too early");
    }
    return header;
}

// The pixel in column x of the row at `row`.
std::array<uint8_t, 3> pixel(const Header& header, const uint8_t* row, size_t x) {
    const auto bits = static_cast<size_t>(header.bits);
    if (bits <= 8) {
        const size_t at = x * bits;
        const size_t index = row[at / 8] >> (8 - bits - at % 8) & ((1U << bits) - 1);
        return header.palette[index];
    }
    const uint8_t* at = row + x * bits / 8;
    if (bits > 16) return {at[header.byte[0]], at[header.byte[1]], at[header.byte[2]]};
    const uint32_t value = little_endian(at, 2), green = (1U << header.green_bits) - 1;
    return {static_cast<uint8_t>((value >> (5 + header.green_bits) & 31) * 255 / 31),
            static_cast<uint8_t>((value >> 5 & green) * 255 / green),
            static_cast<uint8_t>((value & 31) * 255 / 31)};
}

}  // namespace

PictureSize bmp_size(std::span<const uint8_t> bytes, const std::string& name) {
    const Header header = read_header(bytes, name);
    return {header.height, header.width};
}

void decode_bmp(std::span<const uint8_t> bytes, const std::string& name, const Box& box, Canvas& canvas) {
    const Header header = read_header(bytes, name);
    canvas.draw(box, [&](int y, uint8_t* out) {
        const int row = header.downwards ? y : header.height - 1 - y;
        const uint8_t* in = &bytes[header.pixels_at + header.row_bytes * static_cast<size_t>(row)];
        for (int x = box.left; x < box.left + box.width; ++x, out += 4) {
            const auto color = pixel(header, in, static_cast<size_t>(x));
            std::copy(color.begin(), color.end(), out);
        }
    });
}

}  // namespace vvtq::data
