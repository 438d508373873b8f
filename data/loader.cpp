#include "data/loader.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "engine/check.h"
#include "engine/random.h"

namespace vvtq::data {
namespace {

// Streams of random numbers, apart from one another.
enum Purpose : uint64_t { kShuffle = 1, kTrainingCrop, kLabelDraw, kLabellingCrop };

}  // namespace

template <typename Real>
void normalize(const Batch& batch, const Normalization& normalization, Real* out) {
    const auto plane = static_cast<size_t>(batch.image_size) * static_cast<size_t>(batch.image_size);
    VVTQ_CHECK(batch.pixels.size() == static_cast<size_t>(batch.size) * 3 * plane, batch.pixels.size(),
               " pixels");
    for (size_t p = 0; p < static_cast<size_t>(batch.size) * 3; ++p) {
        const Real mean = normalization.mean[p % 3];
        const Real deviation = normalization.deviation[p % 3];
        const uint8_t* in = batch.pixels.data() + p * plane;
        Real* to = out + p * plane;
        for (size_t i = 0; i < plane; ++i) to[i] = (static_cast<Real>(in[i]) / Real{255} - mean) / deviation;
    }
}

template void normalize(const Batch&, const Normalization&, float*);
template void normalize(const Batch&, const Normalization&, double*);

Loader::Loader(const Dataset& dataset, const LoaderOptions& options, const SoftLabels* labels)
    : dataset_(dataset), options_(options), labels_(labels) {
    const int64_t pictures = dataset.size();
    const int64_t size = options.batch_size;
    VVTQ_CHECK(pictures > 0, "data set '", dataset.name(), "' is empty");
    VVTQ_CHECK((labels != nullptr) == (options.mode == LoaderMode::labelled),
               "labels go with labelled crops");
    VVTQ_CHECK(options.workers >= 0 && options.image_size > 0, options.workers, " workers, size ",
               options.image_size);
    if (size < 1) engine::input_error("--batch-size ", size, ": use 1 or more");
    if (options.num_crops < 1) engine::input_error("--num_crops ", options.num_crops, ": use 1 or more");
    const int64_t crops = options.num_crops;
    switch (options.mode) {
        case LoaderMode::evaluation:
            batches_ = (pictures + size - 1) / size;
            return;
        case LoaderMode::labelling:
            batches_ = (pictures * crops + size - 1) / size;
            return;
        case LoaderMode::training:
            batches_ = pictures / size;
            break;
        case LoaderMode::labelled:
            labels->require_matches(dataset.fingerprint(), pictures, dataset.classes(), dataset.name());
            if (crops > labels->header().crops) {
                engine::input_error("--num_crops ", crops, ": label file '", printable(labels->path()),
                                    "' has ", labels->header().crops,
                                    " crops per picture; use at most that many");
            }
            batches_ = pictures / ((size + crops - 1) / crops);
    }
    if (batches_ == 0) {
        engine::input_error("--batch-size ", size, " needs more pictures than the ", pictures, " of '",
                            printable(dataset.name()), "': use a smaller --batch-size");
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
    for (int i = 0; i < options_.workers; ++i) threads_.emplace_back([this] { work(); });
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

bool Loader::next(Batch& batch) {
    VVTQ_CHECK(started_, "call start() first");
    if (consumed_ == batches_) return false;
    if (options_.workers == 0) {
        make(consumed_, batch, own_);
        ++consumed_;
        return true;
    }
    std::exception_ptr error;
    {
        std::unique_lock lock(mutex_);
        Slot& slot = slots_[static_cast<size_t>(consumed_ % static_cast<int64_t>(slots_.size()))];
        ready_.wait(lock, [&] { return slot.ready; });
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

void Loader::make(int64_t index, Batch& batch, Worker& worker) const {
    const int64_t pictures = dataset_.size();
    const int64_t crops = options_.num_crops;
    int64_t begin = index * options_.batch_size;
    int64_t end = begin + options_.batch_size;
    if (options_.mode == LoaderMode::evaluation) end = std::min(end, pictures);
    if (options_.mode == LoaderMode::labelling) end = std::min(end, pictures * crops);
    const auto size = static_cast<size_t>(end - begin);
    const auto side = static_cast<size_t>(options_.image_size);
    const bool labelled = options_.mode == LoaderMode::labelled;
    const bool labelling = options_.mode == LoaderMode::labelling;
    batch.size = 0;
    batch.image_size = options_.image_size;
    batch.classes = dataset_.classes();
    batch.pixels.resize(size * 3 * side * side);
    batch.pictures.resize(size);
    batch.targets.resize(size);
    batch.soft.resize(labelled ? size * static_cast<size_t>(batch.classes) : 0);
    batch.coords.resize(labelled || labelling ? size : 0);
    batch.flips.resize(labelled || labelling ? size : 0);
    if (labelled) {
        const int64_t per_batch = (options_.batch_size + crops - 1) / crops;
        for (int64_t i = index * per_batch; i < (index + 1) * per_batch; ++i) {
            const int64_t left = options_.batch_size - batch.size;
            add_crops(order_[static_cast<size_t>(i)], 0, static_cast<int>(std::min(crops, left)), batch,
                      worker);
        }
    } else if (labelling) {
        while (begin < end) {
            const int64_t first = begin % crops;
            const int64_t count = std::min(crops - first, end - begin);
            add_crops(begin / crops, static_cast<int>(first), static_cast<int>(count), batch, worker);
            begin += count;
        }
    } else {
        const bool shuffled = options_.mode == LoaderMode::training;
        for (; begin < end; ++begin)
            add_crops(shuffled ? order_[static_cast<size_t>(begin)] : begin, 0, 1, batch, worker);
    }
    VVTQ_CHECK(stopping_ || batch.size == static_cast<int64_t>(size), batch.size, " of ", size, " crops");
}

void Loader::add_crops(int64_t picture, int first, int count, Batch& batch, Worker& worker) const {
    if (stopping_) return;  // nobody will look at this batch
    const Image image = dataset_.picture(picture);
    switch (options_.mode) {
        case LoaderMode::evaluation:
            evaluation_crop(picture, image, batch, worker);
            break;
        case LoaderMode::training:
        case LoaderMode::labelling:
            random_crops(picture, image, first, count, batch, worker);
            break;
        case LoaderMode::labelled:
            labelled_crops(picture, image, count, batch, worker);
            break;
    }
}

void Loader::evaluation_crop(int64_t picture, const Image& image, Batch& batch, Worker& worker) const {
    const int size = options_.image_size;
    constexpr int64_t kLongest = 1000;  // times the shorter side
    if (std::max(image.height, image.width) > kLongest * std::min(image.height, image.width)) {
        engine::input_error("picture '", printable(dataset_.id(picture)), "' of '",
                            printable(dataset_.name()), "' has ", image.height, " x ", image.width,
                            " pixels, too thin to evaluate: remove it");
    }
    const int shorter = options_.shorter_side < 0 ? evaluation_side(size) : options_.shorter_side;
    const EvaluationCrop crop =
        shorter == 0 ? whole_picture(size) : central_crop(image.height, image.width, size, shorter);
    const Box all{0, 0, image.height, image.width};
    worker.resampler.resize(image, all, crop.height, crop.width, crop.window, options_.filter, worker.rgb);
    const auto at = static_cast<size_t>(batch.size++);
    batch.pictures[at] = picture;
    batch.targets[at] = dataset_.label(picture);
    to_planes(worker.rgb, size, false, batch.pixels.data() + at * worker.rgb.size());
}

void Loader::cut(const Image& image, const Box& box, bool flip, Batch& batch, Worker& worker) const {
    const int size = options_.image_size;
    worker.resampler.resize(image, box, size, size, options_.filter, worker.rgb);
    to_planes(worker.rgb, size, flip,
              batch.pixels.data() + static_cast<size_t>(batch.size) * worker.rgb.size());
}

void Loader::random_crops(int64_t picture, const Image& image, int first, int count, Batch& batch,
                          Worker& worker) const {
    const bool training = options_.mode == LoaderMode::training;
    for (int m = first; m < first + count; ++m) {
        const auto item = static_cast<uint64_t>(picture);
        const auto number = static_cast<uint64_t>(m);
        engine::Random random(training ? engine::mix_key({options_.seed, epoch_, item, kTrainingCrop})
                                       : engine::mix_key({options_.seed, item, number, kLabellingCrop}));
        const bool whole = training && !options_.augment;
        const Box box = whole ? Box{0, 0, image.height, image.width}
                              : random_crop(random, image.height, image.width, options_.rule);
        const bool flip = random.uniform() < options_.flip_probability;
        cut(image, box, flip, batch, worker);
        const auto at = static_cast<size_t>(batch.size++);
        batch.pictures[at] = picture;
        batch.targets[at] = dataset_.label(picture);
        if (training) continue;
        batch.coords[at] = label_coords(box, image.height, image.width);
        batch.flips[at] = flip ? 1 : 0;
    }
}

void Loader::labelled_crops(int64_t picture, const Image& image, int count, Batch& batch,
                            Worker& worker) const {
    const SoftLabelHeader& header = labels_->header();
    const auto classes = static_cast<size_t>(header.classes);
    worker.draw.resize(static_cast<size_t>(header.crops));
    std::iota(worker.draw.begin(), worker.draw.end(), 0);
    engine::Random random(
        engine::mix_key({options_.seed, epoch_, static_cast<uint64_t>(picture), kLabelDraw}));
    for (size_t m = 0; m < static_cast<size_t>(count); ++m) {
        std::swap(worker.draw[m], worker.draw[m + random.below(worker.draw.size() - m)]);
        const LabelledCrop crop = labels_->crop(picture, worker.draw[m]);
        const Box box = label_crop(crop.coords, image.height, image.width);
        if (box.height < 1 || box.width < 1) {
            engine::input_error("label file '", printable(labels_->path()), "': crop ", worker.draw[m],
                                " of '", printable(dataset_.id(picture)),
                                "' holds no pixel: make the labels again");
        }
        cut(image, box, crop.flip, batch, worker);
        const auto at = static_cast<size_t>(batch.size++);
        const std::span<float> p(batch.soft.data() + at * classes, classes);
        recover_label<float>(header.type, crop.index, crop.value, p);
        batch.pictures[at] = picture;
        batch.targets[at] = static_cast<int>(std::max_element(p.begin(), p.end()) - p.begin());
        batch.coords[at] = crop.coords;
        batch.flips[at] = crop.flip ? 1 : 0;
    }
}

}  // namespace vvtq::data
