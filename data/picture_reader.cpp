#include "data/picture_reader.h"

#include <algorithm>

namespace vvtq::data {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

void PictureReader::open_file(const std::string& path) {
    read_file(path, "restore the picture, or remove it from its folder", file_);
    if (!is_jpeg(file_)) {
        decoded_ = decode_image(file_, path);
        show(decoded_);
        return;
    }
    const auto began = Clock::now();
    shown_ = nullptr;
    jpeg_.open(file_, path);
    height_ = jpeg_.height();
    width_ = jpeg_.width();
    jpeg_time_ += Clock::now() - began;
}

void PictureReader::show(const Image& image) {
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

const Canvas& PictureReader::decode(const Box& needed) {
    Box box{std::clamp(needed.top, 0, height_ - 1), std::clamp(needed.left, 0, width_ - 1), 0, 0};
    box.height = std::clamp(needed.top + needed.height, box.top + 1, height_) - box.top;
    box.width = std::clamp(needed.left + needed.width, box.left + 1, width_) - box.left;
    if (shown_ != nullptr) {
        paint(*shown_, box, canvas_);
        return canvas_;
    }
    const auto began = Clock::now();
    jpeg_.decode(box, canvas_);
    jpeg_time_ += Clock::now() - began;
    return canvas_;
}

Image PictureReader::whole() {
    if (shown_ != nullptr) return *shown_;
    Image image{height_, width_, {}};
    const Box all{0, 0, height_, width_};
    copy_out(decode(all), all, image.rgb);
    return image;
}

}  // namespace vvtq::data
