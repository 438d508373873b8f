#include "tests/jpeg_writer.h"

#include "data/jpeg_encode.h"
#include "engine/random.h"
#include "tests/unit/data_support.h"

namespace vvtq::tests {

void write_jpeg(const std::string& path, const data::Image& image) {
    write_bytes(path, data::encode_jpeg(image, 90));
}

void write_cifar_like(const std::string& dir, int train, int test) {
    constexpr int kSide = 32;
    engine::Random noise(8);
    for (const auto& [split, count] : {std::pair{"train", train}, {"test", test}}) {
        for (int label = 0; label < 10; ++label) {
            for (int number = 0; number < count; ++number) {
                data::Image image{kSide, kSide, {}};
                for (int y = 0; y < kSide; ++y) {
                    for (int x = 0; x < kSide; ++x) {
                        const bool bar = x * 5 / kSide == label % 5;
                        const int base[3] = {label < 5 ? 170 : 60, bar ? 220 : 40, label < 5 ? 60 : 170};
                        for (int value : base) {
                            image.rgb.push_back(
                                static_cast<uint8_t>(value + static_cast<int>(noise.below(35))));
                        }
                    }
                }
                const std::string folder = dir + "/" + split + "/class" + std::to_string(label);
                write_jpeg(folder + "/" + std::to_string(1000 + number) + ".jpg", image);
            }
        }
    }
}

}  // namespace vvtq::tests
