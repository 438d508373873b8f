#include "apps/commands/bench_model.h"

#include <algorithm>

#include "engine/random.h"
#include "quant/calibrate.h"

namespace vvtq::apps {
namespace {

constexpr double kRegularizerWeight = 0.005;  // in the middle of the schedule's range

/// Random pictures and classes with some probability on the others, as from a label file.
data::Batch synthetic_batch(const nn::ModelConfig& config, int64_t size, uint64_t seed) {
    engine::Random random(seed);
    data::Batch batch;
    batch.size = size;
    batch.image_size = static_cast<int>(config.img_size);
    batch.classes = static_cast<int>(config.num_classes);
    batch.pixels.resize(static_cast<size_t>(size * 3 * config.img_size * config.img_size));
    for (uint8_t& pixel : batch.pixels) pixel = static_cast<uint8_t>(random.bits());
    constexpr float kShare = 0.6f;
    const float rest = (1.0f - kShare) / static_cast<float>(std::max<int64_t>(1, config.num_classes - 1));
    batch.soft.assign(static_cast<size_t>(size * config.num_classes), rest);
    for (int64_t i = 0; i < size; ++i) {
        batch.targets.push_back(static_cast<int>(random.below(static_cast<uint64_t>(config.num_classes))));
        batch.soft[static_cast<size_t>(i * config.num_classes + batch.targets.back())] = kShare;
    }
    return batch;
}

}  // namespace

std::unique_ptr<DeviceBatch> random_batch(const Compute& compute, const nn::ModelConfig& config, int64_t size,
                                          uint64_t seed) {
    auto place =
        std::make_unique<DeviceBatch>(compute.device, size, config.img_size, config.num_classes, true);
    place->load(synthetic_batch(config, size, seed));
    return place;
}

std::unique_ptr<nn::Model> random_model(const Options& options, const Compute& compute,
                                        const nn::ModelConfig& config) {
    auto model = make_model(config, compute, options.run.seed);
    if (!has_low_bits(options.quantizer)) return model;
    constexpr int64_t kCalibrationPictures = 64;
    attach_quantizers(*model, options.quantizer);
    const int64_t size = std::min<int64_t>(options.data.batch_size, kCalibrationPictures);
    quant::calibrate_weights(*model);
    quant::calibrate_activations(
        *model, random_batch(compute, config, size, options.run.seed)->pictures(compute.dtype));
    return model;
}

BenchModel::BenchModel(Options& options)
    : compute(pick_compute(options.run)),
      config(resolve_config(options, nullptr, 0)),
      model(random_model(options, compute, config)),
      optimizer(std::make_unique<nn::Adamw>(model->parameters(), nn::AdamwOptions{})),
      rates{1e-5,
            options.quantizer.reg,
            kRegularizerWeight,
            options.run.seed,
            false,
            options.quantizer.freeze_threshold} {
    if (options.quantizer.track_oscillation) {
        oscillation =
            std::make_unique<quant::OscillationTracker>(*model, options.quantizer.freeze_threshold > 0);
    }
}

void BenchModel::load_batch(const Options& options, int processes, int shards) {
    const int64_t size = options.data.batch_size, parts = std::max(processes, shards);
    if (size % parts != 0) {
        engine::input_error("`batch_size` ", size, ": cannot be cut into ", parts,
                            " equal parts; use a multiple of ", parts);
    }
    place = random_batch(compute, config, size / processes, options.run.seed);
}

std::vector<engine::KernelCall> BenchModel::calls_of_step(bool products_only) {
    TrainingStep step(*model, *optimizer, *place,
                      {compute.dtype, 0.0, false, false, {}, products_only ? nullptr : oscillation.get()});
    const engine::KernelTrace trace(compute.device, products_only);
    step.submit(rates);
    step.take();
    return trace.calls();
}

}  // namespace vvtq::apps
