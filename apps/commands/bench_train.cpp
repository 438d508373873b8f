// `vvtq bench train`: training end to end from pictures in folders or shards, beside the step alone, and
// where the time goes.
#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/commands/bench_model.h"
#include "apps/commands/bench_pictures.h"
#include "apps/commands/commands.h"
#include "apps/training/interrupt.h"
#include "apps/training/log.h"
#include "engine/threads.h"

namespace vvtq::apps {
namespace {

constexpr size_t kAhead = 2;  // steps that a GPU may be ahead of what was read of it, as in training

/// Seconds of the training thread.
struct Shares {
    double waiting = 0, copying = 0,
           stepping = 0;  // for a batch, a batch to the device, enqueuing and results
    double seconds = 0;
    int64_t steps = 0;
};

/// Runs steps for a while; `load` brings the next batch.
Shares run_steps(TrainingStep& step, const BenchModel& bench, double seconds,
                 const std::function<void(Shares&)>& load) {
    const size_t ahead = bench.compute.device == engine::Device::cpu ? 0 : kAhead;
    Shares shares;
    const auto take_until = [&](size_t left) {
        while (step.pending() > left) {
            const StepResult result = step.take();
            if (result.found_inf != 0) step.explain(bench.rates, result);
        }
    };
    Stopwatch whole, part;
    while (!interrupted() && (shares.steps == 0 || whole.seconds() < seconds)) {
        load(shares);
        part.lap();
        step.submit(bench.rates);
        take_until(ahead);
        shares.stepping += part.lap();
        ++shares.steps;
    }
    part.lap();
    take_until(0);
    shares.stepping += part.lap();
    shares.seconds = whole.seconds();
    return shares;
}

data::LoaderOptions loader_options(const Options& options, const BenchModel& bench, int workers) {
    data::LoaderOptions loader;
    loader.mode = data::LoaderMode::labelled;
    loader.batch_size = static_cast<int>(options.data.batch_size);
    loader.image_size = static_cast<int>(bench.config.img_size);
    loader.device = bench.compute.device;
    loader.workers = workers;
    loader.reduced_decoding = options.data.decode == "fast";
    loader.seed = options.run.seed;
    loader.num_crops = options.bench.crops;
    loader.interrupted = interrupted;
    return loader;
}

double rounded(double value) { return std::round(value * 1e4) / 1e4; }

/// One line of JSON.
nlohmann::ordered_json measure(const Options& options, BenchModel& bench, TrainingStep& step,
                               const data::Dataset& repeated, const BenchLabels& labels, int workers,
                               double alone) {
    data::Loader loader(repeated, loader_options(options, bench, workers), &labels);
    data::Batch batch;
    uint64_t epoch = 0;
    const auto load = [&](Shares& shares) {
        Stopwatch watch;
        bench.place->wait();
        while (!interrupted() && !loader.next(batch)) loader.start(++epoch);
        shares.waiting += watch.lap();
        if (batch.size > 0) bench.place->load(batch);
        shares.copying += watch.lap();
    };
    loader.start(epoch);
    for (int i = 0; i < 2 * workers + 2; ++i) run_steps(step, bench, 0, load);  // made ahead: does not count
    const int64_t busy = loader.busy_time(), jpeg = loader.jpeg_time(), resample = loader.resample_time();
    const Shares shares = run_steps(step, bench, options.bench.seconds, load);
    const auto spent = [&](int64_t now, int64_t before) { return 1e-9 * static_cast<double>(now - before); };
    const double worked = std::max(1e-9, spent(loader.busy_time(), busy));
    bench.place->wait();
    const double img_s =
        static_cast<double>(shares.steps * options.data.batch_size) / std::max(1e-9, shares.seconds);
    return {{"workers", workers},
            {"seconds", rounded(shares.seconds)},
            {"steps", shares.steps},
            {"img_s", rounded(img_s)},
            {"step_img_s", rounded(alone)},
            {"of_step", rounded(img_s / alone)},
            {"waiting_share", rounded(shares.waiting / shares.seconds)},
            {"copy_share", rounded(shares.copying / shares.seconds)},
            {"step_share", rounded(shares.stepping / shares.seconds)},
            {"workers_busy", rounded(worked / shares.seconds / std::max(1, workers))},
            {"jpeg_share", rounded(spent(loader.jpeg_time(), jpeg) / worked)},
            {"resample_share", rounded(spent(loader.resample_time(), resample) / worked)}};
}

}  // namespace

int command_bench_train(Options& options) {
    refuse_integer(options.run);
    const std::string dir = options.bench.dir.empty() ? options.data.dir : options.bench.dir;
    const auto dataset = data::open_dataset(options.data.dataset, dir, data::Split::train);
    if (options.model.num_classes == 0) options.model.num_classes = dataset->classes();
    BenchModel bench(options);
    if (bench.config.num_classes != dataset->classes()) {
        engine::input_error("--num_classes: ", dataset->name(), " has ", dataset->classes(),
                            " classes; leave it out");
    }
    const int64_t per_batch = (options.data.batch_size + options.bench.crops - 1) / options.bench.crops;
    const Repeated repeated(*dataset, std::max<int64_t>(dataset->size(), 1024 * per_batch));
    const BenchLabels labels(repeated);
    install_interrupt_handler();
    bench.load_batch(options);
    TrainingStep step(*bench.model, *bench.optimizer, *bench.place,
                      {bench.compute.dtype, 0.0, !options.run.no_graph, false, {}, bench.oscillation.get()});
    bench.model->train(true);
    const auto none = [](Shares&) {};
    for (int i = 0; i < 3; ++i) run_steps(step, bench, 0, none);  // the first ones make memory and graph
    const Shares alone = run_steps(step, bench, options.bench.seconds, none);
    const double alone_img_s = static_cast<double>(alone.steps * options.data.batch_size) / alone.seconds;
    for (const int64_t workers : options.bench.workers) {
        if (interrupted()) break;
        nlohmann::ordered_json line = {{"bench", "train"},
                                       {"data", dataset->name()},
                                       {"pictures", dataset->size()},
                                       {"model", bench.config.name},
                                       {"wbits", options.quantizer.wbits},
                                       {"abits", options.quantizer.abits},
                                       {"reg", options.quantizer.reg},
                                       {"batch_size", options.data.batch_size},
                                       {"crops", options.bench.crops},
                                       {"decode", options.data.decode},
                                       {"device", engine::name_of(bench.compute.device)},
                                       {"name", engine::runtime(bench.compute.device).description()},
                                       {"threads", engine::threads()}};
        const auto measured =
            measure(options, bench, step, repeated, labels, static_cast<int>(workers), alone_img_s);
        if (interrupted()) break;
        line.update(measured);
        std::cout << line.dump() << std::endl;
    }
    if (!interrupted()) return 0;
    std::cerr << "vvtq bench train: stopped by " << interrupt_name() << std::endl;
    return 1;
}

}  // namespace vvtq::apps
