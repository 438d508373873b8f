// JPEGs decoded at a lower resolution: parts as the whole, places of crops, and which crops of a batch.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "data/jpeg_encode.h"
#include "data/loader.h"
#include "engine/random.h"
#include "tests/catch.h"
#include "tests/sources.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;

namespace {

/// Brightness rises by 3 a pixel to the right, color by 2 a pixel to the bottom, up to 255.
Image ramps(int height, int width) {
    Image image{height, width, {}};
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            for (const int value : {3 * x, 2 * y, 255 - 3 * x}) {
                image.rgb.push_back(static_cast<uint8_t>(std::clamp(value, 0, 255)));
            }
        }
    }
    return image;
}

/// Means of reduce x reduce pixels; the sides of `image` are multiples.
Image means(const Image& image, int reduce) {
    Image small{image.height / reduce, image.width / reduce, {}};
    for (int y = 0; y < small.height; ++y) {
        for (int x = 0; x < 3 * small.width; ++x) {
            int sum = 0;
            for (int i = 0; i < reduce * reduce; ++i) {
                const int row = y * reduce + i / reduce, column = x / 3 * reduce + i % reduce;
                sum += image.rgb[static_cast<size_t>((row * image.width + column) * 3 + x % 3)];
            }
            small.rgb.push_back(static_cast<uint8_t>((sum + reduce * reduce / 2) / (reduce * reduce)));
        }
    }
    return small;
}

int largest_difference(const Bytes& a, const Bytes& b) {
    REQUIRE(a.size() == b.size());
    int largest = 0;
    for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(int{a[i]} - int{b[i]}));
    return largest;
}

Bytes picture_bytes(const std::string& name) {
    const std::string own = engine::concat(VVTQ_SOURCE_DIR, "/tests/pictures/", name);
    return std::filesystem::exists(own) ? read_file(own, "") : fixture(name);
}

}  // namespace

TEST_CASE("a part of a reduced JPEG has the pixels of the whole reduced one", "[data][pixels]") {
    engine::Random random(3);
    const auto below = [&](int n) { return static_cast<int>(random.below(static_cast<uint64_t>(n))); };
    for (const char* name : {"picture_422.jpg", "picture_progressive.jpg", "picture_restart.jpg", "gray.jpg",
                             "cmyk.jpg", "picture_q75_s0.jpg", "picture_q90_s2.jpg"}) {
        const Bytes bytes = picture_bytes(name);
        for (const int reduce : {2, 4, 8}) {
            JpegReader reader;
            Canvas whole, canvas;
            reader.open(bytes, name);
            const int height = reader.height(), width = reader.width();
            reader.decode({0, 0, height, width}, whole, reduce);
            CHECK(whole.reduce == reduce);
            CHECK(whole.box == Box{0, 0, (height + reduce - 1) / reduce, (width + reduce - 1) / reduce});
            for (int trial = 0; trial < 40; ++trial) {
                Box box{below(height), below(width), 0, 0};
                box.height = 1 + below(height - box.top);
                box.width = 1 + below(width - box.left);
                reader.open(bytes, name);
                reader.decode(box, canvas, reduce);
                const Box small = reduced(box, reduce);
                Bytes part, same;
                copy_out(canvas, small, part);
                copy_out(whole, small, same);
                INFO(name << " / " << reduce << ": " << box.height << " x " << box.width << " at " << box.top
                          << ", " << box.left);
                CHECK(part == same);
            }
        }
    }
}

TEST_CASE("pixels of a reduced JPEG are about the means of the pixels", "[data][pixels]") {
    const Image image = ramps(64, 80);
    const Bytes bytes = encode_jpeg(image, 100);
    for (const int reduce : {2, 4, 8}) {
        PictureReader reader;
        reader.open_bytes(bytes, "ramps");
        const Canvas& canvas = reader.decode({0, 0, 64, 80}, 0, reduce);
        Bytes small;
        copy_out(canvas, canvas.box, small);
        CHECK(largest_difference(small, means(image, reduce).rgb) <= 9);  // 24 a pixel apart at 1/8
    }
    // Other pictures are not reduced.
    PictureReader reader;
    const Bytes png = fixture("picture.png");
    reader.open_bytes(png, "png");
    CHECK(reader.decode({0, 0, 16, 16}, 0, 4).reduce == 1);
}

TEST_CASE("a crop of a reduced picture lies where it lies in the picture", "[data][pixels]") {
    const Image image = ramps(96, 80);
    Resampler resampler;
    engine::Random random(4);
    for (const int reduce : {2, 4, 8}) {
        const Image small = means(image, reduce);
        Canvas canvas;
        paint(small, {0, 0, small.height, small.width}, canvas);
        for (int trial = 0; trial < 60; ++trial) {
            const Box box{static_cast<int>(random.below(30)), static_cast<int>(random.below(30)),
                          static_cast<int>(33 + random.below(30)), static_cast<int>(33 + random.below(17))};
            const Resize whole{box, 4, 4, {0, 0, 4, 4}, trial % 2 == 0 ? Filter::bilinear : Filter::bicubic};
            Bytes expected, rgb;
            resampler.resize(image, box, 4, 4, whole.filter, expected);
            resampler.resize(canvas, reduced(whole, reduce), rgb);
            INFO(reduce << ": " << box.height << " x " << box.width << " at " << box.top << ", " << box.left);
            // The ramps end at the border of a crop, where taps beyond it count too: 3 reduce / 8 there.
            CHECK(largest_difference(rgb, expected) <= 2 + reduce / 2);
        }
    }
    const Resize same{{3, 5, 40, 30}, 4, 4, {0, 0, 4, 4}, Filter::bilinear};
    CHECK(reduced(same, 1).box == same.box);
    CHECK(reduced(Box{-1, -9, 10, 20}, 8) == Box{-1, -2, 3, 4});
}

TEST_CASE("fast decoding changes crops that are shrunk by 2 or more, and no others", "[data]") {
    const Scratch scratch;
    engine::Random random(7);
    for (int i = 0; i < 24; ++i) {
        Image image = ramps(60 + 2 * i, 100);
        for (uint8_t& value : image.rgb) value = static_cast<uint8_t>((value + random.below(120)) / 2);
        write_bytes(scratch / ("train/a/" + std::to_string(i) + ".jpg"), encode_jpeg(image, 95));
    }
    const auto dataset = open_dataset("folder", scratch.path(), Split::train);
    LoaderOptions options;
    options.mode = LoaderMode::training;
    options.batch_size = 24;
    options.image_size = 24;
    options.rule.area_low = 0.1;
    Loader exact(*dataset, options);
    options.reduced_decoding = true;
    Loader fast(*dataset, options);
    int shrunk = 0, kept = 0;
    for (uint64_t epoch = 0; epoch < 3; ++epoch) {
        exact.start(epoch);
        fast.start(epoch);
        Batch a, b;
        REQUIRE(exact.next(a));
        REQUIRE(fast.next(b));
        CHECK(a.pictures == b.pictures);
        const size_t plane = size_t{3} * 24 * 24;
        for (size_t i = 0; i < 24; ++i) {
            const Bytes x(a.pixels.begin() + static_cast<std::ptrdiff_t>(i * plane),
                          a.pixels.begin() + static_cast<std::ptrdiff_t>((i + 1) * plane));
            const Bytes y(b.pixels.begin() + static_cast<std::ptrdiff_t>(i * plane),
                          b.pixels.begin() + static_cast<std::ptrdiff_t>((i + 1) * plane));
            int64_t sum = 0;
            for (size_t p = 0; p < plane; ++p) sum += std::abs(int{x[p]} - int{y[p]});
            (x == y ? kept : shrunk) += 1;
            CHECK(static_cast<double>(sum) / static_cast<double>(plane) < 4.0);
        }
    }
    CHECK(shrunk > 10);
    CHECK(kept > 10);
    options.mode = LoaderMode::evaluation;
    Loader evaluation(*dataset, options);
    options.reduced_decoding = false;
    Loader same(*dataset, options);
    evaluation.start(0);
    same.start(0);
    Batch a, b;
    REQUIRE(evaluation.next(a));
    REQUIRE(same.next(b));
    CHECK(a.pixels == b.pixels);
}
