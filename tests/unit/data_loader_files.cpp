// The loader over picture files: parts of JPEGs in its crops, processes side by side, and pictures that
// cannot be decoded.
#include <set>

#include "data/loader.h"
#include "data/packed_labels.h"
#include "engine/random.h"
#include "tests/jpeg_writer.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;

namespace {

constexpr int kCrops = 6, kClasses = 2, kSize = 24;

// Two classes of JPEGs, gray and color, and a PNG.
std::unique_ptr<Dataset> write_pictures(const Scratch& scratch) {
    write_bytes(scratch / "train/a/0.jpg", fixture("gray.jpg"));
    write_bytes(scratch / "train/a/1.jpg", fixture("picture_q75_s0.jpg"));
    write_bytes(scratch / "train/a/2.jpg", fixture("cmyk.jpg"));
    write_bytes(scratch / "train/b/0.jpg", fixture("picture_q90_s2.jpg"));
    write_bytes(scratch / "train/b/1.png", fixture("picture.png"));
    write_bytes(scratch / "train/b/2.jpg", fixture("picture_q90_s2.jpg"));
    return open_dataset("folder", scratch.path(), Split::train);
}

PackedLabels write_labels(const std::string& path, const Dataset& dataset) {
    PackedLabelWriter writer(path, {LabelType::hard, 0, kCrops, kClasses, dataset.fingerprint(), 1});
    engine::Random random(2);
    PictureLabels labels;
    for (int64_t i = 0; i < dataset.size(); ++i) {
        std::vector<Coords> coords;
        Bytes flips;
        for (int m = 0; m < kCrops; ++m) {
            coords.push_back(label_coords(random_crop(random, 150, 200, {.area_low = 0.02}), 150, 200));
            flips.push_back(static_cast<uint8_t>(m % 2));
        }
        const std::vector<float> p(size_t{kCrops} * kClasses, 0.5F);
        pack_labels(LabelType::hard, coords, flips, p, labels);
        writer.append(i, label_name(dataset, i), labels);
    }
    writer.finish();
    PackedLabels packed = PackedLabels::open(path);
    packed.match(dataset);
    return packed;
}

LoaderOptions options_for(LoaderMode mode) {
    LoaderOptions options;
    options.mode = mode;
    options.batch_size = 6;
    options.image_size = kSize;
    options.workers = 2;
    options.num_crops = mode == LoaderMode::labelled || mode == LoaderMode::labelling ? 3 : 1;
    return options;
}

std::vector<Batch> epoch_of(Loader& loader) {
    std::vector<Batch> batches;
    loader.start(3);
    for (Batch batch; loader.next(batch);) batches.push_back(batch);
    return batches;
}

void damage(const std::string& path) {
    Bytes bytes = read_file(path, "");
    bytes.resize(bytes.size() / 2);
    write_bytes(path, bytes);
}

}  // namespace

TEST_CASE("crops of picture files have the pixels of the whole pictures' crops", "[data][pixels]") {
    const Scratch scratch;
    const auto dataset = write_pictures(scratch);
    const PackedLabels labels = write_labels(scratch / "labels", *dataset);
    Loader loader(*dataset, options_for(LoaderMode::labelled), &labels);
    Resampler resampler;
    Bytes rgb, planes(size_t{3} * kSize * kSize);
    int crops = 0;
    for (const Batch& batch : epoch_of(loader)) {
        for (size_t i = 0; i < 6; ++i, ++crops) {
            const Image whole = dataset->picture(batch.pictures[i]);
            resampler.resize(whole, label_crop(batch.coords[i], whole.height, whole.width), kSize, kSize,
                             Filter::bilinear, rgb);
            to_planes(rgb, kSize, batch.flips[i] != 0, planes.data());
            INFO(dataset->id(batch.pictures[i]));
            CHECK(std::equal(planes.begin(), planes.end(),
                             batch.pixels.begin() + static_cast<std::ptrdiff_t>(i * planes.size())));
        }
    }
    CHECK(crops == 18);
}

TEST_CASE("labelling takes the crops of another label set", "[data]") {
    const Scratch scratch;
    const auto dataset = write_pictures(scratch);
    const PackedLabels labels = write_labels(scratch / "labels", *dataset);
    LoaderOptions options = options_for(LoaderMode::labelling);
    options.num_crops = kCrops;
    Loader loader(*dataset, options, &labels);
    PictureLabels read;
    int64_t picture = 0;
    for (const Batch& batch : epoch_of(loader)) {
        labels.read(picture, read);
        for (size_t m = 0; m < kCrops; ++m) {
            const LabelledCrop crop = labels.crop(picture, read, static_cast<int>(m));
            CHECK(batch.pictures[m] == picture);
            CHECK(batch.coords[m] == crop.coords);
            CHECK((batch.flips[m] != 0) == crop.flip);
        }
        ++picture;
    }
    CHECK(picture == 6);
}

TEST_CASE("processes share out the batches of an evaluation and of labelling", "[data]") {
    const Scratch scratch;
    const auto dataset = write_pictures(scratch);
    for (const LoaderMode mode : {LoaderMode::evaluation, LoaderMode::labelling}) {
        LoaderOptions options = options_for(mode);
        options.batch_size = mode == LoaderMode::evaluation ? 2 : 3;
        Loader alone(*dataset, options);
        const auto expected = epoch_of(alone);
        size_t seen = 0;
        options.processes = 2;
        for (options.process = 0; options.process < 2; ++options.process) {
            Loader loader(*dataset, options);
            const auto batches = epoch_of(loader);
            REQUIRE(static_cast<int64_t>(batches.size()) == loader.batches());
            for (size_t i = 0; i < batches.size(); ++i, ++seen) {
                const Batch& same = expected.at(2 * i + static_cast<size_t>(options.process));
                CHECK(batches[i].pixels == same.pixels);
                CHECK(batches[i].pictures == same.pictures);
            }
        }
        CHECK(seen == expected.size());
    }
}

TEST_CASE("processes make parts of a training batch, also where a picture's crops are in two", "[data]") {
    const Scratch scratch;
    const auto dataset = write_pictures(scratch);
    const PackedLabels labels = write_labels(scratch / "labels", *dataset);
    LoaderOptions options = options_for(LoaderMode::labelled);
    options.batch_size = 12;
    options.num_crops = 4;
    Loader alone(*dataset, options, &labels);
    const auto expected = epoch_of(alone);
    REQUIRE(!expected.empty());
    for (const int processes : {2, 4, 6}) {
        CAPTURE(processes);
        options.processes = processes;
        const size_t part = 12 / static_cast<size_t>(processes);
        for (options.process = 0; options.process < processes; ++options.process) {
            Loader loader(*dataset, options, &labels);
            const auto batches = epoch_of(loader);
            REQUIRE(batches.size() == expected.size());
            for (size_t i = 0; i < batches.size(); ++i) {
                const size_t first = part * static_cast<size_t>(options.process);
                const size_t plane = expected[i].pixels.size() / 12, classes = expected[i].soft.size() / 12;
                const auto same = [&](const auto& own, const auto& whole, size_t width) {
                    return std::equal(own.begin(), own.end(),
                                      whole.begin() + static_cast<std::ptrdiff_t>(first * width),
                                      whole.begin() + static_cast<std::ptrdiff_t>((first + part) * width));
                };
                CHECK(same(batches[i].pixels, expected[i].pixels, plane));
                CHECK(same(batches[i].soft, expected[i].soft, classes));
                CHECK(same(batches[i].coords, expected[i].coords, 1));
                CHECK(same(batches[i].places, expected[i].places, 1));
                CHECK(batches[i].places[0] == static_cast<int64_t>(first));
            }
        }
    }
    options.process = 0;
    options.processes = 5;
    CHECK(refuses("`batch_size` 12", [&] { Loader(*dataset, options, &labels); }));
}

TEST_CASE("a picture that cannot be decoded is an error with its path, or is left out and counted",
          "[data][bad-input]") {
    const Scratch scratch;
    const auto dataset = write_pictures(scratch);
    const PackedLabels labels = write_labels(scratch / "labels", *dataset);
    damage(scratch / "train/a/1.jpg");
    std::filesystem::remove(scratch / "train/b/1.png");
    for (const LoaderMode mode :
         {LoaderMode::evaluation, LoaderMode::training, LoaderMode::labelled, LoaderMode::labelling}) {
        const SoftLabels* given = mode == LoaderMode::labelled ? &labels : nullptr;
        LoaderOptions options = options_for(mode);
        Loader strict(*dataset, options, given);
        CHECK(refuses(scratch / "train/", [&] { epoch_of(strict); }));

        std::vector<std::string> told;
        options.skip_bad = true;
        options.on_skipped = [&](const std::string& text) { told.push_back(text); };
        Loader loader(*dataset, options, given);
        const auto batches = epoch_of(loader);
        const bool instead = mode == LoaderMode::training || mode == LoaderMode::labelled;
        std::set<int64_t> pictures;
        int64_t crops = 0;
        for (const Batch& batch : batches) {
            CHECK(batch.pixels.size() == static_cast<size_t>(batch.size) * 3 * kSize * kSize);
            CHECK(batch.pictures.size() == static_cast<size_t>(batch.size));
            pictures.insert(batch.pictures.begin(), batch.pictures.end());
            crops += batch.size;
        }
        // Training batches stay full: the next picture stands in.
        CHECK(crops == (instead ? static_cast<int64_t>(batches.size()) * 6 : 4 * options.num_crops));
        CHECK(pictures.count(1) == 0);
        CHECK(pictures.count(4) == 0);
        CHECK(pictures.size() == 4);
        REQUIRE(told.size() == 1);
        INFO(told[0]);
        CHECK(told[0].find("left out 2 pictures of '" + scratch / "train") != std::string::npos);
        CHECK((told[0].find("train/a/1.jpg") != std::string::npos ||
               told[0].find("train/b/1.png") != std::string::npos));
        CHECK(told[0].find('\n') == std::string::npos);
        options.workers = 0;
        Loader alone(*dataset, options, given);
        const auto again = epoch_of(alone);
        REQUIRE(again.size() == batches.size());
        for (size_t i = 0; i < again.size(); ++i) CHECK(again[i].pixels == batches[i].pixels);
    }
    for (const char* name : {"a/0.jpg", "a/2.jpg", "b/0.jpg", "b/2.jpg"}) {
        damage(scratch / ("train/" + std::string(name)));
    }
    LoaderOptions options = options_for(LoaderMode::training);
    options.skip_bad = true;
    Loader loader(*dataset, options);
    CHECK(refuses(scratch / "train", [&] { epoch_of(loader); }));
}
