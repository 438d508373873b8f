#include "apps/commands/training_setup.h"

#include <algorithm>
#include <iostream>

#include "apps/training/interrupt.h"
#include "apps/training/value_text.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

constexpr int kRepeats = 3;  // of repeated augmentation

data::Augmentation augmentation_of(const Options& options) {
    const DataFlags& flags = options.data;
    data::Augmentation augmentation;
    augmentation.rand_augment = data::parse_rand_augment(flags.auto_augment);
    augmentation.color_jitter = flags.color_jitter;
    augmentation.erasing = {flags.erase_probability, data::parse_erase_mode(flags.erase_mode),
                            flags.erase_count};
    augmentation.mixing = {flags.mixup,
                           flags.cutmix,
                           flags.mixup_probability,
                           flags.mixup_switch_probability,
                           data::parse_mix_mode(flags.mixup_mode),
                           flags.cutmix_minmax};
    augmentation.smoothing = options.labels.smoothing;
    augmentation.repeats = flags.repeated_augmentation ? kRepeats : 1;
    augmentation.random_filter = flags.train_interpolation == "random";
    return augmentation;
}

data::LoaderOptions training_loader(const Options& options, const TrainingData& data, int64_t image_size,
                                    const Processes& processes) {
    data::LoaderOptions loader;
    loader.process = processes.rank;
    loader.processes = processes.size;
    loader.shards = options.parallel.shards;
    loader.mode = data.labels ? data::LoaderMode::labelled : data::LoaderMode::training;
    loader.batch_size = static_cast<int>(options.data.batch_size);
    loader.image_size = static_cast<int>(image_size);
    loader.workers = options.data.workers;
    loader.seed = options.run.seed;
    loader.reduced_decoding = options.data.decode == "fast";
    loader.augment = !options.data.no_aug;
    loader.rule = {options.data.scale[0], options.data.scale[1], options.data.ratio[0],
                   options.data.ratio[1]};
    loader.flip_probability = options.data.no_aug ? 0.0 : options.data.hflip;
    loader.num_crops = options.labels.num_crops;
    if (options.data.train_interpolation == "bicubic") loader.filter = data::Filter::bicubic;
    loader.augmentation = augmentation_of(options);
    set_bad_image(options, loader);
    return loader;
}

data::LoaderOptions evaluation_loader(const Options& options, int64_t image_size,
                                      const Processes& processes) {
    data::LoaderOptions loader;
    loader.process = processes.rank;
    loader.processes = processes.size;
    loader.mode = data::LoaderMode::evaluation;
    const int64_t parts = std::max(processes.size, options.parallel.shards);
    loader.batch_size = static_cast<int>((options.data.batch_size + parts - 1) / parts);
    loader.image_size = static_cast<int>(image_size);
    loader.workers = options.data.workers;
    loader.shorter_side = shorter_side(evaluation_crop(options), image_size);
    set_bad_image(options, loader);
    return loader;
}

}  // namespace

std::string evaluation_crop(const Options& options) {
    if (options.data.crop_pct > 0) return value_text(options.data.crop_pct);
    constexpr double kPublished = 0.875;  // 224 of 256
    if (options.data.dataset == "folder") return value_text(kPublished);
    return "whole";  // small pictures
}

int shorter_side(const std::string& crop, int64_t image_size) {
    if (crop == "whole") return 0;
    double share = 0;
    VVTQ_CHECK(parse_text(crop, share) && share > 0, "crop ", crop);
    return static_cast<int>(static_cast<double>(image_size) / share);
}

TrainingData open_training_data(const Options& options) {
    TrainingData data;
    data.evaluation = data::open_dataset(options.data.dataset, options.data.dir, data::Split::evaluation);
    const bool only_measures = options.run.evaluate;
    if (only_measures && !options.run.resume.empty()) return data;
    data.train = data::open_dataset(options.data.dataset, options.data.dir, data::Split::train);
    data::require_same_classes(*data.train, *data.evaluation);
    if (!options.labels.path.empty() && !only_measures) {
        data.labels = data::open_soft_labels(options.labels.path, *data.train,
                                             data::parse_label_type(options.labels.type),
                                             options.given("--soft_label_type"));
        if (options.labels.num_crops > data.labels->header().crops) {
            engine::input_error("--num_crops: ", options.labels.path, " holds ", data.labels->header().crops,
                                " crops of each picture; ask for at most as many");
        }
    }
    return data;
}

TrainingOptions training_options(const Options& options, const TrainingData& data, int64_t image_size,
                                 const Processes& processes) {
    const OptimizerFlags& flags = options.optimizer;
    TrainingOptions training;
    training.schedule = {flags.lr, flags.min_lr, flags.warmup_lr, flags.warmup_epochs, flags.epochs};
    training.optimizer = {flags.betas[0], flags.betas[1], flags.eps, flags.weight_decay, flags.clip_grad};
    training.training = training_loader(options, data, image_size, processes);
    training.evaluation = evaluation_loader(options, image_size, processes);
    training.smoothing = options.labels.smoothing;
    training.regularize = options.quantizer.reg;
    training.track_oscillation = options.quantizer.track_oscillation;
    training.freeze_threshold = options.quantizer.freeze_threshold;
    training.freeze_threshold_end = options.quantizer.freeze_threshold_end;
    training.graph = !options.run.no_graph;
    training.max_steps = options.run.max_steps;
    training.print_freq = options.run.print_freq;
    training.save_every_steps = options.run.save_every_steps;
    training.skip_not_finite = options.run.on_nan == "skip";
    training.reduce_bf16 = options.parallel.reduce_precision == "bf16";
    training.buckets = options.parallel.buckets;
    training.evaluation.interrupted = interrupted;
    // several processes stop after a common step, which each must have a batch for
    if (processes.size == 1) training.training.interrupted = interrupted;
    return training;
}

void set_bad_image(const Options& options, data::LoaderOptions& loader) {
    loader.skip_bad = options.data.on_bad_image == "skip";
    loader.on_skipped = [](const std::string& text) { std::cerr << "vvtq: " << text << std::endl; };
}

}  // namespace vvtq::apps
