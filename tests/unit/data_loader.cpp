// The loader: the same batches for any number of workers, the right crops in them, and clean ends.
#include <atomic>
#include <cmath>
#include <set>
#include <thread>

#include "data/loader.h"
#include "data/packed_labels.h"
#include "engine/random.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;

namespace {

constexpr int kPictures = 23, kSide = 20, kClasses = 12, kCrops = 6;

std::unique_ptr<Dataset> noise_dataset(int pictures = kPictures) {
    engine::Random random(11);
    Bytes pixels(static_cast<size_t>(pictures) * kSide * kSide * 3);
    for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random.bits());
    std::vector<int> labels;
    for (int i = 0; i < pictures; ++i) labels.push_back(i % kClasses);
    std::vector<std::string> names;
    for (int i = 0; i < kClasses; ++i) names.push_back("class " + std::to_string(i));
    return make_memory_dataset("noise", "train", names, labels, pixels, kSide, kSide, 3);
}

PackedLabels noise_labels(const std::string& path, const Dataset& dataset) {
    const LabelType type = LabelType::marginal_smoothing_k5;
    PackedLabelWriter writer(path, {type, 0, kCrops, kClasses, dataset.fingerprint(), 1});
    PictureLabels labels;
    engine::Random random(2);
    for (int64_t i = 0; i < dataset.size(); ++i) {
        std::vector<Coords> coords;
        Bytes flips;
        std::vector<float> p;
        for (int m = 0; m < kCrops; ++m) {
            coords.push_back(label_coords(random_crop(random, kSide, kSide, {}), kSide, kSide));
            flips.push_back(static_cast<uint8_t>(m % 2));
            double sum = 0.0;
            for (int c = 0; c < kClasses; ++c)
                sum += p.emplace_back(static_cast<float>(0.05 + random.uniform()));
            for (size_t c = p.size() - kClasses; c < p.size(); ++c) p[c] = static_cast<float>(p[c] / sum);
        }
        pack_labels(type, coords, flips, p, labels);
        writer.append(i, label_name(dataset, i), labels);
    }
    writer.finish();
    PackedLabels packed = PackedLabels::open(path);
    packed.match(dataset);
    return packed;
}

bool same(const Batch& a, const Batch& b) {
    return a.size == b.size && a.image_size == b.image_size && a.classes == b.classes &&
           a.pixels == b.pixels && a.pictures == b.pictures && a.targets == b.targets && a.soft == b.soft &&
           a.coords == b.coords && a.flips == b.flips;
}

bool same(const std::vector<Batch>& a, const std::vector<Batch>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](const auto& x, const auto& y) { return same(x, y); });
}

std::vector<Batch> epoch_of(Loader& loader, uint64_t epoch) {
    std::vector<Batch> batches;
    loader.start(epoch);
    for (Batch batch; loader.next(batch);) batches.push_back(batch);
    return batches;
}

LoaderOptions options_for(LoaderMode mode, int workers) {
    LoaderOptions options;
    options.mode = mode;
    options.batch_size = 8;
    options.image_size = 16;
    options.workers = workers;
    options.seed = 5;
    options.num_crops = mode == LoaderMode::labelled || mode == LoaderMode::labelling ? 3 : 1;
    return options;
}

// A data set whose pictures cannot be decoded from some index on.
class BrokenDataset : public Dataset {
  public:
    explicit BrokenDataset(int64_t broken_from)
        : Dataset("broken", {"only"}, std::vector<int>(40, 0)), broken_from_(broken_from) {}
    std::string id(int64_t index) const override { return std::to_string(index); }
    void open(int64_t index, PictureReader& reader) const override {
        if (index >= broken_from_) engine::input_error("picture '", index, "' is broken: remove it");
        reader.show(4, 4, 3, Bytes(48).data());
    }
    uint64_t fingerprint() const override { return 0; }

  private:
    int64_t broken_from_;
};

// Counts how often its pictures are opened.
class CountingDataset : public Dataset {
  public:
    explicit CountingDataset(const Dataset& counted)
        : Dataset("counted", counted.class_names(), labels_of(counted)), counted_(counted) {}
    std::string id(int64_t index) const override { return counted_.id(index); }
    void open(int64_t index, PictureReader& reader) const override {
        ++opened;
        counted_.open(index, reader);
    }
    uint64_t fingerprint() const override { return 0; }

    mutable std::atomic<int> opened{0};

  private:
    static std::vector<int> labels_of(const Dataset& dataset) {
        std::vector<int> labels;
        for (int64_t i = 0; i < dataset.size(); ++i) labels.push_back(dataset.label(i));
        return labels;
    }
    const Dataset& counted_;
};

}  // namespace

TEST_CASE("batches are the same for any number of workers, and for a second run", "[data]") {
    const Scratch scratch;
    const auto dataset = noise_dataset();
    const PackedLabels labels = noise_labels(scratch / "labels", *dataset);
    for (const LoaderMode mode :
         {LoaderMode::evaluation, LoaderMode::training, LoaderMode::labelled, LoaderMode::labelling}) {
        const SoftLabels* given = mode == LoaderMode::labelled ? &labels : nullptr;
        Loader alone(*dataset, options_for(mode, 0), given);
        const auto first = epoch_of(alone, 1);
        const auto second = epoch_of(alone, 2);
        REQUIRE(static_cast<int64_t>(first.size()) == alone.batches());
        for (const int workers : {1, 3}) {
            Loader threaded(*dataset, options_for(mode, workers), given);
            CHECK(same(epoch_of(threaded, 1), first));
            CHECK(same(epoch_of(threaded, 2), second));
            CHECK(same(epoch_of(threaded, 1), first));
            // From the middle, as a resumed run starts.
            threaded.start(2, 1);
            Batch batch;
            REQUIRE(threaded.next(batch));
            CHECK(same(batch, second[1]));
        }
        const bool random = mode == LoaderMode::training || mode == LoaderMode::labelled;
        CHECK(same(first, second) == !random);
        LoaderOptions other = options_for(mode, 0);
        other.seed = 6;
        Loader reseeded(*dataset, other, given);
        CHECK(same(epoch_of(reseeded, 1), first) == (mode == LoaderMode::evaluation));
    }
}

TEST_CASE("an epoch that is started ahead has the same batches, and is made once", "[data]") {
    const auto dataset = noise_dataset(16);
    const CountingDataset counted(*dataset);
    Loader alone(*dataset, options_for(LoaderMode::training, 0));
    const auto first = epoch_of(alone, 1), second = epoch_of(alone, 2);
    CHECK_FALSE(alone.all_begun());
    Loader ahead(counted, options_for(LoaderMode::training, 3));
    ahead.start(1);
    while (!ahead.all_begun()) std::this_thread::yield();  // two batches, before any is asked for
    CHECK(epoch_of(ahead, 1).size() == 2);                 // starts it again
    CHECK(counted.opened == 16);
    ahead.start(2);
    CHECK(same(epoch_of(ahead, 2), second));
    CHECK(counted.opened == 32);
    CHECK(same(epoch_of(ahead, 2), second));  // it was used up: made anew
    CHECK(counted.opened == 48);
    ahead.start(2);
    ahead.start(1);  // another one
    ahead.start(1, 1);
    Batch batch;
    REQUIRE(ahead.next(batch));
    CHECK(same(batch, first[1]));
    CHECK_FALSE(ahead.next(batch));
    ahead.start(1);
    REQUIRE(ahead.next(batch));
    ahead.start(1);  // from its beginning
    CHECK(same(epoch_of(ahead, 1), first));
}

TEST_CASE("evaluation keeps every picture in order, training drops the rest", "[data]") {
    const auto dataset = noise_dataset();
    Loader evaluation(*dataset, options_for(LoaderMode::evaluation, 2));
    const auto all = epoch_of(evaluation, 0);
    REQUIRE(all.size() == 3);
    CHECK(all[2].size == 7);
    CHECK(all[2].pixels.size() == size_t{7} * 3 * 16 * 16);
    int64_t expected = 0;
    for (const Batch& batch : all) {
        for (size_t i = 0; i < batch.pictures.size(); ++i) {
            CHECK(batch.pictures[i] == expected++);
            CHECK(batch.targets[i] == dataset->label(batch.pictures[i]));
        }
    }
    Loader training(*dataset, options_for(LoaderMode::training, 2));
    std::set<int64_t> seen;
    const auto trained = epoch_of(training, 0);
    REQUIRE(trained.size() == 2);
    for (const Batch& batch : trained) {
        CHECK(batch.size == 8);
        seen.insert(batch.pictures.begin(), batch.pictures.end());
        CHECK(batch.soft.empty());
    }
    CHECK(seen.size() == 16);
}

TEST_CASE("without augmentation and at full size a batch holds the pictures themselves", "[data]") {
    const auto dataset = noise_dataset();
    for (const LoaderMode mode : {LoaderMode::evaluation, LoaderMode::training}) {
        LoaderOptions options = options_for(mode, 0);
        options.image_size = kSide;
        options.shorter_side = 0;
        options.augment = false;
        options.flip_probability = 0.0;
        Loader loader(*dataset, options);
        loader.start(0);
        Batch batch;
        REQUIRE(loader.next(batch));
        Bytes planes(size_t{3} * kSide * kSide);
        for (size_t i = 0; i < 8; ++i) {
            to_planes(dataset->picture(batch.pictures[i]).rgb, kSide, false, planes.data());
            CHECK(std::equal(planes.begin(), planes.end(),
                             batch.pixels.begin() + static_cast<std::ptrdiff_t>(i * planes.size())));
        }
    }
}

TEST_CASE("labelled batches hold distinct crops of their pictures with the right pixels and labels",
          "[data]") {
    const Scratch scratch;
    const auto dataset = noise_dataset();
    const PackedLabels labels = noise_labels(scratch / "labels", *dataset);
    const LoaderOptions options = options_for(LoaderMode::labelled, 0);
    Loader loader(*dataset, options, &labels);
    CHECK(loader.batches() == kPictures / 3);  // ceil(8 / 3) pictures a batch
    std::set<int64_t> pictures;
    PictureLabels read;
    Resampler resampler;
    Bytes rgb, planes(size_t{3} * 16 * 16);
    for (const Batch& batch : epoch_of(loader, 4)) {
        REQUIRE(batch.size == 8);
        REQUIRE(batch.soft.size() == size_t{8} * kClasses);
        // Three crops of a picture, three of the next, two of the last.
        CHECK(batch.pictures[0] == batch.pictures[2]);
        CHECK(batch.pictures[3] == batch.pictures[5]);
        CHECK(batch.pictures[6] == batch.pictures[7]);
        CHECK(batch.pictures[2] != batch.pictures[3]);
        std::set<std::pair<int64_t, int>> drawn;
        for (size_t i = 0; i < 8; ++i) {
            const int64_t picture = batch.pictures[i];
            pictures.insert(picture);
            int found = -1;
            for (int m = 0; m < kCrops; ++m) {
                labels.read(picture, read);
                const LabelledCrop crop = labels.crop(picture, read, m);
                if (crop.coords != batch.coords[i] || drawn.count({picture, m}) != 0) continue;
                std::vector<float> p(kClasses);
                recover_label<float>(labels.header().type, crop.index, crop.value, p);
                if (!std::equal(p.begin(), p.end(),
                                batch.soft.begin() + static_cast<std::ptrdiff_t>(i * kClasses))) {
                    continue;
                }
                found = m;
                CHECK(batch.targets[i] == crop.index[0]);
                CHECK((batch.flips[i] != 0) == crop.flip);
                resampler.resize(dataset->picture(picture), label_crop(crop.coords, kSide, kSide), 16, 16,
                                 Filter::bilinear, rgb);
                to_planes(rgb, 16, crop.flip, planes.data());
                CHECK(std::equal(planes.begin(), planes.end(),
                                 batch.pixels.begin() + static_cast<std::ptrdiff_t>(i * planes.size())));
                break;
            }
            CHECK(found >= 0);
            drawn.insert({picture, found});
        }
        CHECK(drawn.size() == 8);
    }
    CHECK(pictures.size() == 21);
}

TEST_CASE("labelling cuts the crops of every picture once, in order", "[data]") {
    const auto dataset = noise_dataset(5);
    const LoaderOptions options = options_for(LoaderMode::labelling, 2);
    Loader loader(*dataset, options);
    CHECK(loader.batches() == 2);
    std::vector<int64_t> pictures;
    std::set<Coords> distinct;
    for (const Batch& batch : epoch_of(loader, 0)) {
        pictures.insert(pictures.end(), batch.pictures.begin(), batch.pictures.end());
        distinct.insert(batch.coords.begin(), batch.coords.end());
    }
    CHECK(pictures == std::vector<int64_t>{0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4});
    CHECK(distinct.size() > 10);
}

TEST_CASE("a loader ends cleanly at any moment", "[data]") {
    const auto dataset = noise_dataset();
    for (int taken = 0; taken < 3; ++taken) {
        for (int repeat = 0; repeat < 20; ++repeat) {
            Loader loader(*dataset, options_for(LoaderMode::training, 3));
            loader.start(0);
            Batch batch;
            for (int i = 0; i < taken; ++i) REQUIRE(loader.next(batch));
            if (repeat % 2 == 0) loader.start(1);
        }
    }
    const Loader idle(*dataset, options_for(LoaderMode::training, 3));
    CHECK(idle.batches() == 2);
}

TEST_CASE("a broken picture comes up at its batch, whoever decodes it", "[data][bad-input]") {
    const BrokenDataset dataset(19);
    for (const int workers : {0, 1, 3}) {
        Loader loader(dataset, options_for(LoaderMode::evaluation, workers));
        loader.start(0);
        Batch batch;
        CHECK(loader.next(batch));
        CHECK(loader.next(batch));
        CHECK(refuses("picture '19'", [&] { loader.next(batch); }));
    }
}

TEST_CASE("batches that cannot be made are refused with a remedy", "[data][bad-input]") {
    const Scratch scratch;
    const auto dataset = noise_dataset();
    const auto other = noise_dataset(kPictures + 1);
    const PackedLabels labels = noise_labels(scratch / "labels", *dataset);
    LoaderOptions options = options_for(LoaderMode::training, 0);
    options.batch_size = kPictures + 1;
    CHECK(refuses("smaller `batch_size`", [&] { Loader(*dataset, options); }));
    options.batch_size = 0;
    CHECK(refuses("`batch_size`", [&] { Loader(*dataset, options); }));
    options = options_for(LoaderMode::labelled, 0);
    options.num_crops = kCrops + 1;
    CHECK(refuses("`num_crops`", [&] { Loader(*dataset, options, &labels); }));
    options.num_crops = 0;
    CHECK(refuses("`num_crops`", [&] { Loader(*dataset, options, &labels); }));
    options.num_crops = 1;
    PackedLabels again = PackedLabels::open(scratch / "labels");
    CHECK(refuses("another data set", [&] { again.match(*other); }));
    options.batch_size = kPictures + 1;
    CHECK(refuses("smaller `batch_size`", [&] { Loader(*dataset, options, &labels); }));
}
