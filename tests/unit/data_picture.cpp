// Pictures: decoded pixels against Pillow's, crops against the goldens, and files that must be refused.
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "data/crops.h"
#include "data/image.h"
#include "data/resample.h"
#include "tests/golden_inputs.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;
using nlohmann::json;

namespace {

Image decode_fixture(const std::string& name) { return decode_image(fixture(name), name); }

// Binary PPM with a three-line header.
Image read_ppm(const std::string& name) {
    std::ifstream file(fixture_path(name), std::ios::binary);
    std::string magic;
    int most = 0;
    Image image;
    file >> magic >> image.width >> image.height >> most;
    file.get();
    REQUIRE(magic == "P6");
    REQUIRE(most == 255);
    image.rgb.resize(static_cast<size_t>(image.height) * static_cast<size_t>(image.width) * 3);
    file.read(reinterpret_cast<char*>(image.rgb.data()), static_cast<std::streamsize>(image.rgb.size()));
    REQUIRE(file.good());
    return image;
}

/// `name`.jpg against what Pillow's convert("RGB") made of it, `name`.pillow.ppm.
void check_fixture(const std::string& name) {
    INFO(fixture_path(name + ".jpg") << " and " << fixture_path(name + ".pillow.ppm"));
    const Image jpeg = decode_fixture(name + ".jpg");
    const Image pillow = read_ppm(name + ".pillow.ppm");
    CHECK(jpeg.height == pillow.height);
    CHECK(jpeg.width == pillow.width);
    CHECK((jpeg.rgb == pillow.rgb));
}

void check_pixels(const Bytes& rgb, const json& expected) {
    const auto shape = expected["shape"].get<std::vector<size_t>>();
    REQUIRE(rgb.size() == shape[0] * shape[1] * shape[2]);
    CHECK(std::accumulate(rgb.begin(), rgb.end(), int64_t{0}) == expected["sum"].get<int64_t>());
    REQUIRE(!expected["rows"].empty());
    const size_t row_bytes = shape[1] * shape[2];
    for (const auto& [row, values] : expected["rows"].items()) {
        const auto from = rgb.begin() + static_cast<std::ptrdiff_t>(std::stoul(row) * row_bytes);
        const Bytes pixels = values.get<Bytes>();
        REQUIRE(pixels.size() == row_bytes);
        CHECK(std::equal(pixels.begin(), pixels.end(), from));
    }
}

Bytes bmp(int width, int height, int bits) {
    const size_t row = (static_cast<size_t>(width) * static_cast<size_t>(bits) + 31) / 32 * 4;
    Bytes file(54 + row * static_cast<size_t>(height));
    const auto put = [&](size_t at, uint32_t value) {
        for (size_t i = 0; i < 4; ++i) file[at + i] = static_cast<uint8_t>(value >> (8 * i));
    };
    put(2, static_cast<uint32_t>(file.size()));
    put(10, 54);
    put(14, 40);
    put(18, static_cast<uint32_t>(width));
    put(22, static_cast<uint32_t>(height));
    put(26, 1 | static_cast<uint32_t>(bits) << 16);
    file[0] = 'B';
    file[1] = 'M';
    for (size_t i = 54; i < file.size(); ++i) file[i] = static_cast<uint8_t>(7 * i);
    return file;
}

}  // namespace

TEST_CASE("PNG and JPEG decode to Pillow's pixels", "[data][pixels]") {
    const Image picture = golden_picture();
    const Image png = decode_fixture("picture.png");
    CHECK(png.height == picture.height);
    CHECK(png.width == picture.width);
    CHECK((png.rgb == picture.rgb));
    for (const std::string name : {"picture_q75_s0", "picture_q90_s2"}) check_fixture(name);
}

TEST_CASE("gray and CMYK JPEG become RGB as by Pillow", "[data][pixels]") {
    for (const std::string name : {"gray", "cmyk"}) check_fixture(name);
}

TEST_CASE("crops and evaluation pictures equal Pillow's to the pixel", "[data][pixels]") {
    const Image picture = golden_picture();
    const json golden = read_golden(golden_file("image.json"));
    REQUIRE(golden["crops"].size() >= 8);
    Resampler resampler;
    Bytes rgb;
    for (const json& crop : golden["crops"]) {
        const auto coords = crop["coords"].get<Coords>();
        const Filter filter = crop["interp"] == "bicubic" ? Filter::bicubic : Filter::bilinear;
        const int size = crop["out"]["shape"][0].get<int>();
        INFO(crop["interp"] << " " << crop["coords"]);
        resampler.resize(picture, label_crop(coords, picture.height, picture.width), size, size, filter, rgb);
        check_pixels(rgb, crop["out"]);
    }
    for (const Filter filter : {Filter::bilinear, Filter::bicubic}) {
        const json& expected = golden[filter == Filter::bicubic ? "eval_bicubic" : "eval_bilinear"];
        const int size = expected["shape"][0].get<int>();
        // The golden's shorter side is 72; the published 256/224 would be 73.
        const auto [height, width, window] = central_crop(picture.height, picture.width, size, 72);
        const Box all{0, 0, picture.height, picture.width};
        resampler.resize(picture, all, height, width, window, filter, rgb);
        check_pixels(rgb, expected);
    }
}

TEST_CASE("a resize to the same size copies, and a box beyond the edge is black there", "[data]") {
    const Image picture = golden_picture();
    Resampler resampler;
    Bytes rgb;
    const int height = picture.height, width = picture.width;
    resampler.resize(picture, {0, 0, height, width}, height, width, Filter::bicubic, rgb);
    CHECK((rgb == picture.rgb));
    resampler.resize(picture, {height - 2, width - 2, 4, 4}, 4, 4, Filter::bilinear, rgb);
    for (size_t y = 0; y < 4; ++y) {
        for (size_t x = 0; x < 4; ++x) {
            const bool inside = y < 2 && x < 2;
            for (size_t c = 0; c < 3; ++c) {
                const size_t row = static_cast<size_t>(height) - 2 + y,
                             column = static_cast<size_t>(width) - 2 + x;
                CHECK(rgb[(y * 4 + x) * 3 + c] ==
                      (inside ? picture.rgb[(row * static_cast<size_t>(width) + column) * 3 + c] : 0));
            }
        }
    }
}

TEST_CASE("planes hold the picture, mirrored on demand", "[data]") {
    const Bytes rgb{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};  // (2, 2, 3)
    Bytes planes(12);
    to_planes(rgb, 2, false, planes.data());
    CHECK(planes == Bytes{1, 4, 7, 10, 2, 5, 8, 11, 3, 6, 9, 12});
    to_planes(rgb, 2, true, planes.data());
    CHECK(planes == Bytes{4, 1, 10, 7, 5, 2, 11, 8, 6, 3, 12, 9});
}

TEST_CASE("random crops stay inside, keep the rule's bounds and repeat by key", "[data]") {
    const CropRule rule;
    for (const auto& [height, width] : {std::pair{150, 200}, {28, 28}, {1, 1}, {3, 500}, {500, 3}}) {
        engine::Random random(engine::mix_key({1, 2, 3}));
        engine::Random again(engine::mix_key({1, 2, 3}));
        double mean_area = 0.0;
        constexpr int kDraws = 500;
        for (int i = 0; i < kDraws; ++i) {
            const Box box = random_crop(random, height, width, rule);
            REQUIRE(box == random_crop(again, height, width, rule));
            REQUIRE((box.top >= 0 && box.left >= 0 && box.height > 0 && box.width > 0));
            REQUIRE((box.top + box.height <= height && box.left + box.width <= width));
            Coords coords = label_coords(box, height, width);
            for (double& value : coords) value = static_cast<float>(value);  // as a label file keeps them
            REQUIRE(label_crop(coords, height, width) == box);
            mean_area += static_cast<double>(box.height) * box.width / height / width / kDraws;
        }
        // By simulation in Python: 0.432 with deviation 0.214 a draw; 0.05 is more than five deviations of
        // the mean.
        if (height == 150) CHECK(std::abs(mean_area - 0.432) < 0.05);
    }
    engine::Random random(7);
    CHECK(random_crop(random, 3, 500, rule) == Box{0, 248, 3, 4});  // the central fallback
}

TEST_CASE("the evaluation crop follows the shorter side", "[data]") {
    const auto wide = central_crop(375, 500, 224, evaluation_side(224));
    CHECK(wide.height == 256);
    CHECK(wide.width == 341);
    CHECK(wide.window == Box{16, 58, 224, 224});  // 58.5 rounds to even
    const auto tall = central_crop(500, 375, 224, evaluation_side(224));
    CHECK(tall.height == 341);
    CHECK(tall.window == Box{58, 16, 224, 224});
    const auto whole = whole_picture(32);
    CHECK(whole.height == 32);
    CHECK(whole.window == Box{0, 0, 32, 32});
}

TEST_CASE("BMP decodes, and its truncations are refused", "[data]") {
    const Bytes file = bmp(5, 3, 24);
    const Image image = decode_image(file, "five.bmp");
    REQUIRE(image.height == 3);
    REQUIRE(image.width == 5);
    // Rows run upwards, pixels are blue, green, red.
    CHECK(image.rgb[0] == file[54 + 2 * 16 + 2]);
    CHECK(image.rgb[2] == file[54 + 2 * 16]);
    for (size_t size = 0; size < file.size(); ++size) {
        INFO(size);
        CHECK(refuses("five.bmp", [&] {
            decode_image(Bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size)), "five.bmp");
        }));
    }
}

TEST_CASE("a truncated picture is refused at every length", "[data][bad-input]") {
    for (const std::string name : {"picture.png", "picture_q90_s2.jpg", "cmyk.jpg", "gray.jpg"}) {
        const Bytes whole = fixture(name);
        const size_t step = whole.size() / 40;
        for (size_t size = 0; size < whole.size(); size += size < 64 || size + 32 > whole.size() ? 1 : step) {
            INFO(name << " cut to " << size << " of " << whole.size());
            const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
            CHECK(refuses(name, [&] { decode_image(cut, name); }));
        }
        const Bytes but_one(whole.begin(), whole.end() - 1);
        CHECK(refuses(name, [&] { decode_image(but_one, name); }));
    }
}

TEST_CASE("a damaged picture is refused or decoded, never worse", "[data][bad-input]") {
    engine::Random random(99);
    int refused = 0;
    for (const std::string name : {"picture.png", "picture_q75_s0.jpg", "cmyk.jpg"}) {
        const Bytes whole = fixture(name);
        for (int trial = 0; trial < 60; ++trial) {
            Bytes broken = whole;
            // Half of the trials hit the headers.
            const size_t range = trial % 2 == 0 ? 700 : broken.size();
            for (int hit = 0; hit < 3; ++hit) {
                broken[2 + random.below(range - 2)] = static_cast<uint8_t>(random.bits());
            }
            try {
                const Image image = decode_image(broken, name);
                CHECK(image.rgb.size() ==
                      static_cast<size_t>(image.height) * static_cast<size_t>(image.width) * 3);
            } catch (const engine::Error& error) {
                CHECK(error.fault() == engine::Fault::input);
                ++refused;
            }
        }
    }
    CHECK(refused >= 60);  // every damaged PNG fails its checksums
}

TEST_CASE("a picture that claims more than its file can hold is refused before memory is taken",
          "[data][bad-input]") {
    Bytes jpeg = fixture("gray.jpg");
    const auto frame = std::find(jpeg.begin() + 1, jpeg.end(), 0xC0);
    REQUIRE(frame != jpeg.end());
    for (int i = 0; i < 4; ++i) *(frame + 4 + i) = 0xFF;  // height and width
    CHECK(refuses("huge.jpg", [&] { decode_image(jpeg, "huge.jpg"); }));
    Bytes big = bmp(4, 4, 24);
    big[20] = 0x7F;
    CHECK(refuses("huge.bmp", [&] { decode_image(big, "huge.bmp"); }));
    CHECK(refuses("notes.txt", [] { decode_image(Bytes{'h', 'e', 'l', 'l', 'o'}, "notes.txt"); }));
    CHECK(refuses("empty.png", [] { decode_image({}, "empty.png"); }));
}
