// picture_reader: a picture in two steps, its size and then the part that is looked at, so that crops can be
// chosen in between and only their pixels decoded.
#pragma once

#include <chrono>
#include <span>
#include <string>

#include "data/jpeg.h"

namespace vvtq::data {

/// Reads one picture after another; one per thread. The memory of a picture is used again for the next.
class PictureReader {
  public:
    /// Reads a file and its header. Errors: input_error naming the file where it cannot be read, is damaged,
    /// or is of an unknown type.
    void open_file(const std::string& path);
    /// A picture that is decoded already; `image` must last until the next open or show.
    void show(const Image& image);
    /// The same of pixels (height, width, channels), channels 3 or 1 (gray); they are copied.
    void show(int height, int width, int channels, const uint8_t* pixels);

    int height() const { return height_; }
    int width() const { return width_; }

    /// The pixels of at least `needed`, which is cut to what lies inside of the picture (of a box outside of
    /// it, any pixel). To be called once a picture. Errors: input_error where they are damaged.
    const Canvas& decode(const Box& needed);
    /// All pixels. To be called once a picture, instead of decode().
    Image whole();

    /// Time spent in decoding JPEGs so far.
    std::chrono::nanoseconds jpeg_time() const { return jpeg_time_; }

  private:
    Bytes file_;
    JpegReader jpeg_;
    Image decoded_;                 // of types that are not JPEG
    const Image* shown_ = nullptr;  // null: jpeg_ has the picture
    Canvas canvas_;
    int height_ = 0;
    int width_ = 0;
    std::chrono::nanoseconds jpeg_time_{0};
};

}  // namespace vvtq::data
