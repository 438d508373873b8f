// `vvtq bench loader`: crops a second of pictures in folders, and what share of the time JPEG decoding takes.
#include <algorithm>
#include <atomic>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "apps/commands/bench_pictures.h"
#include "apps/commands/commands.h"
#include "apps/training/log.h"
#include "data/loader.h"

namespace vvtq::apps {
namespace {

/// Pictures a second that `workers` threads decode whole, with nothing else to do. Throws what a thread
/// threw.
double decoding_rate(const data::Dataset& dataset, int workers, double seconds) {
    std::atomic<int64_t> next{0}, done{0};
    Stopwatch watch;
    std::vector<std::exception_ptr> errors(static_cast<size_t>(workers));
    std::vector<std::thread> threads;
    for (std::exception_ptr& error : errors) {
        threads.emplace_back([&dataset, &next, &done, &watch, &error, seconds] {
            try {
                data::PictureReader reader;
                while (watch.seconds() < seconds) {
                    dataset.open(next++ % dataset.size(), reader);
                    reader.decode({0, 0, reader.height(), reader.width()});
                    ++done;
                }
            } catch (...) {
                error = std::current_exception();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors) {
        if (error != nullptr) std::rethrow_exception(error);
    }
    return static_cast<double>(done) / watch.seconds();
}

}  // namespace

int command_bench_loader(Options& options) {
    const std::string dir = options.bench.dir.empty() ? options.data.dir : options.bench.dir;
    const auto dataset = data::open_dataset(options.data.dataset, dir, data::Split::train);
    const int workers = std::max(1, options.data.workers);
    data::LoaderOptions loader_options;
    loader_options.mode = data::LoaderMode::labelled;
    loader_options.batch_size = static_cast<int>(options.data.batch_size);
    loader_options.image_size = static_cast<int>(options.bench.img_size);
    loader_options.workers = workers;
    loader_options.reduced_decoding = options.data.decode == "fast";
    loader_options.seed = options.run.seed;
    loader_options.num_crops = options.bench.crops;
    const int64_t per_batch = (options.data.batch_size + options.bench.crops - 1) / options.bench.crops;
    const Repeated repeated(*dataset, std::max<int64_t>(dataset->size(), 1024 * per_batch));
    const BenchLabels labels(repeated);
    data::Loader loader(repeated, loader_options, &labels);
    data::Batch batch;
    uint64_t epoch = 0;
    const auto next = [&] {
        while (!loader.next(batch)) loader.start(++epoch);
    };
    loader.start(epoch);
    for (int i = 0; i < 2 * workers + 2; ++i) next();  // what was made ahead does not count
    const int64_t busy_before = loader.busy_time(), jpeg_before = loader.jpeg_time();
    Stopwatch watch;
    int64_t crops = 0;
    while (watch.seconds() < options.bench.seconds) {
        next();
        crops += batch.size;
    }
    const double seconds = watch.seconds();
    const auto busy = static_cast<double>(loader.busy_time() - busy_before);
    const auto jpeg = static_cast<double>(loader.jpeg_time() - jpeg_before);
    loader.start(0, loader.batches());  // ends the workers
    const double decoding = decoding_rate(*dataset, workers, std::min(3.0, options.bench.seconds));
    const double crops_s = static_cast<double>(crops) / seconds;
    const nlohmann::ordered_json line = {
        {"bench", "loader"},
        {"data", dataset->name()},
        {"pictures", dataset->size()},
        {"crops", options.bench.crops},
        {"img_size", options.bench.img_size},
        {"decode", options.data.decode},
        {"workers", workers},
        {"seconds", seconds},
        {"crops_s", crops_s},
        {"pictures_s", crops_s / options.bench.crops},
        {"jpeg_share", jpeg / busy},
        {"whole_jpeg_pictures_s", decoding},
    };
    std::cout << line.dump() << std::endl;
    return 0;
}

}  // namespace vvtq::apps
