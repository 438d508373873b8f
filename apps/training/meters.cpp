#include "apps/training/meters.h"

#include <nlohmann/json.hpp>

namespace vvtq::apps {

Meters::Meters(RunningMeans& so_far) : means_(so_far) {
    loss.restore(so_far.loss, so_far.pictures);
    regularizer.restore(so_far.regularizer, so_far.pictures);
    top1.restore(so_far.top1, so_far.pictures);
    top5.restore(so_far.top5, so_far.pictures);
}

void Meters::update(const StepResult& result, int64_t batch_size) {
    pictures_ = batch_size;
    const auto count = static_cast<double>(batch_size);
    loss.update(result.loss, count);
    regularizer.update(result.regularizer, count);
    top1.update(100.0 * static_cast<double>(result.top1) / count, count);
    top5.update(100.0 * static_cast<double>(result.top5) / count, count);
    means_.pictures += count;
    means_.loss = loss.sum();
    means_.regularizer = regularizer.sum();
    means_.top1 = top1.sum();
    means_.top5 = top5.sum();
}

void Meters::report(const Place& place, RunLog& log) const {
    char lr_text[40];
    std::snprintf(lr_text, sizeof lr_text, "LR %.5f", place.lr);
    std::string text =
        batch_label("Epoch: [" + std::to_string(place.epoch) + "]", place.batch, place.batches);
    for (const Meter* meter : {&time, &data, &loss, &top1, &top5}) {
        text += '\t';
        text += meter->str();
    }
    char bar[96];
    std::snprintf(bar, sizeof bar, "Epoch %d/%d  loss %.3f  acc %.1f", place.epoch, place.epochs, loss.mean(),
                  top1.mean());
    log.progress(text + "\t" + lr_text, bar, place.batch + 1, place.batches, time.mean());
    log.metrics({{"kind", "train"},
                 {"epoch", place.epoch},
                 {"crops", place.crops},
                 {"batch", place.batch},
                 {"batches", place.batches},
                 {"step", place.step},
                 {"loss", loss.latest()},
                 {"reg", regularizer.latest()},
                 {"lr", place.lr},
                 {"lambda", place.lambda},
                 {"acc1", top1.latest()},
                 {"acc5", top5.latest()},
                 {"time", time.mean()},
                 {"data", data.mean()},
                 {"img_s", static_cast<double>(pictures_) / time.mean()}});
}

}  // namespace vvtq::apps
