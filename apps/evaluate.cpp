#include "apps/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "apps/interrupt.h"
#include "apps/training_data.h"
#include "nn/losses.h"

namespace vvtq::apps {

int64_t top_count(const nn::Tensor& logits, int64_t k) { return std::min(k, logits.shape()[1]); }

std::optional<Accuracy> evaluate(nn::Model& model, const data::Dataset& dataset,
                                 const data::LoaderOptions& options, engine::DType dtype, RunLog& log,
                                 int print_freq) {
    data::Loader loader(dataset, options);
    Meter time("Time", "%6.3f"), losses("Loss", "%.4e"), top1("Acc@1", "%6.2f"), top5("Acc@5", "%6.2f");
    model.train(false);
    const autograd::NoGrad off_tape;
    loader.start(0);
    Stopwatch watch;
    data::Batch batch;
    for (int64_t b = 0; loader.next(batch); ++b) {
        const nn::Tensor pictures = pictures_of(batch, dtype);
        const nn::Variable logits = model.forward(pictures, 0);
        const double loss = nn::cross_entropy(logits, batch.targets, 0.0).value().item();
        if (!std::isfinite(loss)) {
            const autograd::FiniteCheck check;  // names the layer
            model.forward(pictures, 0);
            engine::run_error("the loss of the evaluation is not finite");
        }
        const auto count = static_cast<double>(batch.size);
        const auto share = [&](int64_t k) {
            const int64_t right =
                nn::count_top_k(logits.value(), batch.targets, top_count(logits.value(), k));
            return 100.0 * static_cast<double>(right) / count;
        };
        losses.update(loss, count);
        top1.update(share(1), count);
        top5.update(share(5), count);
        time.update(watch.lap());
        if (b % print_freq == 0) {
            const std::string label = batch_label("Test: ", b, loader.batches());
            log.progress(
                label + "\t" + time.str() + "\t" + losses.str() + "\t" + top1.str() + "\t" + top5.str(),
                "Test", b + 1, loader.batches(), time.mean());
        }
        if (interrupted()) {
            model.train(true);
            return {};
        }
    }
    model.train(true);
    char text[80];
    std::snprintf(text, sizeof text, " * Acc@1 %.3f Acc@5 %.3f", top1.mean(), top5.mean());
    log.line(text);
    return Accuracy{losses.mean(), top1.mean(), top5.mean()};
}

}  // namespace vvtq::apps
