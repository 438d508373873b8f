#include <algorithm>
#include <cmath>
#include <iostream>
#include <utility>

#include "apps/commands/commands.h"
#include "apps/commands/model_setup.h"
#include "apps/commands/training_setup.h"
#include "apps/training/checkpoint.h"
#include "apps/training/device_batch.h"
#include "apps/training/interrupt.h"
#include "apps/training/log.h"
#include "apps/training/value_text.h"
#include "autograd/ops.h"
#include "data/label_repack.h"
#include "data/label_sink.h"
#include "data/packed_labels.h"

namespace vvtq::apps {
namespace {

constexpr double kSecondsPerLine = 5.0;

std::unique_ptr<nn::Model> load_teacher(Options& options, const data::Dataset& dataset,
                                        const Compute& compute, std::vector<std::string>& notes) {
    const Checkpoint checkpoint(options.labels.teacher, "--teacher");
    auto model = load_model(options, checkpoint, dataset.classes(), compute, notes);
    const std::string warning = other_classes_warning(checkpoint, dataset);
    if (!warning.empty()) notes.push_back(warning);
    return model;
}

data::LoaderOptions labelling_loader(const Options& options, int64_t image_size, int crops) {
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
    loader.num_crops = crops;
    set_bad_image(options, loader);
    return loader;
}

/// What decides the labels beside the data set, type, number of crops and seed.
uint64_t settings_hash(const Options& options, int64_t image_size, const data::SoftLabels* reference) {
    data::Fnv hash;
    hash.add(data::read_file(options.labels.teacher, "check --teacher"));
    hash.add(static_cast<uint64_t>(image_size));
    for (double value : {options.labels.min_crop_area, options.labels.max_crop_area, options.data.hflip}) {
        hash.add(value_text(value));
    }
    hash.add(options.run.device);
    hash.add(options.run.precision);
    hash.add(static_cast<uint64_t>(options.data.batch_size));  // sums of other shapes may round differently
    hash.add(reference != nullptr ? reference->content_hash() : 0);
    return hash.value();
}

/// Crops and what the teacher says of them, until a picture has all of its own.
class Pending {
  public:
    Pending(const data::SoftLabelHeader& header, int64_t next, data::LabelSink& sink)
        : header_(header), next_(next), sink_(sink) {}

    /// Takes a batch's crops and hands complete pictures on. Those before `next` are known already.
    void add(const data::Batch& batch, const std::vector<double>& p) {
        const auto classes = static_cast<size_t>(header_.classes);
        for (size_t i = 0; i < static_cast<size_t>(batch.size); ++i) {
            if (batch.pictures[i] < next_) continue;
            coords_.push_back(batch.coords[i]);
            flips_.push_back(batch.flips[i]);
            p_.insert(p_.end(), p.begin() + static_cast<std::ptrdiff_t>(i * classes),
                      p.begin() + static_cast<std::ptrdiff_t>((i + 1) * classes));
            if (coords_.size() < static_cast<size_t>(header_.crops)) continue;
            data::pack_labels(header_.type, coords_, flips_, p_, labels_);
            sink_.append(batch.pictures[i], labels_);
            ++appended_;
            coords_.clear();
            flips_.clear();
            p_.clear();
        }
    }
    int64_t appended() const { return appended_; }

  private:
    const data::SoftLabelHeader& header_;
    int64_t next_;
    data::LabelSink& sink_;
    int64_t appended_ = 0;
    std::vector<data::Coords> coords_;
    std::vector<uint8_t> flips_;
    std::vector<float> p_;  // (crops, classes)
    data::PictureLabels labels_;
};

int repack(const Options& options) {
    const LabelFlags& labels = options.labels;
    const bool packs = !labels.pack.empty();
    RunLog log;
    data::Repacked done;
    // Asked for the first time when all files are listed: until then there is nothing to lose.
    const data::Stop stop = [installed = false]() mutable {
        if (!std::exchange(installed, true)) install_interrupt_handler();
        return interrupted();
    };
    if (packs) {
        std::unique_ptr<data::Dataset> dataset;
        if (options.given("--data") || options.given("--dataset")) {
            dataset = data::open_dataset(options.data.dataset, options.data.dir, data::Split::train);
        }
        done = data::pack_tree(labels.pack, labels.path, data::parse_label_type(labels.type),
                               static_cast<int>(options.model.num_classes), dataset.get(), stop);
    } else {
        done = data::unpack_tree(labels.unpack, labels.path, stop);
    }
    if (!done.note.empty()) log.line(done.note);
    if (done.pictures < done.of) {
        std::cerr << "vvtq softlabel: stopped by " << interrupt_name() << " after " << done.pictures << " of "
                  << done.of << " pictures; the same command begins anew" << std::endl;
        return 1;
    }
    log.line("=> labels of " + std::to_string(done.pictures) + " pictures: " + labels.path);
    return 0;
}

}  // namespace

int command_softlabel(Options& options) {
    const LabelFlags& labels = options.labels;
    const bool repacks = !labels.pack.empty() || !labels.unpack.empty();
    if (!repacks && labels.teacher.empty()) {
        engine::input_error("--teacher: name the checkpoint of the model that labels");
    }
    if (labels.path.empty()) engine::input_error("--softlabel_path: name what to write");
    if (repacks) return repack(options);
    refuse_integer(options.run);
    const Compute compute = pick_compute(options.run);
    const bool tree = options.labels.form == "tree";
    const auto dataset = data::open_dataset(options.data.dataset, options.data.dir, data::Split::train);
    const data::LabelType type = data::parse_label_type(options.labels.type);
    data::require_label_fits(type, dataset->classes());
    std::vector<std::string> notes;
    const auto teacher = load_teacher(options, *dataset, compute, notes);
    std::unique_ptr<data::SoftLabels> reference;
    int crops = options.labels.crops_per_image;
    if (!options.labels.reference.empty()) {
        reference = data::open_soft_labels(options.labels.reference, *dataset, type, false);
        if (options.given("--crops-per-image") && crops > reference->header().crops) {
            engine::input_error("--crops-per-image: ", options.labels.reference, " holds ",
                                reference->header().crops, " crops of each picture; ask for at most as many");
        }
        crops = options.given("--crops-per-image") ? crops : reference->header().crops;
    }
    const int64_t image_size = teacher->config().img_size;
    data::Loader loader(*dataset, labelling_loader(options, image_size, crops), reference.get());
    const data::SoftLabelHeader header{type,
                                       0,
                                       crops,
                                       dataset->classes(),
                                       dataset->fingerprint(),
                                       options.run.seed,
                                       settings_hash(options, image_size, reference.get())};
    install_interrupt_handler();  // until here there was nothing to lose
    const auto sink = tree ? data::make_tree_sink(options.labels.path, header, *dataset)
                           : data::make_packed_sink(options.labels.path, header, *dataset);
    const data::Resumed resumed = sink->resume(interrupted);
    if (resumed.stopped) {
        std::cerr << "vvtq softlabel: stopped by " << interrupt_name()
                  << " while it looked at the labels that are there; the same command goes on" << std::endl;
        return 1;
    }
    const int64_t next = resumed.next;
    RunLog log;
    if (reference && !reference->note().empty()) notes.push_back(reference->note());
    if (!resumed.note.empty()) notes.push_back(resumed.note);
    for (const std::string& note : notes) log.line(note);
    if (next > 0) log.line("=> going on after the first " + std::to_string(next) + " pictures");
    const autograd::NoGrad off_tape;
    DeviceBatch place(compute.device, options.data.batch_size, image_size, dataset->classes(), false);
    Pending pending(header, next, *sink);
    Meter time("Time", "%6.3f");
    Stopwatch watch, since_line;
    const int64_t first = std::min(loader.batches(), next * crops / options.data.batch_size);
    loader.start(0, first);
    data::Batch batch;
    for (int64_t b = first; loader.next(batch); ++b) {
        place.load(batch);
        const nn::Variable logits = teacher->forward(place.pictures(compute.dtype));
        const std::vector<double> p = autograd::softmax(logits).value().to_vector();
        if (!std::all_of(p.begin(), p.end(), [](double each) { return std::isfinite(each); })) {
            engine::run_error("--teacher: '", data::printable(options.labels.teacher),
                              "' gives probabilities that are not finite: name another checkpoint");
        }
        pending.add(batch, p);
        time.update(watch.lap());
        if (interrupted()) {
            std::cerr << "vvtq softlabel: stopped by " << interrupt_name() << " after "
                      << next + pending.appended() << " of " << dataset->size()
                      << " pictures; the same command goes on there" << std::endl;
            return 1;
        }
        if (b == first || log.on_terminal() || since_line.seconds() > kSecondsPerLine) {
            log.progress(batch_label("Label: ", b, loader.batches()) + "\t" + time.str(), "Label", b + 1,
                         loader.batches(), time.mean());
            since_line.lap();
        }
    }
    if (next + pending.appended() == 0) {
        engine::input_error("no picture of '", dataset->name(), "' could be labelled: check --data");
    }
    sink->finish();
    log.line("=> labelled " + std::to_string(crops) + " crops of each of " +
             std::to_string(next + pending.appended()) + " pictures: " + options.labels.path);
    return 0;
}

}  // namespace vvtq::apps
