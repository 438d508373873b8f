// Picture formats: every kind of file that a folder may hold, against Pillow's pixels, and parts of JPEGs
// against the whole.
#include <zlib.h>

#include "data/jpeg.h"
#include "data/picture_reader.h"
#include "engine/random.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;

namespace {

std::string own_picture(const std::string& name) { return VVTQ_SOURCE_DIR "/tests/pictures/" + name; }

uint64_t hash(const Bytes& bytes) {
    Fnv fnv;
    fnv.add(std::span(bytes));
    return fnv.value();
}

// The part of `whole` that lies in `box`, which lies in the picture.
Bytes part_of(const Image& whole, const Box& box) {
    Bytes part;
    for (int y = box.top; y < box.top + box.height; ++y) {
        const auto from = whole.rgb.begin() + (std::ptrdiff_t{y} * whole.width + box.left) * 3;
        part.insert(part.end(), from, from + std::ptrdiff_t{box.width} * 3);
    }
    return part;
}

void check_parts(const std::string& path, int trials) {
    const Bytes bytes = read_file(path, "");
    const Image whole = decode_image(bytes, path);
    engine::Random random(3);
    JpegReader reader;
    Canvas canvas;
    Bytes part;
    const auto below = [&](int n) { return static_cast<int>(random.below(static_cast<uint64_t>(n))); };
    for (int trial = 0; trial < trials; ++trial) {
        Box box{below(whole.height), below(whole.width), 0, 0};
        box.height = 1 + below(whole.height - box.top);
        box.width = 1 + below(whole.width - box.left);
        reader.open(bytes, path);
        reader.decode(box, canvas);
        copy_out(canvas, box, part);
        INFO(path << ": " << box.height << " x " << box.width << " at " << box.top << ", " << box.left);
        CHECK(part == part_of(whole, box));
    }
}

}  // namespace

TEST_CASE("pictures of every kind become RGB as by Pillow's convert", "[data][pixels]") {
    // FNV-1a of Image.open(..).convert("RGB").tobytes() by Pillow 13.0
    const std::pair<const char*, uint64_t> expected[] = {
        {"picture_422.jpg", 0x5682AB94A3AE4712ULL},
        {"picture_progressive.jpg", 0x9791FE13250FEB43ULL},
        {"picture_restart.jpg", 0x4CA8A6ED5080C584ULL},
        {"rgb16.png", 0xDD9A587AA59FF932ULL},
        {"gray16.png", 0x9D4D922FFF9F6CDCULL},  // clipped at 255, not cut to the upper eight bits
        {"gray_alpha16.png", 0x408EF92543D1C8EFULL},
        {"rgba16.png", 0xDD9A587AA59FF932ULL},
        {"gray_alpha.png", 0x08D5FF32F5C20AFEULL},
        {"palette.png", 0x3ECDCBAEEF4A7696ULL},
        {"bilevel.png", 0x10FD737D95CF8A2AULL},
        {"gray.bmp", 0x05F1AD31F297377BULL},
        {"color.bmp", 0x4DEC1C2F5F1480D2ULL},
        {"palette.bmp", 0x1867845E35EB1167ULL},
        {"rgba.bmp", 0x4DEC1C2F5F1480D2ULL},
        {"color.ppm", 0x4DEC1C2F5F1480D2ULL},
        {"gray.pgm", 0x05F1AD31F297377BULL}};
    for (const auto& [name, value] : expected) {
        INFO(name);
        const Image image = decode_image(read_file(own_picture(name), ""), name);
        CHECK(image.rgb.size() == static_cast<size_t>(image.height) * static_cast<size_t>(image.width) * 3);
        CHECK(hash(image.rgb) == value);
    }
}

TEST_CASE("a part of a JPEG has the pixels of the whole", "[data][pixels]") {
    for (const char* name : {"picture_q75_s0.jpg", "picture_q90_s2.jpg", "gray.jpg", "cmyk.jpg"}) {
        check_parts(fixture_path(name), 400);
    }
    for (const char* name : {"picture_422.jpg", "picture_progressive.jpg", "picture_restart.jpg"}) {
        check_parts(own_picture(name), 400);
    }
}

namespace {

Bytes big_endian(size_t value) {
    Bytes bytes;
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<uint8_t>(value >> shift));
    return bytes;
}

void append(Bytes& to, const Bytes& from) { to.insert(to.end(), from.begin(), from.end()); }

Bytes chunk(const std::string& type, const Bytes& content) {
    Bytes checked(type.begin(), type.end());
    append(checked, content);
    Bytes bytes = big_endian(content.size());
    append(bytes, checked);
    append(bytes, big_endian(crc32(0, checked.data(), static_cast<uInt>(checked.size()))));
    return bytes;
}

/// A PNG file; rows: its filtered rows, of all passes where it is interlaced. `before` stands behind IHDR.
Bytes png(uint8_t width, uint8_t height, uint8_t depth, uint8_t color, uint8_t interlace, const Bytes& rows,
          const Bytes& before = {}) {
    Bytes packed(compressBound(rows.size()));
    uLongf size = packed.size();
    compress(packed.data(), &size, rows.data(), rows.size());
    packed.resize(size);
    Bytes file = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    append(file, chunk("IHDR", {0, 0, 0, width, 0, 0, 0, height, depth, color, 0, 0, interlace}));
    append(file, before);
    append(file, chunk("IDAT", packed));
    append(file, chunk("IEND", {}));
    return file;
}

}  // namespace

TEST_CASE("PNG of few bits, palettes, passes and 16 bits", "[data]") {
    const auto pixels = [](const Bytes& file) { return decode_image(file, "x.png").rgb; };
    const Bytes palette = chunk("PLTE", {10, 20, 30, 40, 50, 60});
    CHECK(pixels(png(3, 1, 2, 0, 0, {0, 0b00'10'11'00})) == Bytes{0, 0, 0, 170, 170, 170, 255, 255, 255});
    // Code 3 of a palette of two colours is black, as Pillow has it.
    CHECK(pixels(png(3, 1, 2, 3, 0, {0, 0b01'00'11'00}, palette)) == Bytes{40, 50, 60, 10, 20, 30, 0, 0, 0});
    // Two rows of two gray pixels in passes 1, 6 and 7 of Adam7.
    CHECK(pixels(png(2, 2, 8, 0, 1, {0, 1, 0, 2, 0, 3, 4})) == Bytes{1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4});
    CHECK(pixels(png(2, 1, 16, 0, 1, {0, 0, 7, 0, 1, 0})) == Bytes{7, 7, 7, 255, 255, 255});  // clipped
    CHECK(pixels(png(1, 1, 16, 2, 0, {0, 1, 200, 2, 200, 3, 200})) == Bytes{1, 2, 3});        // cut
    CHECK(pixels(png(1, 1, 8, 6, 0, {0, 5, 6, 7, 0})) == Bytes{5, 6, 7});  // without its alpha
}

TEST_CASE("PNG: only chunks that make pixels are looked at, and these are checked", "[data][bad-input]") {
    const auto with = [](const Bytes& before) { return png(1, 1, 8, 0, 0, {0, 9}, before); };
    Bytes text = chunk("zTXt", {'a', 0, 0, 1, 2, 3});
    text.back() ^= 1;
    CHECK(decode_image(with(text), "x.png").rgb == Bytes{9, 9, 9});
    const auto refused = [](const Bytes& file) {
        return refuses("x.png", [&] { decode_image(file, "x.png"); });
    };
    CHECK(refused(with(chunk("ABCD", {}))));     // of a kind that nobody knows and everybody must
    for (const size_t from_end : {1, 13, 20}) {  // checksums of IEND and IDAT, and pixel data
        Bytes file = with({});
        file[file.size() - from_end] ^= 1;
        INFO(from_end);
        CHECK(refused(file));
    }
    // 400 MB of pixels in 16 KB: refused before they get memory.
    Bytes huge = with({});
    Bytes header = chunk("IHDR", {0, 0, 0x40, 0, 0, 0, 0x20, 0, 8, 2, 0, 0, 0});
    std::copy(header.begin(), header.end(), huge.begin() + 8);
    append(huge, Bytes(16384));
    CHECK(refuses("it ends too early", [&] { decode_image(huge, "x.png"); }));
}

// VVTQ_CHECKSUMS: a file of tests/pillow_checksums.py, which names the pictures.
TEST_CASE("pictures of a folder decode to Pillow's pixels, whole and in parts", "[.][pillow]") {
    const char* path = std::getenv("VVTQ_CHECKSUMS");
    INFO("VVTQ_CHECKSUMS names what tests/pillow_checksums.py printed");
    REQUIRE(path != nullptr);
    std::ifstream lines(path);
    int pictures = 0, height = 0, width = 0;
    uint64_t checksum = 0;
    std::string name;
    while (lines >> checksum >> height >> width && std::getline(lines >> std::ws, name)) {
        INFO(name);
        const Image image = decode_image(read_file(name, ""), name);
        CHECK(image.height == height);
        CHECK(image.width == width);
        CHECK(crc32_z(0, image.rgb.data(), image.rgb.size()) == checksum);
        if (is_jpeg(read_file(name, ""))) check_parts(name, 10);
        ++pictures;
    }
    WARN(pictures << " pictures equal Pillow's");
    CHECK(pictures > 0);
}

TEST_CASE("a JPEG without its end is refused, whichever part is looked at", "[data][bad-input]") {
    const Bytes whole = read_file(own_picture("picture_422.jpg"), "");
    JpegReader reader;
    Canvas canvas;
    for (const size_t size : {whole.size() - 1, whole.size() * 3 / 4, whole.size() / 2}) {
        const std::span<const uint8_t> cut(whole.data(), size);
        CHECK(refuses("cut.jpg", [&] {
            reader.open(cut, "cut.jpg");
            reader.decode({0, 0, 8, 8}, canvas);
        }));
    }
}

TEST_CASE("damaged PPM files are refused by name", "[data][bad-input]") {
    const Bytes whole = read_file(own_picture("color.ppm"), "");
    for (size_t size = 0; size < whole.size(); size += size < 20 ? 1 : 97) {
        INFO(size);
        CHECK(refuses("some.ppm", [&] {
            decode_image(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)), "some.ppm");
        }));
    }
    for (const std::string text :
         {"P6 99999 99999 255\n", "P6 -3 4 255\n", "P6 3 4 65535\n", "P5 # no end"}) {
        INFO(text);
        CHECK(refuses("some.ppm", [&] { decode_image(Bytes(text.begin(), text.end()), "some.ppm"); }));
    }
}

TEST_CASE("parts of a damaged JPEG are refused or decoded, never worse", "[data][bad-input]") {
    engine::Random random(12);
    JpegReader reader;
    Canvas canvas;
    int decoded = 0;
    for (const char* name : {"picture_422.jpg", "picture_progressive.jpg", "picture_restart.jpg"}) {
        const Bytes whole = read_file(own_picture(name), "");
        for (int trial = 0; trial < 150; ++trial) {
            Bytes broken = whole;
            for (int hit = 0; hit < 3; ++hit) {
                broken[2 + random.below(trial % 2 == 0 ? 700 : broken.size() - 4)] =
                    static_cast<uint8_t>(random.bits());
            }
            try {
                reader.open(broken, name);
                const int top = static_cast<int>(random.below(static_cast<uint64_t>(reader.height())));
                const int left = static_cast<int>(random.below(static_cast<uint64_t>(reader.width())));
                const Box box{top, left, 1 + (reader.height() - top) / 2, 1 + (reader.width() - left) / 2};
                reader.decode(box, canvas);
                CHECK(canvas.box.height >= box.height);
                ++decoded;
            } catch (const engine::Error& error) {
                CHECK(error.fault() == engine::Fault::input);
            }
        }
    }
    CHECK(decoded > 50);
}
