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
            batches_ = pictures / size;
            break;
        case LoaderMode::labelled:
            batches_ = pictures / ((size + crops - 1) / crops);
    }
    share_out();
    if (batches_ == 0) {
        engine::input_error("`batch_size` ", size, " needs more pictures than the ", pictures, " of '",
                            printable(dataset_.name()), "': use a smaller `batch_size`");
    }
}

// Which places of a training batch this process makes: one run, or, where pictures of one shard are mixed,
// two runs that mirror each other, because a picture is mixed with its mirror place.
void Loader::share_out() {
    const int64_t size = options_.batch_size, processes = options_.processes, shards = options_.shards;
    VVTQ_CHECK(shards >= 1 && (shards == 1 || shards % processes == 0), shards, " shards for ", processes,
               " processes");
    const bool mirrored = shards == 1 && processes > 1 && options_.mode == LoaderMode::training &&
                          options_.augmentation.mixing.active();
    const int64_t runs = std::max(shards, mirrored ? 2 * processes : processes);
    if (size % runs != 0) {
        engine::input_error("`batch_size` ", size, ": cannot be cut into ", runs, " equal parts",
                            mirrored ? ", two for each process because pictures are mixed" : "",
                            "; use a multiple of ", runs,
                            shards > 1 ? ", or other `shards`" : ", or another number of processes");
    }
    const int64_t each = mirrored ? size / runs : size / processes;
    for (int64_t i = 0; i < each; ++i) places_.push_back(options_.process * each + i);
    for (int64_t i = 0; mirrored && i < each; ++i) {
        places_.push_back(size - (options_.process + 1) * each + i);
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

bool Loader::all_begun() {
    const std::lock_guard lock(mutex_);
    return claimed_ == batches_;
}

void Loader::start(uint64_t epoch, int64_t first) {
    if (untouched_ && epoch_ == epoch && first_ == first) return;
    stop();
    VVTQ_CHECK(first >= 0 && first <= batches_, "batch ", first, " of ", batches_);
    started_ = untouched_ = true;
    epoch_ = epoch;
    first_ = first;
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
            untouched_ = false;
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
    untouched_ = false;
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
            for (const int64_t place : places_) {
                const int64_t i = batch * size + place;
                items.push_back({order_[static_cast<size_t>(i / repeats)], static_cast<int>(i % repeats)});
            }
            return;
        }
        case LoaderMode::labelled: {
            const int64_t per_batch = (size + crops - 1) / crops;
            for (const int64_t i : places_) {
                items.push_back({order_[static_cast<size_t>(batch * per_batch + i / crops)],
                                 static_cast<int>(i % crops)});
            }
        }
    }
}

// Mixes the pictures of each shard.
void Loader::mix(int64_t number, Batch& batch) const {
    const Mixing& mixing = options_.augmentation.mixing;
    const int64_t of_shard = options_.batch_size / options_.shards, made = batch.size;
    const auto side = static_cast<size_t>(options_.image_size), classes = static_cast<size_t>(batch.classes);
    for (int64_t first = 0; first < made;) {
        const int64_t shard = places_[static_cast<size_t>(first)] / of_shard;
        const int64_t here = std::min(of_shard, made - first);
        engine::Random random(
            shard == 0 ? engine::mix_key({options_.seed, epoch_, static_cast<uint64_t>(number), kMix})
                       : engine::mix_key({options_.seed, epoch_, static_cast<uint64_t>(number), kMix,
                                          static_cast<uint64_t>(shard)}));
        const std::vector<Mix> all =
            draw_mixes(mixing, random, options_.image_size, static_cast<size_t>(of_shard));
        std::vector<Mix> mixes;
        for (int64_t i = first; i < first + here; ++i) {
            mixes.push_back(all[static_cast<size_t>(places_[static_cast<size_t>(i)] % of_shard)]);
        }
        const auto begin = static_cast<size_t>(first), count = static_cast<size_t>(here);
        const size_t plane = 3 * side * side;
        mix_batch(mixes, options_.image_size, options_.augmentation.smoothing, batch.classes,
                  std::span(batch.targets).subspan(begin, count),
                  std::span(batch.pixels).subspan(begin * plane, count * plane),
                  std::span(batch.soft).subspan(begin * classes, count * classes));
        first += here;
    }
}

void Loader::make(int64_t index, Batch& batch, Worker& worker) {
    using Clock = std::chrono::steady_clock;
    const auto began = Clock::now();
    const auto jpeg_before = worker.reader.jpeg_time();
    const auto resample_before = worker.resample_time;
    const bool whole_batches = places_.empty();  // shared out batch by batch
    const int64_t number = whole_batches ? index * options_.processes + options_.process : index;
    list_items(number, worker.items);
    const size_t size = worker.items.size();
    const auto side = static_cast<size_t>(options_.image_size);
    const bool labelled = options_.mode == LoaderMode::labelled;
    const bool labelling = options_.mode == LoaderMode::labelling;
    const bool mixed = options_.mode == LoaderMode::training && options_.augmentation.mixing.active();
    batch.size = 0;
    batch.image_size = options_.image_size;
    batch.classes = dataset_.classes();
    if (batch.pixels.get_allocator().device() != options_.device) {
        batch.pixels = Batch::Pixels(engine::HostAllocator<uint8_t>(options_.device));
    }
    batch.pixels.resize(size * 3 * side * side);
    batch.pictures.resize(size);
    batch.places = places_;
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
    if (mixed) mix(number, batch);
    busy_time_ += std::chrono::nanoseconds(Clock::now() - began).count();
    resample_time_ += std::chrono::nanoseconds(worker.resample_time - resample_before).count();
    jpeg_time_ += std::chrono::nanoseconds(worker.reader.jpeg_time() - jpeg_before).count();
}

}  // namespace vvtq::data
