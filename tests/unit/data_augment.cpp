// Augmentation: single operations against Pillow, the draws, erasing and mixing, and all of it in the loader.
#include <cmath>
#include <numeric>
#include <set>

#include "data/loader.h"
#include "engine/random.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;

namespace {

constexpr int kSide = 24;
constexpr size_t kPlanes = size_t{3} * kSide * kSide;

uint64_t hash(const Image& image) {
    Fnv fnv;
    fnv.add(std::span(image.rgb));
    return fnv.value();
}

/// The project's own one, whatever VVTQ_FIXTURES says: hashes below are of it.
Image own_fixture_picture() {
    const std::string path = VVTQ_SOURCE_DIR "/tests/fixtures/picture.png";
    return decode_image(read_file(path, ""), path);
}

// Each picture one color, so that what a batch's pixels come from can be told.
std::unique_ptr<Dataset> plain_dataset(int pictures) {
    Bytes pixels;
    std::vector<int> labels;
    for (int i = 0; i < pictures; ++i) {
        pixels.insert(pixels.end(), kPlanes, static_cast<uint8_t>(10 * i + 5));
        labels.push_back(i % 4);
    }
    return make_memory_dataset("plain", "train", {"a", "b", "c", "d"}, labels, pixels, kSide, kSide, 3);
}

LoaderOptions training_options(int workers) {
    LoaderOptions options;
    options.mode = LoaderMode::training;
    options.batch_size = 6;
    options.image_size = kSide;
    options.workers = workers;
    options.seed = 4;
    return options;
}

std::vector<Batch> epoch_of(Loader& loader) {
    std::vector<Batch> batches;
    loader.start(2);
    for (Batch batch; loader.next(batch);) batches.push_back(batch);
    return batches;
}

}  // namespace

TEST_CASE("operations on pictures equal Pillow's to the pixel", "[data][augment]") {
    // FNV-1a of what Pillow 13.0 gives at magnitude 9, the sign positive: ImageOps, ImageEnhance, and
    // Image.transform and rotate, bilinear, with the fill color (124, 116, 104).
    const std::pair<Operation, uint64_t> strong[] = {
        {Operation::auto_contrast, 0xC692D5033A2B3159ULL}, {Operation::equalize, 0x98F75278286533E5ULL},
        {Operation::invert, 0xF241C13F01099353ULL},        {Operation::rotate, 0x11C1591C112A0F34ULL},
        {Operation::posterize, 0xA6E4BA0A35304665ULL},     {Operation::solarize, 0x5CDA16AEA14CB325ULL},
        {Operation::solarize_add, 0xE034213A2B1D2B05ULL},  {Operation::color, 0x7859E1015892B3B4ULL},
        {Operation::contrast, 0xAAA304EBC9878059ULL},      {Operation::brightness, 0x0ACEAB9DB8AB5291ULL},
        {Operation::sharpness, 0xA4E3213D6ED5F86FULL},     {Operation::shear_x, 0xC02C80929EDDDE2AULL},
        {Operation::shear_y, 0x6558D47098F99FA7ULL},       {Operation::translate_x, 0xD2AB85CB39EE345AULL},
        {Operation::translate_y, 0xB6B4C95A051BD303ULL}};
    const Image picture = own_fixture_picture();
    for (const auto& [operation, expected] : strong) {
        INFO(operation_name(operation));
        Image image = picture;
        // The first two would leave a picture of the full range as it is.
        if (operation == Operation::auto_contrast || operation == Operation::equalize) {
            enhance(Operation::brightness, 0.3, image);
        }
        uint64_t key = 0;
        while (engine::Random(key).uniform() > 0.5) ++key;  // a stream whose first draw gives a positive sign
        engine::Random random(key);
        apply(operation, 9.0, random, image);
        CHECK(hash(image) == expected);
        CHECK(image.rgb.size() == picture.rgb.size());
    }
    const std::pair<Operation, uint64_t> weak[] = {{Operation::color, 0xBED093D93A529C4EULL},
                                                   {Operation::contrast, 0x96721D97B81D9301ULL},
                                                   {Operation::brightness, 0x079BB29F123E065BULL},
                                                   {Operation::sharpness, 0xB560616DDD928E45ULL}};
    for (const auto& [operation, expected] : weak) {
        INFO(operation_name(operation));
        Image image = picture;
        enhance(operation, 0.3, image);
        CHECK(hash(image) == expected);
    }
}

TEST_CASE("a mirrored picture is mirrored, twice it is itself", "[data][augment]") {
    Image image{1, 3, {1, 2, 3, 4, 5, 6, 7, 8, 9}};
    mirror(image);
    CHECK(image.rgb == Bytes{7, 8, 9, 4, 5, 6, 1, 2, 3});
    mirror(image);
    CHECK(image.rgb == Bytes{1, 2, 3, 4, 5, 6, 7, 8, 9});
}

TEST_CASE("RandAugment's text is parsed, and refused where it says something else", "[data][augment]") {
    const RandAugment deit = parse_rand_augment("rand-m9-mstd0.5-inc1");
    CHECK(deit.layers == 2);
    CHECK(deit.magnitude == 9.0);
    CHECK(deit.deviation == 0.5);
    CHECK(deit.probability == 0.5);
    const RandAugment other = parse_rand_augment("rand-n3-m7.5-p0.25-inc1");
    CHECK(other.layers == 3);
    CHECK(other.magnitude == 7.5);
    CHECK(other.deviation == 0.0);
    CHECK(other.probability == 0.25);
    CHECK(parse_rand_augment("none").layers == 0);
    for (const char* text : {"rand", "rand-m9", "rand-m9-inc0", "rand-m11-inc1", "augmix-m5-inc1", "original",
                             "rand-m9-inc1-w0", "rand-mx-inc1", "rand--inc1", "rand-m9-mstdnan-inc1"}) {
        INFO(text);
        CHECK(refuses("`rand_augment`", [&] { parse_rand_augment(text); }));
    }
}

TEST_CASE("RandAugment draws every operation, about half of the time, and repeats by key",
          "[data][augment]") {
    const Image picture = own_fixture_picture();
    const RandAugment augment = parse_rand_augment("rand-m9-mstd0.5-inc1");
    std::set<uint64_t> results;
    int untouched = 0;
    constexpr int kDraws = 120;
    for (uint64_t key = 0; key < kDraws; ++key) {
        engine::Random random(engine::mix_key({key, 7})), again(engine::mix_key({key, 7}));
        Image image = picture, same = picture;
        apply(augment, random, image);
        apply(augment, again, same);
        REQUIRE(image.rgb == same.rgb);
        untouched += image.rgb == picture.rgb;
        results.insert(hash(image));
    }
    // Both layers are left out with probability 1/4, and autocontrast changes nothing here: about 0.29; five
    // deviations are 0.21.
    CHECK(untouched > kDraws * 0.08);
    CHECK(untouched < kDraws * 0.50);
    CHECK(results.size() > 60);
}

TEST_CASE("color jitter keeps within its strength", "[data][augment]") {
    // One gray: contrast and saturation leave it, brightness scales it.
    for (uint64_t key = 0; key < 100; ++key) {
        engine::Random random(key);
        Image image{4, 4, Bytes(48, 100)};
        color_jitter(0.4, random, image);
        CHECK(image.rgb[0] >= 59);
        CHECK(image.rgb[0] <= 140);
    }
}

TEST_CASE("random erasing fills rectangles of the promised area", "[data][augment]") {
    for (const EraseMode mode : {EraseMode::constant, EraseMode::color, EraseMode::pixel}) {
        int erased = 0;
        double area = 0;
        constexpr int kDraws = 300, kLarge = 64;
        for (uint64_t key = 0; key < kDraws; ++key) {
            engine::Random random(key);
            Bytes planes(size_t{3} * kLarge * kLarge, 1);  // a value that noise rarely takes
            erase({0.5, mode, 1}, random, kLarge, planes.data());
            int changed = 0, top = kLarge, left = kLarge, bottom = 0, right = 0;
            std::set<uint8_t> values;
            for (int y = 0; y < kLarge; ++y) {
                for (int x = 0; x < kLarge; ++x) {
                    const uint8_t value = planes[static_cast<size_t>(y * kLarge + x)];
                    if (value == 1) continue;
                    ++changed;
                    top = std::min(top, y), bottom = std::max(bottom, y + 1);
                    left = std::min(left, x), right = std::max(right, x + 1);
                    values.insert(value);
                }
            }
            if (changed == 0) continue;
            ++erased;
            area += (bottom - top) * (right - left) / static_cast<double>(kLarge * kLarge);
            if (mode == EraseMode::constant) CHECK(values == std::set<uint8_t>{124});  // the mean
            if (mode == EraseMode::color) CHECK(values.size() == 1);
            if (mode == EraseMode::pixel) CHECK(values.size() > 10);
            if (mode != EraseMode::pixel) CHECK(changed == (bottom - top) * (right - left));
        }
        CHECK(std::abs(erased - kDraws / 2) < 5 * std::sqrt(kDraws * 0.25));
        // Uniform in [0.02, 1/3], less what does not fit: 0.16 with a deviation of 0.09 a draw.
        CHECK(std::abs(area / erased - 0.16) < 0.04);
    }
    engine::Random random(1);
    Bytes planes(kPlanes, 1);
    erase({0.0, EraseMode::pixel, 1}, random, kSide, planes.data());
    CHECK(planes == Bytes(kPlanes, 1));
}

TEST_CASE("shares of mixing follow their beta distribution", "[data][augment]") {
    for (const double alpha : {0.2, 0.8, 1.0, 4.0}) {
        double sum = 0, squares = 0;
        constexpr int kDraws = 4000;
        for (uint64_t key = 0; key < kDraws; ++key) {
            engine::Random random(engine::mix_key({key, 3}));
            const Mix mix = draw_mix({.mixup = alpha}, random, kSide);
            CHECK_FALSE(mix.cut);
            REQUIRE((mix.share >= 0 && mix.share <= 1));
            sum += mix.share;
            squares += mix.share * mix.share;
        }
        const double mean = sum / kDraws, variance = squares / kDraws - mean * mean;
        const double expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
        CHECK(std::abs(mean - 0.5) < 5 * std::sqrt(expected / kDraws));
        CHECK(std::abs(variance - expected) < 0.1 * expected);
    }
}

TEST_CASE("cutmix shares are the areas of their rectangles", "[data][augment]") {
    int cuts = 0;
    for (uint64_t key = 0; key < 400; ++key) {
        engine::Random random(engine::mix_key({key, 5}));
        const Mix mix = draw_mix({.mixup = 0.8, .cutmix = 1.0, .switch_probability = 0.25}, random, kSide);
        cuts += mix.cut;
        if (!mix.cut) continue;
        REQUIRE((0 <= mix.top && mix.top <= mix.bottom && mix.bottom <= kSide));
        REQUIRE((0 <= mix.left && mix.left <= mix.right && mix.right <= kSide));
        const double area = static_cast<double>((mix.bottom - mix.top) * (mix.right - mix.left));
        CHECK(mix.share == 1.0 - area / (kSide * kSide));
    }
    CHECK(std::abs(cuts - 100) < 5 * std::sqrt(400 * 0.25 * 0.75));
    engine::Random random(1);
    const Mix mix = draw_mix({.cutmix_minmax = {0.5, 0.5}}, random, kSide);
    CHECK(mix.bottom - mix.top == kSide / 2);
    CHECK(mix.share == 0.75);
}

TEST_CASE("mixing takes pixels and targets of both pictures, by any mode", "[data][augment]") {
    constexpr int kClasses = 4;
    for (const MixMode mode : {MixMode::batch, MixMode::pair, MixMode::elem}) {
        for (const size_t count : {size_t{1}, size_t{5}, size_t{6}}) {
            for (const bool cut : {false, true}) {
                std::vector<int> targets;
                Bytes planes;
                for (size_t i = 0; i < count; ++i) {
                    targets.push_back(static_cast<int>(i) % kClasses);
                    planes.insert(planes.end(), kPlanes, static_cast<uint8_t>(40 * i));
                }
                std::vector<float> soft(count * kClasses);
                engine::Random random(17);
                const Mixing mixing{cut ? 0.0 : 1.0, cut ? 1.0 : 0.0, 1.0, 0.5, mode, {}};
                mix_batch(draw_mixes(mixing, random, kSide, targets.size()), kSide, 0.1, kClasses, targets,
                          planes, soft);
                std::set<float> shares;
                for (size_t i = 0; i < count; ++i) {
                    const size_t j = count - 1 - i;
                    const double own = 40.0 * static_cast<double>(i), partner = 40.0 * static_cast<double>(j);
                    const auto begin = planes.begin() + static_cast<std::ptrdiff_t>(i * kPlanes);
                    const double mean =
                        std::accumulate(begin, begin + kPlanes, 0.0) / static_cast<double>(kPlanes);
                    const float* row = soft.data() + i * kClasses;
                    CHECK(std::accumulate(row, row + kClasses, 0.0) == Approx(1.0));
                    if (targets[i] == targets[j]) {
                        CHECK(row[targets[i]] == Approx(0.925));
                        continue;
                    }
                    const double share = (row[targets[i]] - 0.025) / 0.9;
                    CHECK((row[targets[j]] - 0.025) / 0.9 == Approx(1 - share).margin(1e-6));
                    // Rounded to 8 bits; a rectangle's mean is exact.
                    CHECK(std::abs(mean - (share * own + (1 - share) * partner)) < 0.51);
                    shares.insert(std::round(static_cast<float>(share) * 1e5F));
                }
                if (count == 6) CHECK((shares.size() == 1) == (mode == MixMode::batch));
            }
        }
    }
}

TEST_CASE("repeated augmentation shows a picture three times in a row, each time another crop",
          "[data][augment]") {
    const auto dataset = plain_dataset(18);
    LoaderOptions options = training_options(0);
    options.augmentation.repeats = 3;
    options.augmentation.color_jitter = 0.4;  // tells crops of one color apart
    Loader loader(*dataset, options);
    CHECK(loader.batches() == 3);
    std::set<int64_t> pictures;
    int different = 0;
    for (const Batch& batch : epoch_of(loader)) {
        for (size_t i = 0; i < 6; ++i) {
            CHECK(batch.pictures[i] == batch.pictures[i / 3 * 3]);
            pictures.insert(batch.pictures[i]);
            different += batch.pixels[i * kPlanes] != batch.pixels[i / 3 * 3 * kPlanes];
        }
    }
    CHECK(pictures.size() == 6);
    CHECK(different > 6);
}

TEST_CASE("the whole DeiT recipe gives the same batches for any number of workers", "[data][augment]") {
    const auto dataset = plain_dataset(24);
    LoaderOptions options = training_options(0);
    options.augmentation = {parse_rand_augment("rand-m9-mstd0.5-inc1"),
                            0.0,
                            {0.25, EraseMode::pixel, 1},
                            {0.8, 1.0, 1.0, 0.5, MixMode::batch, {}},
                            0.1,
                            3,
                            true};
    Loader alone(*dataset, options);
    const auto expected = epoch_of(alone);
    REQUIRE(expected.size() == 4);
    CHECK(expected[0].soft.size() == size_t{6} * 4);
    const auto equal = [](const Batch& a, const Batch& b) {
        return a.pixels == b.pixels && a.pictures == b.pictures && a.targets == b.targets && a.soft == b.soft;
    };
    for (const int workers : {1, 3}) {
        options.workers = workers;
        Loader loader(*dataset, options);
        const auto batches = epoch_of(loader);
        REQUIRE(batches.size() == 4);
        for (size_t i = 0; i < 4; ++i) CHECK(equal(batches[i], expected[i]));
    }
}

TEST_CASE("processes make the places of a batch that they have, mixed as by one process", "[data][augment]") {
    const auto dataset = plain_dataset(24);
    const MixMode mode = GENERATE(MixMode::batch, MixMode::pair, MixMode::elem);
    const int shards = GENERATE(1, 4);
    CAPTURE(static_cast<int>(mode), shards);
    LoaderOptions options = training_options(0);
    options.batch_size = 8;
    options.shards = shards;
    options.augmentation.mixing = {0.8, 1.0, 1.0, 0.5, mode, {}};
    options.augmentation.smoothing = 0.1;
    Loader alone(*dataset, options);
    const auto expected = epoch_of(alone);
    REQUIRE(expected.size() == 3);
    for (const int processes : {2, 4}) {
        options.processes = processes;
        std::vector<int> seen(8);
        for (options.process = 0; options.process < processes; ++options.process) {
            Loader loader(*dataset, options);
            const auto batches = epoch_of(loader);
            REQUIRE(batches.size() == expected.size());
            for (size_t b = 0; b < batches.size(); ++b) {
                REQUIRE(batches[b].size == 8 / processes);
                for (size_t i = 0; i < batches[b].places.size(); ++i) {
                    const auto place = static_cast<size_t>(batches[b].places[i]);
                    ++seen[place];
                    const size_t plane = expected[b].pixels.size() / 8;
                    const auto own = std::span(batches[b].pixels).subspan(i * plane, plane);
                    const auto whole = std::span(expected[b].pixels).subspan(place * plane, plane);
                    CHECK(std::equal(own.begin(), own.end(), whole.begin()));
                    for (size_t c = 0; c < 4; ++c) {
                        CHECK(batches[b].soft[i * 4 + c] == expected[b].soft[place * 4 + c]);
                    }
                }
            }
        }
        CHECK(seen == std::vector<int>(8, 3));
    }
}
