#include "apps/training/memory_fit.h"

#include <algorithm>
#include <cmath>

#include "apps/training/training_step.h"

namespace vvtq::apps {
namespace {

/// Peak bytes of a step of `size` pictures, beside what was in use before.
double peak_of(nn::Model& model, nn::Adamw& optimizer, const Compute& compute, bool regularize,
               int64_t size) {
    const nn::ModelConfig& config = model.config();
    data::Batch batch;
    batch.size = size;
    batch.image_size = static_cast<int>(config.img_size);
    batch.pixels.resize(static_cast<size_t>(size * 3 * config.img_size * config.img_size));
    batch.targets.assign(static_cast<size_t>(size), 0);
    engine::Pool& pool = engine::pool(compute.device);
    const size_t before = pool.in_use();
    pool.reset_peak();
    DeviceBatch place(compute.device, size, config.img_size, config.num_classes, false);
    place.load(batch);
    TrainingStep step(model, optimizer, place, {compute.dtype, 0.0, false});
    step.submit({0.0, regularize, 0.0, 0});
    step.take();
    optimizer.clear_grad();
    return static_cast<double>(pool.peak() - before);
}

double gibibytes(double bytes) { return std::round(bytes / (1 << 30) * 10) / 10; }

}  // namespace

void refuse_batch(nn::Model& model, nn::Adamw& optimizer, const Compute& compute, bool regularize,
                  int64_t batch_size, int64_t parts) {
    constexpr int64_t kSmall = 8, kLarger = 16;
    constexpr double kMargin = 0.95;  // of the free memory: blocks are rounded up
    engine::Runtime& runtime = engine::runtime(compute.device);
    optimizer.clear_grad();
    const auto free = static_cast<double>(runtime.free_memory());
    double small = 0, each = 0;
    try {
        peak_of(model, optimizer, compute, regularize, kSmall);  // workspaces of the first step count once
        small = peak_of(model, optimizer, compute, regularize, kSmall);
        each = (peak_of(model, optimizer, compute, regularize, kLarger) - small) / (kLarger - kSmall);
    } catch (const engine::OutOfMemory&) {
        engine::input_error("`batch_size` ", batch_size, ": not even ", int64_t{kLarger},
                            " pictures fit into the ", gibibytes(free), " GiB that ", runtime.description(),
                            " has free: use a smaller model");
    }
    const double fixed = small - kSmall * each;
    const auto fits = static_cast<int64_t>((kMargin * free - fixed) / each);
    const double needed = fixed + each * static_cast<double>(batch_size) / static_cast<double>(parts);
    engine::input_error(
        "`batch_size` ", batch_size, ": a step needs about ", gibibytes(needed), " GiB, ",
        runtime.description(), " has ", gibibytes(free), " GiB free: ",
        fits > 0 ? engine::concat("`batch_size` ", std::min(fits * parts, batch_size - parts), " would fit")
                 : "this model is too large for it");
}

}  // namespace vvtq::apps
