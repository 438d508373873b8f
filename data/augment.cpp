#include "data/augment.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numbers>
#include <utility>
#include <vector>

#include "engine/check.h"

namespace vvtq::data {
namespace {

using Table = std::array<uint8_t, 256>;

constexpr std::array<const char*, kOperations> kNames{
    "AutoContrast", "Equalize",   "Invert",    "Rotate", "Posterize", "Solarize",   "SolarizeAdd", "Color",
    "Contrast",     "Brightness", "Sharpness", "ShearX", "ShearY",    "TranslateX", "TranslateY"};

constexpr uint8_t kFill[3] = {124, 116, 104};  // ImageNet's mean

size_t pixels_of(const Image& image) { return image.rgb.size() / 3; }

// ITU-R 601-2 in 16 fractional bits, as Pillow's convert("L").
inline int luma(const uint8_t* rgb) {
    return (rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) >> 16;
}

void apply_table(const Table& table, Image& image) {
    for (uint8_t& value : image.rgb) value = table[value];
}

std::array<int64_t, 256> histogram(const Image& image, size_t channel) {
    std::array<int64_t, 256> counts{};
    for (size_t i = channel; i < image.rgb.size(); i += 3) ++counts[image.rgb[i]];
    return counts;
}

void apply_channel_table(const Table& table, size_t channel, Image& image) {
    for (size_t i = channel; i < image.rgb.size(); i += 3) image.rgb[i] = table[image.rgb[i]];
}

void auto_contrast(Image& image) {
    for (size_t c = 0; c < 3; ++c) {
        const auto counts = histogram(image, c);
        int low = 0, high = 255;
        while (low < 255 && counts[static_cast<size_t>(low)] == 0) ++low;
        while (high > 0 && counts[static_cast<size_t>(high)] == 0) --high;
        if (high <= low) continue;
        const double scale = 255.0 / (high - low);
        const double offset = -low * scale;
        Table table;
        for (size_t i = 0; i < 256; ++i) {
            table[i] = static_cast<uint8_t>(
                std::clamp(static_cast<int>(static_cast<double>(i) * scale + offset), 0, 255));
        }
        apply_channel_table(table, c, image);
    }
}

void equalize(Image& image) {
    for (size_t c = 0; c < 3; ++c) {
        const auto counts = histogram(image, c);
        int64_t last = 0;
        int used = 0;
        for (const int64_t count : counts) {
            if (count == 0) continue;
            last = count;
            ++used;
        }
        const int64_t step = (static_cast<int64_t>(pixels_of(image)) - last) / 255;
        if (used <= 1 || step == 0) continue;
        Table table;
        int64_t n = step / 2;
        for (size_t i = 0; i < 256; ++i) {
            table[i] = static_cast<uint8_t>(std::min<int64_t>(n / step, 255));
            n += counts[i];
        }
        apply_channel_table(table, c, image);
    }
}

// from + factor (to - from), cut to bytes; in 32 bits and toward zero, as Pillow's blend.
inline uint8_t blend(int from, int to, double factor) {
    const float mixed = static_cast<float>(from) + static_cast<float>(factor) * static_cast<float>(to - from);
    return static_cast<uint8_t>(std::clamp(mixed, 0.0F, 255.0F));
}

void enhance_color(double factor, Image& image) {
    const auto width = static_cast<size_t>(image.width);
    std::vector<int> grays(3 * width);  // of a row, each three times
    for (size_t y = 0; y < static_cast<size_t>(image.height); ++y) {
        uint8_t* row = image.rgb.data() + y * width * 3;
        for (size_t x = 0; x < width; ++x) {
            grays[3 * x] = grays[3 * x + 1] = grays[3 * x + 2] = luma(row + 3 * x);
        }
        for (size_t i = 0; i < 3 * width; ++i) row[i] = blend(grays[i], row[i], factor);
    }
}

void enhance_toward(int base, double factor, Image& image) {
    Table table;
    for (int i = 0; i < 256; ++i) table[static_cast<size_t>(i)] = blend(base, i, factor);
    apply_table(table, image);
}

int mean_gray(const Image& image) {
    int64_t sum = 0;
    for (size_t i = 0; i < image.rgb.size(); i += 3) sum += luma(&image.rgb[i]);
    return static_cast<int>(static_cast<double>(sum) / static_cast<double>(pixels_of(image)) + 0.5);
}

// Blends with the picture smoothed by (1 1 1, 1 5 1, 1 1 1) / 13, whose edges are the picture's.
void enhance_sharpness(double factor, Image& image) {
    const Bytes before = image.rgb;
    const size_t row = static_cast<size_t>(image.width) * 3;
    for (size_t y = 1; y + 1 < static_cast<size_t>(image.height); ++y) {
        const uint8_t* in = before.data() + y * row;
        const uint8_t *above = in - row, *below = in + row;
        uint8_t* __restrict out = image.rgb.data() + y * row;  // `before` is another vector
        for (size_t i = 3; i < row - 3; ++i) {
            const int sum = above[i - 3] + above[i] + above[i + 3] + in[i - 3] + 5 * in[i] + in[i + 3] +
                            below[i - 3] + below[i] + below[i + 3];
            const int smooth = static_cast<int>(static_cast<float>(sum) / 13.0F + 0.5F);
            out[i] = blend(smooth, in[i], factor);
        }
    }
}

double signed_by(engine::Random& random, double value) { return random.uniform() > 0.5 ? -value : value; }

Affine rotation(double degrees, const Image& image) {
    const double angle = -degrees * std::numbers::pi / 180.0;
    const double cosine = std::cos(angle), sine = std::sin(angle);
    const double x = image.width / 2.0, y = image.height / 2.0;
    return {cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y};
}

}  // namespace

const char* operation_name(Operation operation) { return kNames.at(static_cast<size_t>(operation)); }

void enhance(Operation operation, double factor, Image& image) {
    switch (operation) {
        case Operation::color:
            return enhance_color(factor, image);
        case Operation::contrast:
            return enhance_toward(mean_gray(image), factor, image);
        case Operation::brightness:
            return enhance_toward(0, factor, image);
        case Operation::sharpness:
            return enhance_sharpness(factor, image);
        default:
            engine::internal_error(operation_name(operation), " has no factor");
    }
}

void mirror(Image& image) {
    const auto width = static_cast<size_t>(image.width);
    for (size_t y = 0; y < static_cast<size_t>(image.height); ++y) {
        uint8_t* row = image.rgb.data() + y * width * 3;
        for (size_t x = 0; x < width / 2; ++x)
            std::swap_ranges(row + 3 * x, row + 3 * x + 3, row + 3 * (width - 1 - x));
    }
}

namespace {

// Eight pixels side by side.
constexpr int kSide = 8;
using Doubles = double __attribute__((vector_size(kSide * sizeof(double))));
using Ints = int32_t __attribute__((vector_size(kSide * sizeof(int32_t))));

// The largest whole numbers that are not above `values`.
inline Ints floor_of(Doubles values) {
    const Ints cut = __builtin_convertvector(values, Ints);
    return cut + __builtin_convertvector(__builtin_convertvector(cut, Doubles) > values, Ints);  // true is -1
}

inline Ints clamped(Ints values, int highest) {
    values = values > 0 ? values : Ints{};
    return values < highest ? values : Ints{} + highest;
}

// The pixels at `places`, each in the lower three bytes.
inline Ints load(const uint8_t* in, Ints places) {
    Ints pixels;
    for (int i = 0; i < kSide; ++i) {
        int32_t pixel;
        std::memcpy(&pixel, in + 3 * places[i], sizeof pixel);
        pixels[i] = pixel;
    }
    return pixels;
}

inline Doubles channel(Ints pixels, int c) {
    return __builtin_convertvector((pixels >> (8 * c)) & 0xFF, Doubles);
}

}  // namespace

void transform(const Affine& map, Image& image) {
    Bytes before = image.rgb;
    before.push_back(0);  // is read with the last pixel
    const uint8_t* in = before.data();
    const int width = image.width, height = image.height;
    const Ints fill = Ints{} + (kFill[0] | kFill[1] << 8 | kFill[2] << 16);
    uint8_t* out = image.rgb.data();
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; x += kSide) {
            const Doubles at_x = Doubles{0, 1, 2, 3, 4, 5, 6, 7} + x + 0.5;
            const double at_y = y + 0.5;
            const Doubles from_x = map.a * at_x + map.b * at_y + map.c;
            const Doubles from_y = map.d * at_x + map.e * at_y + map.f;
            const auto inside = (from_x >= 0.0) & (from_x < Doubles{} + width) & (from_y >= 0.0) &
                                (from_y < Doubles{} + height);
            // Outside any place inside does, and is not looked at.
            const Doubles left = (inside ? from_x : Doubles{}) - 0.5,
                          top = (inside ? from_y : Doubles{}) - 0.5;
            const Ints column = floor_of(left), row = floor_of(top);
            const Doubles dx = left - __builtin_convertvector(column, Doubles);
            const Doubles dy = top - __builtin_convertvector(row, Doubles);
            const Ints x0 = clamped(column, width - 1), x1 = clamped(column + 1, width - 1);
            const Ints y0 = clamped(row, height - 1) * width, y1 = clamped(row + 1, height - 1) * width;
            const Ints upper0 = load(in, y0 + x0), upper1 = load(in, y0 + x1);
            const Ints lower0 = load(in, y1 + x0), lower1 = load(in, y1 + x1);
            Ints pixels = {};
            for (int c = 0; c < 3; ++c) {
                const Doubles u = channel(upper0, c), l = channel(lower0, c);
                const Doubles above = u + (channel(upper1, c) - u) * dx;
                const Doubles below = l + (channel(lower1, c) - l) * dx;
                pixels |= __builtin_convertvector(above + (below - above) * dy, Ints) << (8 * c);
            }
            pixels = __builtin_convertvector(inside, Ints) != 0 ? pixels : fill;
            for (int i = 0; i < std::min(kSide, width - x); ++i, out += 3) {
                const int32_t pixel = pixels[i];
                std::memcpy(out, &pixel, 3);
            }
        }
    }
}

void apply(Operation operation, double magnitude, engine::Random& random, Image& image) {
    const double level = magnitude / 10.0;
    Table table;
    const auto by_value = [&](auto value) {
        for (int i = 0; i < 256; ++i) table[static_cast<size_t>(i)] = static_cast<uint8_t>(value(i));
        apply_table(table, image);
    };
    switch (operation) {
        case Operation::auto_contrast:
            return auto_contrast(image);
        case Operation::equalize:
            return equalize(image);
        case Operation::invert:
            return by_value([](int i) { return 255 - i; });
        case Operation::rotate:
            return transform(rotation(signed_by(random, level * 30.0), image), image);
        case Operation::posterize: {
            const int bits = 4 - static_cast<int>(level * 4);
            return by_value([&](int i) { return i & ~((1 << (8 - bits)) - 1); });
        }
        case Operation::solarize: {
            const int threshold = 256 - std::min(256, static_cast<int>(level * 256));
            return by_value([&](int i) { return i < threshold ? i : 255 - i; });
        }
        case Operation::solarize_add: {
            const int added = std::min(128, static_cast<int>(level * 110));
            return by_value([&](int i) { return i < 128 ? std::min(255, i + added) : i; });
        }
        case Operation::color:
        case Operation::contrast:
        case Operation::brightness:
        case Operation::sharpness:
            return enhance(operation, std::max(0.1, 1.0 + signed_by(random, level * 0.9)), image);
        case Operation::shear_x:
            return transform({1, signed_by(random, level * 0.3), 0, 0, 1, 0}, image);
        case Operation::shear_y:
            return transform({1, 0, 0, signed_by(random, level * 0.3), 1, 0}, image);
        case Operation::translate_x:
            return transform({1, 0, signed_by(random, level * 0.45) * image.width, 0, 1, 0}, image);
        case Operation::translate_y:
            return transform({1, 0, 0, 0, 1, signed_by(random, level * 0.45) * image.height}, image);
    }
}

void apply(const RandAugment& augment, engine::Random& random, Image& image) {
    for (int layer = 0; layer < augment.layers; ++layer) {
        const auto operation = static_cast<Operation>(random.below(kOperations));
        if (random.uniform() > augment.probability) continue;
        const double drawn = augment.magnitude + augment.deviation * random.normal();
        apply(operation, std::clamp(drawn, 0.0, 10.0), random, image);
    }
}

void color_jitter(double strength, engine::Random& random, Image& image) {
    std::array<Operation, 3> order{Operation::brightness, Operation::contrast, Operation::color};
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
    for (const Operation operation : order) {
        enhance(operation, random.uniform(std::max(0.0, 1.0 - strength), 1.0 + strength), image);
    }
}

RandAugment parse_rand_augment(const std::string& text) {
    if (text.empty() || text == "none") return {};
    const auto refuse = [&] {
        engine::input_error("`rand_augment` ", printable(text),
                            ": use none, or a form of rand-m9-mstd0.5-inc1");
    };
    RandAugment augment{2, 10.0, 0.0, 0.5};
    bool increasing = false;
    size_t at = text.find('-');
    if (text.substr(0, at) != "rand") refuse();
    while (at != std::string::npos) {
        const size_t end = text.find('-', at + 1);
        const std::string part = text.substr(at + 1, end == std::string::npos ? end : end - at - 1);
        const size_t digits = part.find_first_of("0123456789");
        const std::string name = part.substr(0, digits);
        double value = 0;
        const char* stop = part.data() + part.size();
        const bool number = digits != std::string::npos &&
                            std::from_chars(part.data() + digits, stop, value).ptr == stop && value >= 0;
        if (!number) refuse();
        if (name == "m" && value <= 10) {
            augment.magnitude = value;
        } else if (name == "mstd" && value <= 100) {
            augment.deviation = value;
        } else if (name == "n" && value >= 1 && value <= 15) {
            augment.layers = static_cast<int>(value);
        } else if (name == "p" && value <= 1) {
            augment.probability = value;
        } else if (name == "inc" && value == 1) {
            increasing = true;
        } else {
            refuse();
        }
        at = end;
    }
    if (!increasing) refuse();
    return augment;
}

}  // namespace vvtq::data
