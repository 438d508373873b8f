// png: pictures decoded by libspng, which verifies the checksums of the chunks that make the pixels. Alpha is
// dropped. As by Pillow's convert("RGB"), 16 bits of a color are cut to the upper 8, while 16-bit gray
// without alpha is clipped: 255 for 256 and above. Pixels of a color that the palette lacks are black.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "data/canvas.h"

struct spng_ctx;

namespace vvtq::data {

/// A PNG in two steps: its size, then the pixels that are looked at.
class PngReader {
  public:
    /// Reads the header. `name` appears in messages. Errors: input_error where it is damaged, or its size
    /// absurd for the file.
    void open(std::span<const uint8_t> bytes, const std::string& name);
    int height() const { return height_; }
    int width() const { return width_; }

    /// Bytes that decode() takes, the canvas included.
    uint64_t memory(const Box& needed) const;
    /// The pixels of `needed`, a box inside of the picture; to be called once. All of the file is decoded and
    /// checked. Errors: input_error where it ends too early or is damaged.
    void decode(const Box& needed, Canvas& canvas);

  private:
    [[noreturn]] void damaged(const char* reason) const;
    void require(int status) const;
    void keep_pixel_chunks(std::span<const uint8_t> bytes);

    std::unique_ptr<spng_ctx, void (*)(spng_ctx*)> png_{nullptr, nullptr};
    Bytes file_;  // the chunks that are looked at
    std::string name_;
    int height_ = 0;
    int width_ = 0;
    uint64_t row_bytes_ = 0;  // before decoding
    bool gray16_ = false, passes_ = false;
};

}  // namespace vvtq::data
