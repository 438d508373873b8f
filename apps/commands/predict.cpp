// `vvtq predict`: what a model says of pictures.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/commands/commands.h"
#include "apps/commands/model_setup.h"
#include "apps/commands/training_setup.h"
#include "apps/training/device_batch.h"
#include "apps/training/interrupt.h"
#include "apps/training/log.h"
#include "data/bytes.h"
#include "engine/check.h"
#include "nn/inference.h"

namespace vvtq::apps {
namespace {

/// A bar on standard error, where that is a terminal.
class Bar {
  public:
    void show(int64_t done, int64_t total) {
        if (!shown_) return;
        std::cerr << "\r\033[K"
                  << "predict " << done << "/" << total << std::flush;
    }
    void clear() {
        if (shown_) std::cerr << "\r\033[K" << std::flush;
    }

  private:
    bool shown_ = isatty(STDERR_FILENO) == 1;
};

/// One name a line; empty lines at the end are left out.
std::vector<std::string> read_class_names(const std::string& path) {
    const data::Bytes bytes = data::read_file(path, "give --class-names a text file, one name a line");
    std::vector<std::string> names(1);
    for (const uint8_t byte : bytes) {
        if (byte == '\n') {
            names.emplace_back();
        } else if (byte != '\r') {
            names.back() += static_cast<char>(byte);
        }
    }
    while (!names.empty() && names.back().empty()) names.pop_back();
    return names;
}

std::vector<std::string> class_names(const PredictFlags& flags, const Checkpoint& checkpoint,
                                     int64_t classes) {
    std::vector<std::string> names;
    if (!flags.class_names.empty()) {
        names = read_class_names(flags.class_names);
        if (static_cast<int64_t>(names.size()) != classes) {
            engine::input_error("--class-names: ", flags.class_names, " has ", names.size(),
                                " names, but the model has ", classes, " classes");
        }
    } else if (checkpoint.info()) {
        names = checkpoint.info()->class_names;
    }
    names.resize(static_cast<size_t>(classes));  // empty: not known
    return names;
}

struct Prediction {
    std::vector<double> logits, probabilities;
    std::vector<size_t> order;  // of classes, the most probable first
};

Prediction prediction_of(std::vector<double> logits) {
    Prediction prediction{std::move(logits), {}, {}};
    const double most = *std::max_element(prediction.logits.begin(), prediction.logits.end());
    double sum = 0;
    for (const double logit : prediction.logits) {
        prediction.probabilities.push_back(std::exp(logit - most));
        sum += prediction.probabilities.back();
    }
    for (double& p : prediction.probabilities) p /= sum;
    prediction.order.resize(prediction.logits.size());
    std::iota(prediction.order.begin(), prediction.order.end(), size_t{0});
    std::stable_sort(prediction.order.begin(), prediction.order.end(),
                     [&](size_t a, size_t b) { return prediction.logits[a] > prediction.logits[b]; });
    return prediction;
}

std::string json_line(const std::string& path, const Prediction& prediction, size_t topk, bool logits,
                      const std::vector<std::string>& names) {
    nlohmann::ordered_json line = {{"path", path}, {"top", nlohmann::ordered_json::array()}};
    for (size_t i = 0; i < topk; ++i) {
        const size_t index = prediction.order[i];
        nlohmann::ordered_json entry = {
            {"index", index}, {"class", nullptr}, {"probability", prediction.probabilities[index]}};
        if (!names[index].empty()) entry["class"] = names[index];
        line["top"].push_back(std::move(entry));
    }
    if (logits) line["logits"] = prediction.logits;
    return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

/// "cat.jpg: tabby 93.20%, tiger cat 4.10%"; without names the classes' numbers.
std::string text_line(const std::string& path, const Prediction& prediction, size_t topk,
                      const std::vector<std::string>& names) {
    std::string line = data::printable(path) + ":";
    for (size_t i = 0; i < topk; ++i) {
        const size_t index = prediction.order[i];
        char percent[32];
        std::snprintf(percent, sizeof percent, " %.2f%%", 100 * prediction.probabilities[index]);
        line += (i == 0 ? " " : ", ") +
                (names[index].empty() ? std::to_string(index) : data::printable(names[index])) + percent;
    }
    return line;
}

data::LoaderOptions picture_loader(const Options& options, const Checkpoint& checkpoint, int64_t image_size) {
    std::string crop = options.predict.center_crop ? kCentralCrop : picture_crop(checkpoint);
    if (options.predict.whole) crop = "whole";
    data::LoaderOptions loader;
    loader.mode = data::LoaderMode::evaluation;
    loader.batch_size = static_cast<int>(options.data.batch_size);
    loader.image_size = static_cast<int>(image_size);
    loader.workers = options.data.workers;
    loader.shorter_side = shorter_side(crop, image_size);
    set_bad_image(options, loader);
    return loader;
}

}  // namespace

int command_predict(Options& options) {
    install_interrupt_handler();
    const PredictFlags& flags = options.predict;
    if (flags.checkpoint.empty() || flags.images.empty()) {
        engine::input_error("name a checkpoint and pictures: vvtq predict CKPT IMAGE...");
    }
    Compute compute = pick_compute(options.run);
    const auto pictures = data::open_pictures(flags.images);
    const Checkpoint checkpoint(flags.checkpoint, "CKPT");
    std::vector<std::string> notes;
    const auto model = load_model(options, checkpoint, 0, compute, notes, compute.integer != Integer::never);
    for (const std::string& note : notes) std::cerr << note << std::endl;
    settle_integer(options.run, *model, compute);
    const int64_t classes = model->config().num_classes, image_size = model->config().img_size;
    const std::vector<std::string> names = class_names(flags, checkpoint, classes);
    const auto topk = static_cast<size_t>(std::min<int64_t>(flags.topk, classes));
    data::Loader loader(*pictures, picture_loader(options, checkpoint, image_size));
    const int64_t most = std::min<int64_t>(options.data.batch_size, pictures->size());
    DeviceBatch place(compute.device, most, image_size, classes, false);
    const nn::Inference inference(*model, compute.dtype, compute.products());
    Bar bar;
    loader.start(0);
    data::Batch batch;
    int64_t done = 0;
    while (loader.next(batch)) {
        place.load(batch);
        const std::vector<double> logits = model->forward(place.pictures(compute.dtype)).value().to_vector();
        bar.clear();
        for (int64_t i = 0; i < batch.size; ++i) {
            const auto begin = logits.begin() + i * classes;
            const Prediction prediction = prediction_of({begin, begin + classes});
            const std::string path = pictures->id(batch.pictures[static_cast<size_t>(i)]);
            if (!std::isfinite(prediction.logits[prediction.order[0]])) {
                engine::run_error("the logits of '", data::printable(path),
                                  "' are not finite: check the weights of ", checkpoint.path());
            }
            std::cout << (flags.json ? json_line(path, prediction, topk, flags.logits, names)
                                     : text_line(path, prediction, topk, names))
                      << '\n';
        }
        std::cout << std::flush;
        if (!std::cout) return 1;  // main says so
        done += batch.size;
        if (interrupted()) {
            std::cerr << "vvtq predict: stopped by " << interrupt_name() << " after " << done << " of "
                      << pictures->size() << " pictures" << std::endl;
            return 1;
        }
        if (done < pictures->size()) bar.show(done, pictures->size());
    }
    bar.clear();
    if (done == 0) engine::input_error("no picture could be decoded: name others");
    return 0;
}

}  // namespace vvtq::apps
