#include "apps/training/training_data.h"

#include <algorithm>

#include "apps/training/device_batch.h"
#include "engine/check.h"

namespace vvtq::apps {

uint64_t TrainingData::labels_fingerprint() const { return labels ? labels->content_hash() : 0; }

nn::Tensor calibration_pictures(const TrainingData& data, const data::LoaderOptions& training,
                                const Compute& compute) {
    constexpr int64_t kMost = 64;
    data::LoaderOptions options = training;
    options.num_crops = 1;
    options.batch_size = static_cast<int>(std::min(kMost, data.train->size()));
    options.workers = 0;
    options.augmentation = {};
    options.process = 0;  // all processes take the same pictures
    options.processes = options.shards = 1;
    data::Loader loader(*data.train, options, data.labels.get());
    loader.start(0);
    data::Batch batch;
    VVTQ_CHECK(loader.next(batch), "no batch to calibrate on");
    DeviceBatch place(compute.device, batch.size, options.image_size, data.train->classes(), false);
    place.load(batch);
    return place.pictures(compute.dtype);
}

}  // namespace vvtq::apps
