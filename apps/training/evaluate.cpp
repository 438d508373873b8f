#include "apps/training/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <deque>

#include "apps/training/device_batch.h"
#include "apps/training/explain.h"
#include "apps/training/interrupt.h"
#include "apps/training/readback.h"
#include "autograd/ops.h"
#include "nn/evaluation_mode.h"
#include "nn/losses.h"
#include "quant/bin_regularizer.h"

namespace vvtq::apps {
namespace {

constexpr size_t kAhead = 2;  // batches that are computed while an earlier result is read

}  // namespace

std::optional<Accuracy> evaluate(nn::Model& model, const data::Dataset& dataset,
                                 const data::LoaderOptions& options, const Compute& compute, RunLog& log,
                                 int print_freq) {
    data::Loader loader(dataset, options);
    const int64_t most = std::min<int64_t>(options.batch_size, dataset.size());
    DeviceBatch place(compute.device, most, options.image_size, model.config().num_classes, false);
    Readback results(compute.device);
    Meter time("Time", "%6.3f"), losses("Loss", "%.4e"), top1("Acc@1", "%6.2f"), top5("Acc@5", "%6.2f");
    const nn::EvaluationMode evaluation(model);
    quant::regularize(model, false);
    const autograd::NoGrad off_tape;
    loader.start(0);
    Stopwatch watch;
    data::Batch batch;
    int64_t read = 0;
    std::deque<int64_t> sizes;
    const auto read_one = [&] {
        const std::vector<double> values = results.receive();  // loss, counts
        const auto count = static_cast<double>(sizes.front());
        sizes.pop_front();
        if (!std::isfinite(values[0])) {
            const auto where = [&] {
                const nn::Variable logits = model.forward(place.pictures(compute.dtype));
                nn::cross_entropy(logits, place.labels(), 0.0);
            };
            const bool there = load_again(loader, 0, read, place);
            engine::run_error("the loss of the evaluation is not finite",
                              there ? ": " + where_not_finite(where) : "");
        }
        losses.update(values[0], count);
        top1.update(100.0 * values[1] / count, count);
        top5.update(100.0 * values[2] / count, count);
        time.update(watch.lap());
        if (read % print_freq == 0) {
            const std::string label = batch_label("Test: ", read, loader.batches());
            log.progress(
                label + "\t" + time.str() + "\t" + losses.str() + "\t" + top1.str() + "\t" + top5.str(),
                "Test", read + 1, loader.batches(), time.mean());
        }
        ++read;
    };
    while (loader.next(batch)) {
        place.load(batch);
        const nn::Variable logits = model.forward(place.pictures(compute.dtype));
        const nn::Tensor labels = place.labels();
        results.send({nn::cross_entropy(logits, labels, 0.0).value(), nn::count_top(logits.value(), labels)});
        sizes.push_back(batch.size);
        if (results.pending() > (compute.device == engine::Device::cpu ? 0 : kAhead)) read_one();
        if (interrupted()) return {};
    }
    while (results.pending() > 0) read_one();
    if (interrupted()) return {};  // while waiting for a batch
    char text[80];
    std::snprintf(text, sizeof text, " * Acc@1 %.3f Acc@5 %.3f", top1.mean(), top5.mean());
    log.line(text);
    return Accuracy{losses.mean(), top1.mean(), top5.mean()};
}

}  // namespace vvtq::apps
