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
#include "nn/inference.h"
#include "nn/losses.h"
#include "quant/bin_regularizer.h"

namespace vvtq::apps {
namespace {

constexpr size_t kAhead = 2;  // batches that are computed while an earlier result is read

/// Of a batch. The totals of an evaluation are added in the order of batches, whoever computed them.
struct Sums {
    double pictures = 0, loss = 0, top1 = 0, top5 = 0;  // loss: summed over the pictures
};

/// The sums of all processes' batches; batch b is that of process b mod W. Nothing where one was interrupted.
std::optional<std::vector<Sums>> gather(const std::vector<Sums>& own, int64_t batches, bool stopped,
                                        const engine::Device device, const Processes& processes) {
    if (processes.communicator == nullptr) return stopped ? std::nullopt : std::optional(own);
    constexpr size_t kFields = 4;
    processes.exchange("");  // some have a batch more than others
    const auto size = static_cast<size_t>(processes.size);
    const size_t each = (static_cast<size_t>(batches) + size - 1) / size;
    std::vector<double> values((each + 1) * kFields, 0.0);
    for (size_t i = 0; i < own.size(); ++i) {
        const double fields[kFields] = {own[i].pictures, own[i].loss, own[i].top1, own[i].top5};
        std::copy(fields, fields + kFields, values.begin() + static_cast<std::ptrdiff_t>(i * kFields));
    }
    values[each * kFields] = stopped ? 1.0 : 0.0;
    const auto count = static_cast<int64_t>(values.size());
    const nn::Tensor part = nn::Tensor::from(values, {count}, engine::DType::f64, device);
    const nn::Tensor all({processes.size * count}, engine::DType::f64, device);
    processes.communicator->all_gather(part, all);
    processes.communicator->wait();
    values = all.to_vector();
    std::vector<Sums> sums;
    for (size_t process = 0; process < size; ++process) {
        if (values[(process * (each + 1) + each) * kFields] > 0) return {};
    }
    for (size_t b = 0; b < static_cast<size_t>(batches); ++b) {
        const double* from = &values[(b % size * (each + 1) + b / size) * kFields];
        sums.push_back({from[0], from[1], from[2], from[3]});
    }
    return sums;
}

}  // namespace

std::optional<Accuracy> evaluate(nn::Model& model, data::Loader& loader, const Compute& compute, RunLog& log,
                                 int print_freq, const Processes& processes) {
    loader.start(0);
    const data::LoaderOptions& options = loader.options();
    const int64_t pictures = loader.dataset().size();
    const int64_t most = std::min<int64_t>(options.batch_size, pictures);
    DeviceBatch place(compute.device, most, options.image_size, model.config().num_classes, false);
    Readback results(compute.device);
    Meter time("Time", "%6.3f"), losses("Loss", "%.4e"), top1("Acc@1", "%6.2f"), top5("Acc@5", "%6.2f");
    const nn::EvaluationMode evaluation(model);
    quant::regularize(model, false);
    const nn::Inference inference(model, compute.dtype, compute.products());
    Stopwatch watch;
    data::Batch batch;
    int64_t read = 0;
    std::deque<int64_t> sizes;
    std::vector<Sums> sums;  // of this process's batches
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
            const std::string layer = there ? where_not_finite(where) : "";
            engine::run_error("the loss of the evaluation is not finite", layer.empty() ? "" : ": ", layer);
        }
        sums.push_back({count, values[0] * count, values[1], values[2]});
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
    const auto next = [&] {
        place.wait();  // the loader takes the batch's memory back
        return !interrupted() && loader.next(batch);
    };
    while (next()) {
        processes.progress(false);
        place.load(batch);
        const nn::Variable logits = model.forward(place.pictures(compute.dtype));
        const nn::Tensor labels = place.labels();
        results.send({nn::cross_entropy(logits, labels, 0.0).value(), nn::count_top(logits.value(), labels)});
        sizes.push_back(batch.size);
        if (results.pending() > (compute.device == engine::Device::cpu ? 0 : kAhead)) read_one();
    }
    while (results.pending() > 0) read_one();
    const int64_t size = options.batch_size, batches = (pictures + size - 1) / size;
    const auto all = gather(sums, batches, interrupted(), compute.device, processes);
    if (!all) return {};
    Sums total;
    for (const Sums& of_batch : *all) {
        total.pictures += of_batch.pictures;
        total.loss += of_batch.loss;
        total.top1 += of_batch.top1;
        total.top5 += of_batch.top5;
    }
    const double seen = std::max(1.0, total.pictures);  // all may have been left out
    const Accuracy accuracy{total.loss / seen, 100.0 * total.top1 / seen, 100.0 * total.top5 / seen};
    char text[80];
    std::snprintf(text, sizeof text, " * Acc@1 %.3f Acc@5 %.3f", accuracy.acc1, accuracy.acc5);
    log.line(text);
    return accuracy;
}

}  // namespace vvtq::apps
