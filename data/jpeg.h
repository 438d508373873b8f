// jpeg: pictures decoded by libjpeg-turbo with Pillow's settings: accurate integer DCT and smooth chroma
// upsampling, converted to RGB as Pillow's convert("RGB") does: gray is repeated, CMYK and YCCK are taken as
// Adobe's inverted form. Orientation tags are not applied.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "data/canvas.h"

namespace vvtq::data {

class JpegDecoder;

/// A JPEG in two steps: its size, then the pixels that are looked at.
class JpegReader {
  public:
    JpegReader();
    JpegReader(JpegReader&&) noexcept;
    JpegReader& operator=(JpegReader&&) noexcept;
    ~JpegReader();

    /// Reads the header. `bytes` must last until decode(); `name` appears in messages.
    /// Errors: input_error where the header is damaged, or its size absurd for the file.
    void open(std::span<const uint8_t> bytes, const std::string& name);
    int height() const { return height_; }
    int width() const { return width_; }

    /// Bytes that decode() takes, the canvas included.
    uint64_t memory(const Box& needed, int reduce = 1) const;
    /// Decodes at least `needed`, a box inside of the picture; to be called once. Rows above and columns
    /// beside the box skip the inverse DCT, rows below it all work; what is decoded has the pixels that
    /// decoding the whole gives. Progressive and CMYK pictures and unusual chroma samplings are decoded
    /// whole. reduce 2, 4 or 8: decodes a picture of 1/reduce the size by the inverse DCT of as many points
    /// less, whose pixels are about the means of reduce x reduce pixels. Errors: input_error where the file
    /// ends too early or is damaged within what is decoded.
    void decode(const Box& needed, Canvas& canvas, int reduce = 1);

  private:
    void require(bool good) const;
    bool has_end() const;

    std::unique_ptr<JpegDecoder> decoder_;
    std::span<const uint8_t> bytes_;
    std::string name_;
    int height_ = 0;
    int width_ = 0;
    bool in_part_ = false;  // only the needed box is decoded
    Bytes rows_;            // four decoded rows
};

}  // namespace vvtq::data
