#include <iostream>

#include "apps/checkpoint.h"
#include "apps/commands.h"
#include "apps/device_batch.h"
#include "apps/interrupt.h"
#include "apps/log.h"
#include "apps/model_setup.h"
#include "apps/training_data.h"
#include "autograd/ops.h"

namespace vvtq::apps {
namespace {

constexpr double kSecondsPerLine = 5.0;

std::unique_ptr<nn::Model> load_teacher(const Options& options, int64_t classes, const Compute& compute) {
    const Checkpoint checkpoint(options.labels.teacher, "--teacher");
    auto model = make_model(options, resolve_config(options, &checkpoint, classes), &checkpoint, compute);
    if (checkpoint.info() && checkpoint.info()->quantized) {
        attach_quantizers(*model, quantizer_flags(*checkpoint.info(), checkpoint.path()));
    }
    checkpoint.load_parameters(*model, false);
    model->train(false);
    return model;
}

data::LoaderOptions labelling_loader(const Options& options, int64_t image_size) {
    data::LoaderOptions loader;
    loader.mode = data::LoaderMode::labelling;
    loader.batch_size = static_cast<int>(options.data.batch_size);
    loader.image_size = static_cast<int>(image_size);
    loader.filter = data::Filter::bicubic;
    loader.workers = options.data.workers;
    loader.seed = options.run.seed;
    loader.rule.area_low = options.labels.min_crop_area;
    loader.rule.area_high = options.labels.max_crop_area;
    loader.flip_probability = options.data.hflip;
    loader.num_crops = options.labels.crops_per_image;
    return loader;
}

/// Crops and what the teacher says of them, until a picture has all of its own.
struct Pending {
    std::vector<data::Coords> coords;
    std::vector<uint8_t> flips;
    std::vector<float> p;  // (crops, classes)

    void add(const data::Batch& batch, const std::vector<double>& probabilities) {
        coords.insert(coords.end(), batch.coords.begin(), batch.coords.end());
        flips.insert(flips.end(), batch.flips.begin(), batch.flips.end());
        for (const double value : probabilities) {
            p.push_back(static_cast<float>(value));
        }
    }
    /// Hands complete pictures of `crops` crops to the writer.
    void flush(size_t crops, size_t classes, data::SoftLabelWriter& writer) {
        const size_t done = coords.size() / crops * crops;
        for (size_t i = 0; i < done; i += crops) {
            writer.append(std::span(coords).subspan(i, crops), std::span(flips).subspan(i, crops),
                          std::span(p).subspan(i * classes, crops * classes));
        }
        coords.erase(coords.begin(), coords.begin() + static_cast<std::ptrdiff_t>(done));
        flips.erase(flips.begin(), flips.begin() + static_cast<std::ptrdiff_t>(done));
        p.erase(p.begin(), p.begin() + static_cast<std::ptrdiff_t>(done * classes));
    }
};

}  // namespace

int command_softlabel(Options& options) {
    install_interrupt_handler();
    const Compute compute = pick_compute(options.run);
    if (options.labels.teacher.empty()) {
        engine::input_error("--teacher: name the checkpoint of the model that labels");
    }
    if (options.labels.path.empty()) {
        engine::input_error("--softlabel_path: name the label file to write");
    }
    const auto dataset = data::open_dataset(options.data.dataset, options.data.dir, data::Split::train);
    const data::LabelType type = data::parse_label_type(options.labels.type);
    data::require_label_fits(type, dataset->classes());
    const auto teacher = load_teacher(options, dataset->classes(), compute);
    data::Loader loader(*dataset, labelling_loader(options, teacher->config().img_size));
    data::SoftLabelWriter writer(options.labels.path,
                                 {type, dataset->size(), options.labels.crops_per_image, dataset->classes(),
                                  dataset->fingerprint(), options.run.seed});
    RunLog log;
    const autograd::NoGrad off_tape;
    DeviceBatch place(compute.device, options.data.batch_size, teacher->config().img_size, dataset->classes(),
                      false);
    Pending pending;
    Meter time("Time", "%6.3f");
    Stopwatch watch, since_line;
    loader.start(0);
    data::Batch batch;
    for (int64_t b = 0; loader.next(batch); ++b) {
        place.load(batch);
        const nn::Variable logits = teacher->forward(place.pictures(compute.dtype));
        pending.add(batch, autograd::softmax(logits).value().to_vector());
        pending.flush(static_cast<size_t>(options.labels.crops_per_image),
                      static_cast<size_t>(dataset->classes()), writer);
        time.update(watch.lap());
        if (interrupted()) {
            std::cerr << "vvtq softlabel: stopped by " << interrupt_name() << "; " << options.labels.path
                      << " was not written" << std::endl;
            return 1;
        }
        if (b == 0 || log.on_terminal() || since_line.seconds() > kSecondsPerLine) {
            log.progress(batch_label("Label: ", b, loader.batches()) + "\t" + time.str(), "Label", b + 1,
                         loader.batches(), time.mean());
            since_line.lap();
        }
    }
    writer.finish();
    log.line("=> labelled " + std::to_string(options.labels.crops_per_image) + " crops of each of " +
             std::to_string(dataset->size()) + " pictures: " + options.labels.path);
    return 0;
}

}  // namespace vvtq::apps
