#include "apps/training_data.h"

#include "apps/device_batch.h"

#include <algorithm>

#include "engine/check.h"

namespace vvtq::apps {
namespace {

constexpr int64_t kCalibrationPictures = 64;
constexpr size_t kHashedWhole = size_t{64} << 20;  // larger label files are known by their ends
constexpr size_t kHashedPart = size_t{1} << 20;

}  // namespace

uint64_t TrainingData::labels_fingerprint() const {
    if (!labels) {
        return 0;
    }
    const std::span<const uint8_t> bytes = labels->bytes();
    data::Fnv hash;
    hash.add(static_cast<uint64_t>(bytes.size()));
    if (bytes.size() <= kHashedWhole) {
        hash.add(bytes);
    } else {
        hash.add(bytes.first(kHashedPart));
        hash.add(bytes.last(kHashedPart));
    }
    return hash.value();
}

TrainingData open_training_data(const Options& options) {
    TrainingData data;
    data.evaluation = data::open_dataset(options.data.dataset, options.data.dir, data::Split::evaluation);
    const bool only_measures = options.run.evaluate;
    if (only_measures && !options.run.resume.empty()) {
        return data;
    }
    data.train = data::open_dataset(options.data.dataset, options.data.dir, data::Split::train);
    data::require_same_classes(*data.train, *data.evaluation);
    if (!options.labels.path.empty() && !only_measures) {
        data.labels.emplace(data::SoftLabels::open(options.labels.path));
        const data::LabelType type = data.labels->header().type;
        if (options.given("--soft_label_type") && data::parse_label_type(options.labels.type) != type) {
            engine::input_error("--soft_label_type: ", options.labels.path, " holds labels of type ",
                                data::label_type_name(type), ", not ", options.labels.type,
                                "; leave the flag out");
        }
        data.labels->require_matches(data.train->fingerprint(), data.train->size(), data.train->classes(),
                                     data.train->name());
        if (options.labels.num_crops > data.labels->header().crops) {
            engine::input_error("--num_crops: ", options.labels.path, " holds ", data.labels->header().crops,
                                " crops of each picture; ask for at most as many");
        }
    }
    return data;
}

data::LoaderOptions training_loader(const Options& options, const TrainingData& data, int64_t image_size,
                                    int crops) {
    data::LoaderOptions loader;
    loader.mode = data.labels ? data::LoaderMode::labelled : data::LoaderMode::training;
    loader.batch_size = static_cast<int>(options.data.batch_size);
    loader.image_size = static_cast<int>(image_size);
    loader.workers = options.data.workers;
    loader.seed = options.run.seed;
    loader.augment = !options.data.no_aug;
    loader.rule = {options.data.scale[0], options.data.scale[1], options.data.ratio[0],
                   options.data.ratio[1]};
    loader.flip_probability = options.data.no_aug ? 0.0 : options.data.hflip;
    loader.num_crops = crops;
    return loader;
}

data::LoaderOptions evaluation_loader(const Options& options, int64_t image_size) {
    data::LoaderOptions loader;
    loader.mode = data::LoaderMode::evaluation;
    loader.batch_size = static_cast<int>(options.data.batch_size);
    loader.image_size = static_cast<int>(image_size);
    loader.workers = options.data.workers;
    if (options.data.crop_pct > 0) {
        loader.shorter_side = static_cast<int>(static_cast<double>(image_size) / options.data.crop_pct);
    } else if (options.data.dataset == "folder") {
        loader.shorter_side = data::evaluation_side(loader.image_size);
    } else {
        loader.shorter_side = 0;  // small pictures are looked at whole
    }
    return loader;
}

nn::Tensor calibration_pictures(const Options& options, const TrainingData& data, int64_t image_size,
                                const Compute& compute) {
    data::LoaderOptions loader_options = training_loader(options, data, image_size, 1);
    loader_options.batch_size = static_cast<int>(std::min(kCalibrationPictures, data.train->size()));
    loader_options.workers = 0;
    data::Loader loader(*data.train, loader_options, data.labels ? &*data.labels : nullptr);
    loader.start(0);
    data::Batch batch;
    VVTQ_CHECK(loader.next(batch), "no batch to calibrate on");
    DeviceBatch place(compute.device, batch.size, image_size, data.train->classes(), false);
    place.load(batch);
    return place.pictures(compute.dtype);
}

}  // namespace vvtq::apps
