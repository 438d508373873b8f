// device_batch: a batch of pictures and what they should be, at fixed places of a device.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "data/loader.h"
#include "engine/device.h"
#include "nn/module.h"

namespace vvtq::apps {

/// Batches are copied beside the kernels that still work on the one before; kernels enqueued after `load` see
/// the new one, always at the same addresses.
class DeviceBatch {
  public:
    /// Up to `size` pictures (3, S, S), S = image_size, with distributions over `classes` where `soft`.
    DeviceBatch(engine::Device device, int64_t size, int64_t image_size, int64_t classes, bool soft);

    /// Enqueues the copy of a batch of at most `size` pictures. Pixels that were made for this device
    /// (LoaderOptions::device) are copied from where they lie: they must stay there until `wait` has
    /// returned. Throws where a label is not within 0..classes-1.
    void load(const data::Batch& batch);
    /// Waits until the batch has been read.
    void wait() { to_pixels_->wait(); }

    int64_t size() const { return size_; }
    /// One of `of` equal parts of the latest batch: b = B / of neighbouring pictures.
    struct Part {
        int64_t index = 0, of = 1;
    };
    /// Its pictures, normalized: (b, 3, S, S) of `dtype`.
    nn::Tensor pictures(engine::DType dtype, Part part) const;
    nn::Tensor pictures(engine::DType dtype) const { return pictures(dtype, {}); }
    /// Labels (b) i32.
    nn::Tensor labels(Part part) const;
    nn::Tensor labels() const { return labels({}); }
    /// The place of each picture in the step's batch: (b) i32.
    nn::Tensor places(Part part) const;
    /// Distributions (b, classes) of `dtype`; undefined where none are carried.
    nn::Tensor soft_targets(engine::DType dtype, Part part) const;
    nn::Tensor soft_targets(engine::DType dtype) const { return soft_targets(dtype, {}); }

  private:
    /// Rows of a tensor of the batch.
    nn::Tensor rows(const nn::Tensor& all, Part part) const;

    int64_t most_, image_size_, classes_;
    int64_t size_ = 0;  // of the latest batch
    nn::Tensor pixels_, labels_, places_, soft_;
    std::unique_ptr<engine::Upload> to_pixels_, to_labels_, to_places_, to_soft_;
};

}  // namespace vvtq::apps
