// The pictures in docs/augmentation are what the code draws.
#include "tests/augmentation_pictures.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace {

const std::string kFolder = VVTQ_SOURCE_DIR "/docs/augmentation/";

}  // namespace

// vvtq_tests "[draw]" draws them anew.
TEST_CASE("draw the pictures of docs/augmentation", "[.][draw]") {
    for (const auto& [name, image] : augmentation_sheets()) write_bytes(kFolder + name, encode_png(image));
}

TEST_CASE("the pictures of docs/augmentation show what the code does", "[data][augment]") {
    const auto sheets = augmentation_sheets();
    CHECK(sheets.size() == 10);
    const data::Bytes text = data::read_file(VVTQ_SOURCE_DIR "/docs/augmentation.md", "");
    const std::string page(text.begin(), text.end());
    for (const auto& [name, image] : sheets) {
        INFO(name);
        const data::Image held = data::decode_image(data::read_file(kFolder + name, "draw it"), name);
        CHECK(held.height == image.height);
        CHECK(held.width == image.width);
        // Sines of other math libraries may move an edge by a pixel.
        size_t different = 0;
        REQUIRE(held.rgb.size() == image.rgb.size());
        for (size_t i = 0; i < held.rgb.size(); ++i) different += held.rgb[i] != image.rgb[i];
        CHECK(different < held.rgb.size() / 500);
        CHECK(page.find("augmentation/" + name) != std::string::npos);
    }
}
