// What a batch's crops are: where they are cut, and what is done to their pixels.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/loader.h"
#include "engine/check.h"
#include "engine/random.h"

namespace vvtq::data {
namespace {

// Streams of random numbers, apart from one another.
enum Purpose : uint64_t { kTrainingCrop = 2, kLabelDraw, kLabellingCrop, kAugment, kErase };

Box united(const Box& a, const Box& b) {
    const int top = std::min(a.top, b.top), left = std::min(a.left, b.left);
    return {top, left, std::max(a.top + a.height, b.top + b.height) - top,
            std::max(a.left + a.width, b.left + b.width) - left};
}

}  // namespace

engine::Random Loader::draws(uint64_t purpose, int64_t picture, int crop) const {
    const auto item = static_cast<uint64_t>(picture);
    const auto number = static_cast<uint64_t>(crop);
    return engine::Random(crop == 0 ? engine::mix_key({options_.seed, epoch_, item, purpose})
                                    : engine::mix_key({options_.seed, epoch_, item, number, purpose}));
}

void Loader::plan_random(std::span<const Item> items, int64_t picture, Worker& worker) const {
    const bool training = options_.mode == LoaderMode::training;
    const int height = worker.reader.height(), width = worker.reader.width();
    for (const Item& item : items) {
        engine::Random random =
            training ? draws(kTrainingCrop, picture, item.crop)
                     : engine::Random(engine::mix_key({options_.seed, static_cast<uint64_t>(picture),
                                                       static_cast<uint64_t>(item.crop), kLabellingCrop}));
        Cut cut;
        cut.box = training && !options_.augment ? Box{0, 0, height, width}
                                                : random_crop(random, height, width, options_.rule);
        cut.flip = random.uniform() < options_.flip_probability;
        const bool draws_filter = training && options_.augmentation.random_filter;
        cut.filter = !draws_filter          ? options_.filter
                     : random.below(2) == 0 ? Filter::bilinear
                                            : Filter::bicubic;
        worker.cuts.push_back(cut);
    }
}

void Loader::plan_labelled(std::span<const Item> items, int64_t picture, Worker& worker) const {
    labels_->read(picture, worker.labels);
    // A label file may hold more crops than the first one; draws are among those that all have.
    worker.draw.resize(static_cast<size_t>(labels_->header().crops));
    std::iota(worker.draw.begin(), worker.draw.end(), 0);
    engine::Random random = draws(kLabelDraw, picture, 0);
    size_t drawn = 0;  // also those of the picture's crops that another process makes
    for (const Item& item : items) {
        const auto m = static_cast<size_t>(item.crop);
        for (; options_.mode == LoaderMode::labelled && drawn <= m; ++drawn) {
            std::swap(worker.draw[drawn], worker.draw[drawn + random.below(worker.draw.size() - drawn)]);
        }
        Cut cut;
        cut.label = labels_->crop(picture, worker.labels, worker.draw[m]);
        cut.flip = cut.label.flip;
        cut.filter = options_.filter;
        cut.box = label_crop(cut.label.coords, worker.reader.height(), worker.reader.width());
        if (cut.box.height < 1 || cut.box.width < 1) {
            engine::input_error(labels_->place(picture), ": crop ", worker.draw[m], " of '",
                                printable(dataset_.id(picture)), "' holds no pixel: make the labels again");
        }
        worker.cuts.push_back(cut);
    }
}

// Does something with a picture; false where it is bad and to be left out.
template <typename Action>
bool Loader::good(Batch& batch, Action action) const {
    try {
        action();
        return true;
    } catch (const engine::Error& error) {
        if (!options_.skip_bad || error.fault() != engine::Fault::input) throw;
        batch.skipped.emplace_back(error.what());
        return false;
    }
}

// The part of the open picture that its crops need; they are planned here, but for an evaluation.
Box Loader::plan(std::span<const Item> items, int64_t picture, Worker& worker) const {
    if (options_.mode == LoaderMode::evaluation) return {0, 0, worker.reader.height(), worker.reader.width()};
    worker.cuts.clear();
    if (labels_ != nullptr) {
        plan_labelled(items, picture, worker);
    } else {
        plan_random(items, picture, worker);
    }
    Box needed = worker.cuts.front().box;
    for (const Cut& cut : worker.cuts) needed = united(needed, cut.box);
    return needed;
}

void Loader::add_crops(std::span<const Item> items, Batch& batch, Worker& worker) const {
    const bool instead = options_.mode == LoaderMode::training || options_.mode == LoaderMode::labelled;
    const int64_t pictures = dataset_.size();
    for (int64_t tried = 0; tried < (instead ? pictures : 1) && !stopping_; ++tried) {
        const int64_t picture = (items.front().picture + tried) % pictures;
        const PictureReader::Closer closer(worker.reader);
        if (!good(batch, [&] { dataset_.open(picture, worker.reader); })) continue;
        const Box needed = plan(items, picture, worker);
        const Canvas* canvas = nullptr;
        if (!good(batch, [&] { canvas = &decode(needed, picture, worker); })) continue;
        if (options_.mode == LoaderMode::evaluation) {
            add_evaluation_crop(picture, *canvas, batch, worker);
        } else {
            for (size_t i = 0; i < items.size(); ++i)
                add_cut(items[i], picture, worker.cuts[i], *canvas, batch, worker);
        }
        if (worker.reader.is_large()) worker.resampler = {};
        return;
    }
    if (instead && !stopping_) {
        engine::input_error("no picture of '", printable(dataset_.name()), "' can be decoded: check `data`");
    }
}

// By how much the open picture may be smaller for its crops, which are still shrunk or kept then.
int Loader::reduction(const Worker& worker) const {
    const bool trains = options_.mode == LoaderMode::training || options_.mode == LoaderMode::labelled;
    if (!options_.reduced_decoding || !trains) return 1;
    constexpr int kMost = 8;
    const int size = options_.image_size;
    int reduce = kMost;
    for (const Cut& cut : worker.cuts) {
        while (reduce > 1 && std::min(cut.box.height, cut.box.width) / reduce < size) reduce /= 2;
    }
    return reduce;
}

const Canvas& Loader::decode(const Box& needed, int64_t picture, Worker& worker) const {
    const int height = worker.reader.height(), width = worker.reader.width(), size = options_.image_size;
    uint64_t scratch = 0;
    if (options_.mode == LoaderMode::evaluation) {
        constexpr int64_t kLongest = 1000;  // times the shorter side
        if (std::max(height, width) > kLongest * std::min(height, width)) {
            engine::input_error("picture '", printable(dataset_.id(picture)), "' of '",
                                printable(dataset_.name()), "' has ", height, " x ", width,
                                " pixels, too thin to evaluate: remove it");
        }
        scratch = Resampler::memory(needed, size, needed);
    } else {
        const Box all{0, 0, height, width};
        for (const Cut& cut : worker.cuts) scratch = std::max(scratch, Resampler::memory(cut.box, size, all));
    }
    return worker.reader.decode(needed, scratch, reduction(worker));
}

void Loader::add_cut(const Item& item, int64_t picture, const Cut& cut, const Canvas& canvas, Batch& batch,
                     Worker& worker) const {
    const int size = options_.image_size;
    const Resize resize = reduced({cut.box, size, size, {0, 0, size, size}, cut.filter}, canvas.reduce);
    const auto at = static_cast<size_t>(batch.size++);
    const size_t plane_bytes = size_t{3} * static_cast<size_t>(size) * static_cast<size_t>(size);
    uint8_t* planes = batch.pixels.data() + at * plane_bytes;
    batch.pictures[at] = picture;
    batch.targets[at] = dataset_.label(picture);
    const Augmentation& augmentation = options_.augmentation;
    const bool training = options_.mode == LoaderMode::training;
    const auto resampled = [&](auto&&... to) {
        const auto began = std::chrono::steady_clock::now();
        worker.resampler.resize(canvas, resize, to...);
        worker.resample_time += std::chrono::steady_clock::now() - began;
    };
    if (training && (augmentation.rand_augment.layers > 0 || augmentation.color_jitter > 0)) {
        engine::Random random = draws(kAugment, picture, item.crop);
        worker.image.height = worker.image.width = size;
        resampled(worker.image.rgb);
        if (cut.flip) mirror(worker.image);
        if (augmentation.rand_augment.layers > 0) {
            apply(augmentation.rand_augment, random, worker.image);
        } else {
            color_jitter(augmentation.color_jitter, random, worker.image);
        }
        to_planes(worker.image.rgb, size, false, planes);
    } else {
        resampled(cut.flip, planes);
    }
    if (training && augmentation.erasing.probability > 0) {
        engine::Random random = draws(kErase, picture, item.crop);
        erase(augmentation.erasing, random, size, planes);
    }
    if (training) return;
    batch.coords[at] = labels_ != nullptr
                           ? cut.label.coords
                           : label_coords(cut.box, worker.reader.height(), worker.reader.width());
    batch.flips[at] = cut.flip ? 1 : 0;
    if (options_.mode != LoaderMode::labelled) return;
    const auto classes = static_cast<size_t>(batch.classes);
    const std::span<float> p(batch.soft.data() + at * classes, classes);
    recover_label<float>(labels_->header().type, cut.label.index, cut.label.value, p);
    batch.targets[at] = static_cast<int>(std::max_element(p.begin(), p.end()) - p.begin());
}

void Loader::add_evaluation_crop(int64_t picture, const Canvas& canvas, Batch& batch, Worker& worker) const {
    const int size = options_.image_size;
    const int height = worker.reader.height(), width = worker.reader.width();
    const int shorter = options_.shorter_side < 0 ? evaluation_side(size) : options_.shorter_side;
    const EvaluationCrop crop =
        shorter == 0 ? whole_picture(size) : central_crop(height, width, size, shorter);
    const auto at = static_cast<size_t>(batch.size++);
    batch.pictures[at] = picture;
    batch.targets[at] = dataset_.label(picture);
    worker.resampler.resize(
        canvas, {{0, 0, height, width}, crop.height, crop.width, crop.window, options_.filter}, false,
        batch.pixels.data() + at * 3 * static_cast<size_t>(size) * static_cast<size_t>(size));
}

}  // namespace vvtq::data
