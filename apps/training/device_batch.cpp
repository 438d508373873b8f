#include "apps/training/device_batch.h"

#include <algorithm>
#include <cstring>

#include "engine/kernels.h"
#include "engine/threads.h"

namespace vvtq::apps {
namespace {

/// A copy by all threads: page-locked memory takes more than one core can write.
void copy_bytes(const void* from, void* to, size_t bytes) {
    constexpr size_t kPiece = size_t{1} << 20;
    const auto pieces = static_cast<int64_t>((bytes + kPiece - 1) / kPiece);
    engine::parallel_for(pieces, [&](int64_t i) {
        const size_t begin = static_cast<size_t>(i) * kPiece;
        std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin,
                    std::min(kPiece, bytes - begin));
    });
}

}  // namespace

DeviceBatch::DeviceBatch(engine::Device device, int64_t size, int64_t image_size, int64_t classes, bool soft)
    : most_(size),
      image_size_(image_size),
      classes_(classes),
      pixels_({size, 3, image_size, image_size}, engine::DType::u8, device),
      labels_({size}, engine::DType::i32, device),
      places_(labels_.like()),
      to_pixels_(engine::upload_to(pixels_)),
      to_labels_(engine::upload_to(labels_)),
      to_places_(engine::upload_to(places_)) {
    if (!soft) return;
    soft_ = nn::Tensor({size, classes}, engine::DType::f32, device);
    to_soft_ = engine::upload_to(soft_);
}

void DeviceBatch::load(const data::Batch& batch) {
    VVTQ_CHECK(batch.size > 0 && batch.size <= most_ && batch.image_size == image_size_ &&
                   batch.pixels.size() * static_cast<size_t>(most_) ==
                       pixels_.bytes() * static_cast<size_t>(batch.size),
               "batch of ", batch.size, " pictures of ", batch.image_size, " for ", pixels_.shape().str());
    size_ = batch.size;
    if (pixels_.device() != engine::Device::cpu &&
        batch.pixels.get_allocator().device() == pixels_.device()) {
        to_pixels_->send_from(batch.pixels.data(), batch.pixels.size());
    } else {
        copy_bytes(batch.pixels.data(), to_pixels_->host(), batch.pixels.size());
        to_pixels_->send();
    }
    auto* places = static_cast<int32_t*>(to_places_->host());
    for (size_t i = 0; i < static_cast<size_t>(size_); ++i) {
        places[i] = static_cast<int32_t>(batch.places.empty() ? static_cast<int64_t>(i) : batch.places[i]);
    }
    to_places_->send();
    if (!batch.targets.empty()) {
        auto* labels = static_cast<int32_t*>(to_labels_->host());
        for (size_t i = 0; i < batch.targets.size(); ++i) {
            VVTQ_CHECK(batch.targets[i] >= 0 && batch.targets[i] < classes_, "label ", batch.targets[i],
                       " of ", classes_, " classes");
            labels[i] = batch.targets[i];
        }
        to_labels_->send();
    }
    if (soft_.defined()) {
        VVTQ_CHECK(static_cast<int64_t>(batch.soft.size()) == size_ * classes_, batch.soft.size(),
                   " probabilities for ", soft_.shape().str());
        copy_bytes(batch.soft.data(), to_soft_->host(), batch.soft.size() * sizeof(float));
        to_soft_->send();
    }
}

nn::Tensor DeviceBatch::rows(const nn::Tensor& all, Part part) const {
    VVTQ_CHECK(part.of > 0 && size_ % part.of == 0, "part of a batch of ", size_, " in ", part.of);
    const int64_t count = size_ / part.of;
    return all.slice(part.index * count, (part.index + 1) * count);
}

nn::Tensor DeviceBatch::pictures(engine::DType dtype, Part part) const {
    const data::Normalization normalization;
    const nn::Tensor pixels = rows(pixels_, part), y(pixels.shape(), dtype, pixels.device());
    engine::kernels(y.device()).normalize_pixels(pixels, normalization.mean, normalization.std, y);
    return y;
}

nn::Tensor DeviceBatch::labels(Part part) const { return rows(labels_, part); }

nn::Tensor DeviceBatch::places(Part part) const { return rows(places_, part); }

nn::Tensor DeviceBatch::soft_targets(engine::DType dtype, Part part) const {
    return soft_.defined() ? rows(soft_, part).to(dtype) : nn::Tensor();
}

}  // namespace vvtq::apps
