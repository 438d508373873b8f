#include "data/picture_reader.h"

#include <algorithm>

#include "engine/check.h"

namespace vvtq::data {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kLarge = uint64_t{64} << 20;  // bytes of a file of which one is held at a time

}  // namespace

void PictureReader::close() {
    if (!share_.held()) return;
    file_ = {};
    jpeg_ = {};
    png_ = {};
    canvas_ = {};
    share_.release();
}

void PictureReader::open_file(const std::string& path) {
    close();
    read_file(path, "restore the picture, or remove it from its folder", file_,
              [&](std::span<const uint8_t> first, uint64_t size) {
                  constexpr uint64_t kMost = uint64_t{1} << 30;
                  check_picture_type(first, path);
                  if (size > kMost) {
                      engine::input_error("picture '", printable(path), "' has ", size,
                                          " bytes, more than any that is read: scale it down, or remove it");
                  }
                  if (size > kLarge) share_.take_all();
              });
    open_bytes(file_, path);
}

void PictureReader::open_with(const std::string& name, uint64_t size,
                              const std::function<void(std::span<uint8_t>)>& read) {
    close();
    if (size > kLarge) share_.take_all();
    file_.resize(size);
    read(file_);
    open_bytes(file_, name);
}

void PictureReader::open_bytes(std::span<const uint8_t> bytes, const std::string& name) {
    if (bytes.data() != file_.data()) close();
    bytes_ = bytes;
    name_ = name;
    check_picture_type(bytes, name);
    const auto take = [&](Type type, const auto& size) {
        type_ = type;
        height_ = size.height;
        width_ = size.width;
    };
    if (is_jpeg(bytes)) {
        const auto began = Clock::now();
        jpeg_.open(bytes, name);
        take(Type::jpeg, PictureSize{jpeg_.height(), jpeg_.width()});
        jpeg_time_ += Clock::now() - began;
    } else if (is_png(bytes)) {
        png_.open(bytes, name);
        take(Type::png, PictureSize{png_.height(), png_.width()});
    } else if (is_bmp(bytes)) {
        take(Type::bmp, bmp_size(bytes, name));
    } else {
        take(Type::ppm, ppm_size(bytes, name));
    }
}

void PictureReader::show(const Image& image) {
    close();
    type_ = Type::image;
    shown_ = &image;
    height_ = image.height;
    width_ = image.width;
}

void PictureReader::show(int height, int width, int channels, const uint8_t* pixels) {
    const auto count = static_cast<size_t>(height) * static_cast<size_t>(width);
    decoded_.height = height;
    decoded_.width = width;
    if (channels == 3) {
        decoded_.rgb.assign(pixels, pixels + 3 * count);
    } else {
        decoded_.rgb.resize(3 * count);
        for (size_t i = 0; i < count; ++i) {
            for (size_t c = 0; c < 3; ++c) decoded_.rgb[3 * i + c] = pixels[i];
        }
    }
    show(decoded_);
}

const Canvas& PictureReader::decode(const Box& needed, uint64_t scratch, int reduce) {
    Box box{std::clamp(needed.top, 0, height_ - 1), std::clamp(needed.left, 0, width_ - 1), 0, 0};
    box.height = std::clamp(needed.top + needed.height, box.top + 1, height_) - box.top;
    box.width = std::clamp(needed.left + needed.width, box.left + 1, width_) - box.left;
    const auto take = [&](uint64_t memory) { share_.take(memory + scratch, bytes_.size(), name_); };
    switch (type_) {
        case Type::image:
            paint(*shown_, box, canvas_);
            break;
        case Type::jpeg: {
            take(jpeg_.memory(box, reduce));
            const auto began = Clock::now();
            jpeg_.decode(box, canvas_, reduce);
            jpeg_time_ += Clock::now() - began;
            break;
        }
        case Type::png:
            take(png_.memory(box));
            png_.decode(box, canvas_);
            break;
        case Type::bmp:
            take(Canvas::memory(box));
            decode_bmp(bytes_, name_, box, canvas_);
            break;
        case Type::ppm:
            take(Canvas::memory(box));
            decode_ppm(bytes_, name_, box, canvas_);
    }
    return canvas_;
}

Image PictureReader::whole() {
    if (type_ == Type::image) return *shown_;
    const Box all{0, 0, height_, width_};
    Image image{height_, width_, {}};
    copy_out(decode(all, 3 * static_cast<uint64_t>(height_) * static_cast<uint64_t>(width_)), all, image.rgb);
    return image;
}

}  // namespace vvtq::data
