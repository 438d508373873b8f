// picture_reader: a picture in two steps, its size and then the part that is looked at, so that crops can be
// chosen in between and only their pixels decoded.
#pragma once

#include <chrono>
#include <functional>
#include <span>
#include <string>
#include <utility>

#include "data/jpeg.h"
#include "data/memory_share.h"
#include "data/png.h"

namespace vvtq::data {

/// Reads one picture after another; one per thread. The memory of a picture is used again for the next.
class PictureReader {
  public:
    /// Reads a file and its header. Errors: input_error naming the file where it cannot be read, is damaged,
    /// or is of an unknown type; of such a file only the first bytes are read.
    void open_file(const std::string& path);
    /// The same of a part of a file: `read` fills its `size` bytes. `name` appears in messages.
    void open_with(const std::string& name, uint64_t size,
                   const std::function<void(std::span<uint8_t>)>& read);
    /// The same of a file in memory that lasts until the next open; `name` appears in messages.
    void open_bytes(std::span<const uint8_t> bytes, const std::string& name);
    /// Hands over the bytes of the file that open_file opened; nothing is open then.
    Bytes take_file() { return std::exchange(file_, {}); }
    /// A picture that is decoded already; `image` must last until the next open or show.
    void show(const Image& image);
    /// The same of pixels (height, width, channels), channels 3 or 1 (gray); they are copied.
    void show(int height, int width, int channels, const uint8_t* pixels);

    int height() const { return height_; }
    int width() const { return width_; }

    /// The pixels of at least `needed`, which is cut to what lies inside of the picture (of a box outside of
    /// it, any pixel). To be called once a picture. reduce 2, 4 or 8: of a JPEG, and of it alone, as
    /// JpegReader::decode makes them; the canvas says whether. Waits while other threads decode pictures that
    /// are large for their files, until close(); `scratch` is the memory that the caller takes until then.
    /// Errors: input_error where the pixels are damaged, or take too much memory (data/memory_share.h).
    const Canvas& decode(const Box& needed, uint64_t scratch = 0, int reduce = 1);
    /// All pixels. To be called once a picture, instead of decode().
    Image whole();
    /// Ends the use of a picture, and frees the memory of one that others may wait for. open calls it too.
    void close();
    /// Whether close() will free memory.
    bool is_large() const { return share_.held(); }

    /// Calls close() at the end of its scope.
    class Closer {
      public:
        explicit Closer(PictureReader& reader) : reader_(reader) {}
        Closer(const Closer&) = delete;
        Closer& operator=(const Closer&) = delete;
        ~Closer() { reader_.close(); }

      private:
        PictureReader& reader_;
    };

    /// Time spent in decoding JPEGs so far.
    std::chrono::nanoseconds jpeg_time() const { return jpeg_time_; }

  private:
    enum class Type { image, jpeg, png, bmp, ppm };

    Bytes file_;
    std::span<const uint8_t> bytes_;  // of the open file
    std::string name_;
    Type type_ = Type::image;
    JpegReader jpeg_;
    PngReader png_;
    Image decoded_;
    const Image* shown_ = nullptr;  // of Type::image
    Canvas canvas_;
    int height_ = 0;
    int width_ = 0;
    std::chrono::nanoseconds jpeg_time_{0};
    MemoryShare share_;
};

}  // namespace vvtq::data
