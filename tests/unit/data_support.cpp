#include "tests/unit/data_support.h"

#include "tests/golden_inputs.h"

namespace vvtq::tests {

std::string fixture_path(const std::string& name) {
    const char* directory = std::getenv("VVTQ_FIXTURES");
    const std::string given = directory != nullptr ? engine::concat(directory, "/", name) : "";
    if (!given.empty() && std::filesystem::exists(given)) return given;
    return VVTQ_SOURCE_DIR "/tests/fixtures/" + name;
}

data::Image golden_picture() {
    const nlohmann::json golden = read_golden(golden_file("image.json"));
    const int height = golden.at("height"), width = golden.at("width");
    const int64_t values = int64_t{3} * height * width;
    const std::vector<double> noise = uniform01(golden.value("tag", "") + "picture", values);
    data::Image image{height, width, data::Bytes(noise.size())};
    size_t i = 0;
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            const int ramps[3] = {x * 255 / (width - 1), y * 255 / (height - 1),
                                  (x + y) * 255 / (height + width - 2)};
            for (const int ramp : ramps) {
                image.rgb[i] = static_cast<uint8_t>(x < width / 2 ? static_cast<int>(256 * noise[i]) : ramp);
                ++i;
            }
        }
    }
    return image;
}

}  // namespace vvtq::tests
