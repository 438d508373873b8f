#include "tests/jpeg_writer.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
// jpeglib.h needs <cstdio> before it.
#include <jpeglib.h>

#include "engine/random.h"
#include "tests/unit/data_support.h"

namespace vvtq::tests {

void write_jpeg(const std::string& path, const data::Image& image) {
    jpeg_compress_struct info{};
    jpeg_error_mgr errors{};
    info.err = jpeg_std_error(&errors);
    jpeg_create_compress(&info);
    unsigned char* bytes = nullptr;
    unsigned long size = 0;
    jpeg_mem_dest(&info, &bytes, &size);
    info.image_width = static_cast<JDIMENSION>(image.width);
    info.image_height = static_cast<JDIMENSION>(image.height);
    info.input_components = 3;
    info.in_color_space = JCS_RGB;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, 90, TRUE);
    jpeg_start_compress(&info, TRUE);
    while (info.next_scanline < info.image_height) {
        JSAMPROW row =
            const_cast<uint8_t*>(image.rgb.data()) + size_t{3} * info.next_scanline * info.image_width;
        jpeg_write_scanlines(&info, &row, 1);
    }
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    write_bytes(path, data::Bytes(bytes, bytes + size));
    std::free(bytes);
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
