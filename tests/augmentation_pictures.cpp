#include "tests/augmentation_pictures.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "data/augment.h"
#include "data/crops.h"
#include "data/mixing.h"
#include "data/resample.h"
#include "engine/check.h"
#include "engine/random.h"

namespace vvtq::tests {
namespace {

using namespace vvtq::data;

constexpr int kSide = 112, kGap = 6, kLarge = 336;

Image blank(int height, int width, uint8_t value = 255) {
    return {height, width, Bytes(static_cast<size_t>(height) * static_cast<size_t>(width) * 3, value)};
}

void set(Image& image, int y, int x, std::array<int, 3> rgb) {
    for (size_t c = 0; c < 3; ++c) {
        image.rgb[(static_cast<size_t>(y) * static_cast<size_t>(image.width) + static_cast<size_t>(x)) * 3 +
                  c] = static_cast<uint8_t>(std::clamp(rgb[c], 0, 255));
    }
}

void paste(const Image& from, int top, int left, Image& to) {
    for (int y = 0; y < from.height; ++y) {
        std::copy_n(from.rgb.begin() + std::ptrdiff_t{3} * y * from.width, 3 * from.width,
                    to.rgb.begin() + (std::ptrdiff_t{top + y} * to.width + left) * 3);
    }
}

// Pictures of kSide x kSide side by side, `columns` in a row.
Image sheet(const std::vector<Image>& pictures, int columns) {
    const int rows = (static_cast<int>(pictures.size()) + columns - 1) / columns;
    Image out = blank(rows * (kSide + kGap) - kGap, columns * (kSide + kGap) - kGap);
    for (int i = 0; i < static_cast<int>(pictures.size()); ++i) {
        paste(pictures[static_cast<size_t>(i)], i / columns * (kSide + kGap), i % columns * (kSide + kGap),
              out);
    }
    return out;
}

Image cut(const Image& image, const Box& box) {
    Resampler resampler;
    Image out{kSide, kSide, {}};
    resampler.resize(image, box, kSide, kSide, Filter::bicubic, out.rgb);
    return out;
}

Image whole(bool night) { return cut(landscape(kLarge, night), {0, 0, kLarge, kLarge}); }

Bytes planes_of(const Image& image) {
    Bytes planes(image.rgb.size());
    to_planes(image.rgb, kSide, false, planes.data());
    return planes;
}

Image of_planes(const uint8_t* planes) {
    constexpr size_t kPlane = size_t{kSide} * kSide;
    Image image = blank(kSide, kSide);
    for (size_t i = 0; i < kPlane; ++i) {
        for (size_t c = 0; c < 3; ++c) image.rgb[3 * i + c] = planes[c * kPlane + i];
    }
    return image;
}

Image mixed_sheet(const Mixing& mixing, const std::vector<uint64_t>& keys) {
    const Image day = whole(false), night = whole(true);
    std::vector<Image> pictures{day, night};
    for (const uint64_t key : keys) {
        Bytes planes = planes_of(day);
        const Bytes second = planes_of(night);
        planes.insert(planes.end(), second.begin(), second.end());
        std::vector<float> soft(20);
        const std::vector<int> targets{3, 8};
        engine::Random random(key);
        mix_batch(draw_mixes(mixing, random, kSide, targets.size()), kSide, 0.1, 10, targets, planes, soft);
        pictures.push_back(of_planes(planes.data()));
    }
    return sheet(pictures, static_cast<int>(pictures.size()));
}

// Ten classes' probabilities as bars.
Image bars(const std::vector<float>& p) {
    Image image = blank(kSide, kSide, 238);
    constexpr int kBar = kSide / 10;
    for (int c = 0; c < 10; ++c) {
        const int height =
            std::max(1, static_cast<int>(std::lround(p[static_cast<size_t>(c)] * (kSide - 8))));
        for (int y = kSide - height; y < kSide; ++y) {
            for (int x = c * kBar + 2; x < (c + 1) * kBar; ++x) set(image, y, x, {40, 90, 160});
        }
    }
    return image;
}

Image smoothing_sheet() {
    std::vector<Image> pictures;
    for (const double smoothing : {0.0, 0.1, 0.3}) {
        std::vector<float> p(10, static_cast<float>(smoothing / 10));
        p[3] += static_cast<float>(1 - smoothing);
        pictures.push_back(bars(p));
    }
    Bytes planes(size_t{2} * 3);  // pictures of one pixel, for their targets
    std::vector<float> soft(20);
    const std::vector<int> targets{3, 8};
    engine::Random random(2);
    mix_batch(draw_mixes({.mixup = 0.8}, random, 1, targets.size()), 1, 0.1, 10, targets, planes, soft);
    pictures.push_back(bars({soft.begin(), soft.begin() + 10}));
    return sheet(pictures, 4);
}

}  // namespace

Image landscape(int side, bool night) {
    Image image = blank(side, side);
    for (int y = 0; y < side; ++y) {
        for (int x = 0; x < side; ++x) {
            const double u = static_cast<double>(x) / side, v = static_cast<double>(y) / side;
            const auto shade = [](double value) { return static_cast<int>(255 * value); };
            std::array<int, 3> color =
                night
                    ? std::array<int, 3>{shade(0.05 + 0.1 * v), shade(0.08 + 0.1 * v), shade(0.25 + 0.2 * v)}
                    : std::array<int, 3>{shade(0.45 + 0.4 * v), shade(0.65 + 0.3 * v), shade(0.95)};
            const double sun = std::hypot(u - (night ? 0.25 : 0.8), v - 0.18);
            if (sun < 0.09)
                color = night ? std::array<int, 3>{235, 235, 215} : std::array<int, 3>{255, 225, 90};
            const double hill = 0.62 + 0.08 * std::sin(9 * u + (night ? 2.0 : 0.5)),
                         near = 0.74 + 0.04 * std::sin(5 * u);
            if (v > hill) color = night ? std::array<int, 3>{35, 50, 60} : std::array<int, 3>{95, 150, 85};
            if (v > near)
                color = night ? std::array<int, 3>{25, 40, 30}
                              : std::array<int, 3>{60, 125 + static_cast<int>(40 * (v - near)), 50};
            const double left = night ? 0.5 : 0.2, x_in = u - left;
            const bool wall = x_in > 0 && x_in < 0.3 && v > 0.5 && v < 0.8;
            const bool roof = v > 0.34 && v <= 0.5 && std::abs(x_in - 0.15) < (v - 0.34) * 1.15;
            const bool window =
                wall && std::fmod(x_in, 0.15) > 0.04 && std::fmod(x_in, 0.15) < 0.11 && v > 0.56 && v < 0.66;
            if (wall) color = {200, 170 - (night ? 80 : 0), 140 - (night ? 70 : 0)};
            if (roof) color = {170, 60, 50};
            if (window) color = night ? std::array<int, 3>{255, 220, 120} : std::array<int, 3>{80, 110, 150};
            set(image, y, x, color);
        }
    }
    return image;
}

std::map<std::string, Image> augmentation_sheets() {
    std::map<std::string, Image> sheets;
    const Image large = landscape(kLarge, false), day = whole(false), night = whole(true);
    const auto random_of = [](uint64_t key) { return engine::Random(engine::mix_key({key, 2024})); };

    std::vector<Image> pictures{day};
    for (uint64_t key = 0; key < 5; ++key) {
        engine::Random random = random_of(key);
        pictures.push_back(cut(large, random_crop(random, kLarge, kLarge, {.area_high = 1.0})));
    }
    sheets["random_resized_crop.png"] = sheet(pictures, 6);

    pictures = {day, day};
    mirror(pictures[1]);
    sheets["flip.png"] = sheet(pictures, 2);

    pictures = {day};
    for (uint64_t key = 0; key < 5; ++key) {
        engine::Random random = random_of(key);
        pictures.push_back(day);
        color_jitter(0.4, random, pictures.back());
    }
    sheets["color_jitter.png"] = sheet(pictures, 6);

    pictures.clear();
    for (int operation = 0; operation < kOperations; ++operation) {
        engine::Random random = random_of(static_cast<uint64_t>(operation));
        pictures.push_back(day);
        apply(static_cast<Operation>(operation), 9.0, random, pictures.back());
    }
    sheets["rand_augment_operations.png"] = sheet(pictures, 5);

    pictures = {day};
    const RandAugment augment = parse_rand_augment("rand-m9-mstd0.5-inc1");
    for (uint64_t key = 0; key < 5; ++key) {
        engine::Random random = random_of(key);
        pictures.push_back(day);
        apply(augment, random, pictures.back());
    }
    sheets["rand_augment.png"] = sheet(pictures, 6);

    pictures = {day};
    for (const EraseMode mode : {EraseMode::constant, EraseMode::color, EraseMode::pixel}) {
        engine::Random random = random_of(static_cast<uint64_t>(mode));
        Bytes planes = planes_of(day);
        erase({1.0, mode, 1}, random, kSide, planes.data());
        pictures.push_back(of_planes(planes.data()));
    }
    sheets["random_erasing.png"] = sheet(pictures, 4);

    sheets["mixup.png"] = mixed_sheet({.mixup = 0.8}, {1, 2, 3, 4});
    sheets["cutmix.png"] = mixed_sheet({.cutmix = 1.0}, {1, 2, 3, 4});
    sheets["label_smoothing.png"] = smoothing_sheet();

    pictures.clear();
    for (const bool second : {false, true}) {
        const Image picture = landscape(kLarge, second);
        for (uint64_t repeat = 0; repeat < 3; ++repeat) {
            engine::Random random = random_of(repeat + (second ? 10 : 20));
            pictures.push_back(cut(picture, random_crop(random, kLarge, kLarge, {.area_high = 1.0})));
            if (random.uniform() < 0.5) mirror(pictures.back());
        }
    }
    sheets["repeated_augmentation.png"] = sheet(pictures, 6);
    return sheets;
}

Bytes encode_png(const Image& image) {
    Bytes out{0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    const auto big = [](Bytes& to, size_t value) {
        for (int shift = 24; shift >= 0; shift -= 8) to.push_back(static_cast<uint8_t>(value >> shift));
    };
    const auto chunk = [&](const char* type, const Bytes& content) {
        big(out, content.size());
        const auto begin = static_cast<std::ptrdiff_t>(out.size());
        out.insert(out.end(), type, type + 4);
        out.insert(out.end(), content.begin(), content.end());
        big(out, crc32_z(0, out.data() + begin, content.size() + 4));
    };
    Bytes header;
    big(header, static_cast<size_t>(image.width));
    big(header, static_cast<size_t>(image.height));
    header.insert(header.end(), {8, 2, 0, 0, 0});
    chunk("IHDR", header);
    const size_t row = static_cast<size_t>(image.width) * 3;
    Bytes raw;
    for (size_t y = 0; y < static_cast<size_t>(image.height); ++y) {
        raw.push_back(1);  // differences to the pixel on the left
        for (size_t i = 0; i < row; ++i) {
            const uint8_t left = i < 3 ? 0 : image.rgb[y * row + i - 3];
            raw.push_back(static_cast<uint8_t>(image.rgb[y * row + i] - left));
        }
    }
    uLongf size = compressBound(raw.size());
    Bytes packed(size);
    VVTQ_CHECK(compress2(packed.data(), &size, raw.data(), raw.size(), 9) == Z_OK, "compress2");
    packed.resize(size);
    chunk("IDAT", packed);
    chunk("IEND", {});
    return out;
}

}  // namespace vvtq::tests
