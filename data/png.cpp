#include "data/png.h"

#include <spng.h>

#include <algorithm>
#include <string_view>

#include "engine/check.h"

namespace vvtq::data {
namespace {

uint32_t big_endian(const uint8_t* at) {
    return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | at[3];
}

void put_big_endian(Bytes& to, uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) to.push_back(static_cast<uint8_t>(value >> shift));
}

}  // namespace

void PngReader::damaged(const char* reason) const {
    engine::input_error("picture '", printable(name_), "' is a truncated or damaged PNG (", reason,
                        "): replace or remove the file");
}

void PngReader::require(int status) const {
    if (status != SPNG_OK) damaged(spng_strerror(status));
}

// Other chunks may be large, inflate without end, or break rules that do not matter here. A sound palette is
// filled up with black: libspng leaves colors beyond its end as they are in memory.
void PngReader::keep_pixel_chunks(std::span<const uint8_t> bytes) {
    constexpr size_t kSignature = 8, kAround = 12;  // around a chunk's content: length, type, checksum
    constexpr uint8_t kAncillary = 0x20;            // bit of the type's first letter: it is small
    constexpr size_t kPalette = 256 * 3, kBitDepthAt = kSignature + 8 + 8;
    size_t at = std::min(kSignature, bytes.size());
    file_.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
    for (bool end = false; !end;) {
        if (bytes.size() - at < kAround) damaged("it ends too early");
        const auto rest = bytes.subspan(at);
        const size_t length = big_endian(rest.data());
        if (length > rest.size() - kAround) damaged("it ends too early");
        const auto chunk = rest.first(kAround + length);
        const std::string_view type(reinterpret_cast<const char*>(&chunk[4]), 4);
        const bool whole = checksum(chunk.subspan(4, 4 + length)) == big_endian(&chunk[8 + length]);
        if (type == "PLTE" && whole && length % 3 == 0 && length > 0 && length < kPalette &&
            bytes.size() > kBitDepthAt) {
            const size_t colors =
                std::min<size_t>(kPalette, size_t{3} << std::min<int>(bytes[kBitDepthAt], 8));
            const size_t begin = file_.size();
            put_big_endian(file_, static_cast<uint32_t>(std::max(colors, length)));
            file_.insert(file_.end(), chunk.begin() + 4,
                         chunk.begin() + 8 + static_cast<std::ptrdiff_t>(length));
            file_.resize(begin + 8 + std::max(colors, length));
            put_big_endian(file_, checksum(std::span(file_).subspan(begin + 4)));
        } else if ((chunk[4] & kAncillary) == 0) {
            file_.insert(file_.end(), chunk.begin(), chunk.end());
        }
        end = type == "IEND";
        at += chunk.size();
    }
}

void PngReader::open(std::span<const uint8_t> bytes, const std::string& name) {
    name_ = name;
    keep_pixel_chunks(bytes);
    png_ = {spng_ctx_new(0), spng_ctx_free};
    spng_ihdr header{};
    require(spng_set_png_buffer(png_.get(), file_.data(), file_.size()));
    require(spng_get_ihdr(png_.get(), &header));
    constexpr uint64_t kMostInflated = 1032;  // bytes that deflate makes of one
    check_picture_size(header.height, header.width, bytes.size(), name);
    size_t raw = 0;
    require(spng_decoded_image_size(png_.get(), SPNG_FMT_RAW, &raw));
    if (raw > kMostInflated * bytes.size()) damaged("it ends too early");
    height_ = static_cast<int>(header.height);
    width_ = static_cast<int>(header.width);
    row_bytes_ = raw / header.height;
    gray16_ = header.bit_depth == 16 && header.color_type == SPNG_COLOR_TYPE_GRAYSCALE;
    passes_ = header.interlace_method != SPNG_INTERLACE_NONE;
}

uint64_t PngReader::memory(const Box& needed) const {
    const uint64_t width = static_cast<uint64_t>(width_), pixels = width * static_cast<uint64_t>(height_);
    const uint64_t whole = passes_ ? pixels * (gray16_ ? 2 : 4) : 0;
    return Canvas::memory(needed) + whole + 3 * row_bytes_ + 24 * width + file_.size();
}

void PngReader::decode(const Box& needed, Canvas& canvas) {
    VVTQ_CHECK(png_ != nullptr && needed.top >= 0 && needed.left >= 0 &&
                   needed.height <= height_ - needed.top && needed.width <= width_ - needed.left,
               needed.height, " x ", needed.width, " at ", needed.top, ", ", needed.left, " of ", height_,
               " x ", width_);
    const int format = gray16_ ? SPNG_FMT_PNG : SPNG_FMT_RGBA8;
    const size_t pixel_bytes = gray16_ ? 2 : 4, row_bytes = pixel_bytes * static_cast<size_t>(width_);
    // Rows of a picture in passes come in parts, so all of them are kept.
    Bytes rows(row_bytes * static_cast<size_t>(passes_ ? height_ : 1));
    const auto take_row = [&](int y, uint8_t* out) {
        uint8_t* row = rows.data() + (passes_ ? row_bytes * static_cast<size_t>(y) : 0);
        if (!passes_) {
            const int status = spng_decode_row(png_.get(), row, row_bytes);
            if (status != SPNG_EOI || y != height_ - 1) require(status);
        }
        if (out == nullptr) return;
        const uint8_t* in = row + pixel_bytes * static_cast<size_t>(needed.left);
        for (int x = 0; x < needed.width; ++x, in += pixel_bytes, out += 4) {
            if (gray16_) {
                // Pillow keeps 16-bit gray as it is, and clips where it converts to RGB.
                uint16_t gray = 0;
                std::copy(in, in + 2, reinterpret_cast<uint8_t*>(&gray));
                std::fill(out, out + 3, static_cast<uint8_t>(std::min<int>(gray, 255)));
            } else {
                std::copy(in, in + 3, out);
            }
        }
    };
    if (passes_) {
        require(spng_decode_image(png_.get(), rows.data(), rows.size(), format, 0));
    } else {
        require(spng_decode_image(png_.get(), nullptr, 0, format, SPNG_DECODE_PROGRESSIVE));
        for (int y = 0; y < needed.top; ++y) take_row(y, nullptr);
    }
    canvas.draw(needed, take_row);
    for (int y = needed.top + needed.height; !passes_ && y < height_; ++y) take_row(y, nullptr);
    require(spng_decode_chunks(png_.get()));
    png_.reset();
}

}  // namespace vvtq::data
