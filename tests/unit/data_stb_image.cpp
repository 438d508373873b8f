// Pictures of the tests as stb_image decodes them: a second opinion on our readers. stb_image itself reads
// nothing of users: its BMP looks up colors that the palette does not have.
#define STB_IMAGE_IMPLEMENTATION
#define STBI_NO_STDIO
#define STBI_NO_JPEG
#if __has_include(<stb/stb_image.h>)
#include <stb/stb_image.h>
#else
#include <stb_image.h>
#endif

#include <memory>

#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

TEST_CASE("BMP, PPM and PNG of 8 bits are as stb_image decodes them", "[data]") {
    for (const char* name :
         {"color.bmp", "gray.bmp", "palette.bmp", "color.ppm", "gray.pgm", "bilevel.png", "palette.png"}) {
        INFO(name);
        const std::string path = std::string(VVTQ_SOURCE_DIR "/tests/pictures/") + name;
        const data::Bytes bytes = data::read_file(path, "check out again");
        const data::Image image = data::decode_image(bytes, path);
        int width = 0, height = 0, channels = 0;
        const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
            stbi_load_from_memory(bytes.data(), static_cast<int>(bytes.size()), &width, &height, &channels,
                                  3),
            stbi_image_free);
        REQUIRE(pixels != nullptr);
        REQUIRE(image.height == height);
        REQUIRE(image.width == width);
        CHECK(std::equal(image.rgb.begin(), image.rgb.end(), pixels.get()));
    }
}
