#include "data/loader.h"

#include <algorithm>
#include <numeric>
#include <system_error>
#include <utility>

#include "engine/check.h"
#include "engine/random.h"

namespace vvtq::data {
namespace {

// Streams of random numbers, apart from one another.
// (loader_crops.cpp has its own.)
constexpr uint64_t kShuffle = 1, kMix = 20;

}  // namespace

Loader::Loader(const Dataset& dataset, const LoaderOptions& options, const SoftLabels* labels)
    : dataset_(dataset), options_(options), labels_(labels) {
    const int64_t size = options.batch_size;
    VVTQ_CHECK(dataset.size() > 0, "data set '", dataset.name(), "' is empty");
    VVTQ_CHECK(options.mode == LoaderMode::labelling ||
                   (labels != nullptr) == (options.mode == LoaderMode::labelled),
               "labels go with labelled crops");
    VVTQ_CHECK(options.workers >= 0 && options.image_size > 0, options.workers, " workers, size ",
               options.image_size);
    VVTQ_CHECK(options.process >= 0 && options.process < options.processes, "process ", options.process,
               " of ", options.processes);
    if (size < 1) engine::input_error("`batch_size` ", size, ": use 1 or more");
    if (options.num_crops < 1) engine::input_error("`num_crops` ", options.num_crops, ": use 1 or more");
    if (labels != nullptr && options.num_crops > labels->header().crops) {
        engine::input_error("`num_crops` ", options.num_crops, ": label file '", printable(labels->path()),
                            "' has ", labels->header().crops, " crops per picture; use at most that many");
    }
    count_batches();
}

void Loader::count_batches() {
    const int64_t pictures = dataset_.size();
    const int64_t size = options_.batch_size;
    const int64_t crops = options_.num_crops;
    const int64_t processes = options_.processes;
    int64_t all = 0;  // batches of all processes
    switch (options_.mode) {
        case LoaderMode::evaluation:
            all = (pictures + size - 1) / size;
            batches_ = (all - options_.process + processes - 1) / processes;
            return;
        case LoaderMode::labelling:
            all = (pictures * crops + size - 1) / size;
            batches_ = (all - options_.process + processes - 1) / processes;
            return;
        case LoaderMode::training:
            batches_ = pictures / size / processes;
            break;
        case LoaderMode::labelled:
            batches_ = pictures / ((size + crops - 1) / crops) / processes;
    }
    if (batches_ == 0) {
        engine::input_error("`batch_size` ", size, " needs more pictures than the ", pictures, " of '",
                            printable(dataset_.name()), "': use a smaller `batch_size`");
    }
}

Loader::~Loader() { stop(); }

void Loader::stop() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    room_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    stopping_ = false;
}

void Loader::start(uint64_t epoch, int64_t first) {
    stop();
    VVTQ_CHECK(first >= 0 && first <= batches_, "batch ", first, " of ", batches_);
    started_ = true;
    epoch_ = epoch;
    consumed_ = claimed_ = first;
    skipped_ = 0;
    const bool shuffled = options_.mode == LoaderMode::training || options_.mode == LoaderMode::labelled;
    if (shuffled) {
        order_.resize(static_cast<size_t>(dataset_.size()));
        std::iota(order_.begin(), order_.end(), int64_t{0});
        engine::Random random(engine::mix_key({options_.seed, epoch, kShuffle}));
        for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.below(i)]);
    }
    if (options_.workers == 0) return;
    slots_.resize(static_cast<size_t>(options_.workers) + 1);
    for (Slot& slot : slots_) {
        slot.ready = false;
        slot.error = nullptr;
    }
    for (int i = 0; i < options_.workers; ++i) {
        try {
            threads_.emplace_back([this] { work(); });
        } catch (const std::system_error& error) {
            stop();
            engine::run_error("cannot start ", options_.workers, " loading threads, the system gave ", i,
                              " (", error.code().message(),
                              "): lower `workers`, or raise the limit of threads");
        }
    }
}

void Loader::work() {
    Worker worker;
    const auto slot_count = static_cast<int64_t>(slots_.size());
    std::unique_lock lock(mutex_);
    while (true) {
        room_.wait(lock,
                   [&] { return stopping_ || claimed_ == batches_ || claimed_ < consumed_ + slot_count; });
        if (stopping_ || claimed_ == batches_) return;
        const int64_t index = claimed_++;
        Slot& slot = slots_[static_cast<size_t>(index % slot_count)];
        lock.unlock();
        try {
            make(index, slot.batch, worker);
        } catch (...) {
            slot.error = std::current_exception();
        }
        lock.lock();
        slot.ready = true;
        ready_.notify_all();
    }
}

// False where it was interrupted.
bool Loader::take(Batch& batch) {
    constexpr std::chrono::milliseconds kPatience(50);  // from one question to the next
    if (options_.workers == 0) {
        make(consumed_, batch, own_);
        ++consumed_;
        return true;
    }
    std::exception_ptr error;
    {
        std::unique_lock lock(mutex_);
        Slot& slot = slots_[static_cast<size_t>(consumed_ % static_cast<int64_t>(slots_.size()))];
        while (!ready_.wait_for(lock, kPatience, [&] { return slot.ready; })) {
            if (options_.interrupted && options_.interrupted()) return false;
        }
        slot.ready = false;
        std::swap(slot.batch, batch);
        error = std::exchange(slot.error, nullptr);
        consumed_ = error != nullptr ? batches_ : consumed_ + 1;
    }
    if (error != nullptr) {
        stop();
        std::rethrow_exception(error);
    }
    room_.notify_all();
    return true;
}

bool Loader::next(Batch& batch) {
    VVTQ_CHECK(started_, "call start() first");
    while (consumed_ < batches_) {
        if (!take(batch)) return false;
        if (skipped_ == 0 && !batch.skipped.empty()) first_skipped_ = batch.skipped.front();
        skipped_ += static_cast<int64_t>(batch.skipped.size());
        if (batch.size > 0) return true;  // else all of its pictures were left out
    }
    if (skipped_ > 0 && options_.on_skipped) {
        options_.on_skipped(engine::concat("left out ", skipped_, skipped_ == 1 ? " picture" : " pictures",
                                           " of '", printable(dataset_.name()),
                                           "', the first: ", first_skipped_));
    }
    skipped_ = 0;
    return false;
}

// The crops of a batch; those of a picture are neighbours.
void Loader::list_items(int64_t batch, std::vector<Item>& items) const {
    const int64_t size = options_.batch_size;
    const int64_t crops = options_.num_crops;
    const int64_t pictures = dataset_.size();
    items.clear();
    switch (options_.mode) {
        case LoaderMode::evaluation:
            for (int64_t i = batch * size; i < std::min((batch + 1) * size, pictures); ++i)
                items.push_back({i, 0});
            return;
        case LoaderMode::labelling:
            for (int64_t i = batch * size; i < std::min((batch + 1) * size, pictures * crops); ++i) {
                items.push_back({i / crops, static_cast<int>(i % crops)});
            }
            return;
        case LoaderMode::training: {
            const int64_t repeats = options_.augmentation.repeats;
            for (int64_t i = batch * size; i < (batch + 1) * size; ++i) {
                items.push_back({order_[static_cast<size_t>(i / repeats)], static_cast<int>(i % repeats)});
            }
            return;
        }
        case LoaderMode::labelled: {
            const int64_t per_batch = (size + crops - 1) / crops;
            for (int64_t i = 0; i < size; ++i) {
                items.push_back({order_[static_cast<size_t>(batch * per_batch + i / crops)],
                                 static_cast<int>(i % crops)});
            }
        }
    }
}

void Loader::make(int64_t index, Batch& batch, Worker& worker) {
    using Clock = std::chrono::steady_clock;
    const auto began = Clock::now();
    const auto jpeg_before = worker.reader.jpeg_time();
    const int64_t number = index * options_.processes + options_.process;
    list_items(number, worker.items);
    const size_t size = worker.items.size();
    const auto side = static_cast<size_t>(options_.image_size);
    const bool labelled = options_.mode == LoaderMode::labelled;
    const bool labelling = options_.mode == LoaderMode::labelling;
    const bool mixed = options_.mode == LoaderMode::training && options_.augmentation.mixing.active();
    batch.size = 0;
    batch.image_size = options_.image_size;
    batch.classes = dataset_.classes();
    batch.pixels.resize(size * 3 * side * side);
    batch.pictures.resize(size);
    batch.targets.resize(size);
    batch.soft.resize(labelled || mixed ? size * static_cast<size_t>(batch.classes) : 0);
    batch.coords.resize(labelled || labelling ? size : 0);
    batch.flips.resize(labelled || labelling ? size : 0);
    batch.skipped.clear();
    for (size_t i = 0; i < size && !stopping_;) {  // nobody looks at a batch once stopping
        size_t end = i + 1;
        while (end < size && worker.items[end].picture == worker.items[i].picture) ++end;
        add_crops(std::span(worker.items).subspan(i, end - i), batch, worker);
        i = end;
    }
    if (stopping_) return;
    const auto made = static_cast<size_t>(batch.size);
    VVTQ_CHECK(made == size || !batch.skipped.empty(), made, " of ", size, " crops");
    if (made < size) {  // pictures were left out
        batch.pixels.resize(made * 3 * side * side);
        batch.pictures.resize(made);
        batch.targets.resize(made);
        batch.coords.resize(labelling ? made : 0);
        batch.flips.resize(labelling ? made : 0);
    }
    if (mixed) {
        engine::Random random(engine::mix_key({options_.seed, epoch_, static_cast<uint64_t>(number), kMix}));
        mix_batch(options_.augmentation.mixing, random, options_.image_size, options_.augmentation.smoothing,
                  batch.classes, batch.targets, batch.pixels, batch.soft);
    }
    busy_time_ += std::chrono::nanoseconds(Clock::now() - began).count();
    jpeg_time_ += std::chrono::nanoseconds(worker.reader.jpeg_time() - jpeg_before).count();
}

}  // namespace vvtq::data
