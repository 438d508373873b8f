// libjpeg reports errors through longjmp: no function below that calls into it holds a C++ object of its own.
#include <csetjmp>
#include <cstdio>
// jpeglib.h needs <cstdio> before it.
#include <jerror.h>
#include <jpeglib.h>

#include "data/image.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

class JpegDecoder {
  public:
    explicit JpegDecoder(std::span<const uint8_t> bytes) : bytes_(bytes) {
        info_.err = jpeg_std_error(&errors_);
        errors_.error_exit = [](j_common_ptr info) { self(info).leave(); };
        errors_.emit_message = [](j_common_ptr info, int level) {
            const int code = info->err->msg_code;
            if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER)) self(info).leave();
        };
        errors_.output_message = [](j_common_ptr) {};
        progress_.progress_monitor = [](j_common_ptr info) {
            constexpr int kMostScans = 500;  // a small file can ask for endless passes over a large picture
            if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMostScans) {
                ERREXIT(info, JERR_EOI_EXPECTED);
            }
        };
        info_.client_data = this;
    }
    JpegDecoder(const JpegDecoder&) = delete;
    JpegDecoder& operator=(const JpegDecoder&) = delete;
    ~JpegDecoder() { jpeg_destroy_decompress(&info_); }

    // The three steps return false on an error; message() then says which.
    bool read_header() {
        if (setjmp(jump_) != 0) return false;
        jpeg_create_decompress(&info_);
        info_.client_data = this;
        info_.progress = &progress_;
        jpeg_mem_src(&info_, bytes_.data(), bytes_.size());
        jpeg_read_header(&info_, TRUE);
        return true;
    }
    bool start(J_COLOR_SPACE colors) {
        if (setjmp(jump_) != 0) return false;
        info_.out_color_space = colors;
        jpeg_start_decompress(&info_);
        return true;
    }
    // rows: (height, width, output components)
    bool read_rows(uint8_t* rows) {
        if (setjmp(jump_) != 0) return false;
        while (info_.output_scanline < info_.output_height) {
            JSAMPROW row =
                rows + size_t{info_.output_scanline} * info_.output_width * info_.output_components;
            jpeg_read_scanlines(&info_, &row, 1);
        }
        jpeg_finish_decompress(&info_);
        return true;
    }

    int height() const { return static_cast<int>(info_.image_height); }
    int width() const { return static_cast<int>(info_.image_width); }
    int components() const { return info_.num_components; }
    const char* message() const { return message_; }

  private:
    static JpegDecoder& self(j_common_ptr info) { return *static_cast<JpegDecoder*>(info->client_data); }
    [[noreturn]] void leave() {
        errors_.format_message(reinterpret_cast<j_common_ptr>(&info_), message_);
        std::longjmp(jump_, 1);
    }

    std::span<const uint8_t> bytes_;
    jpeg_decompress_struct info_{};
    jpeg_error_mgr errors_{};
    jpeg_progress_mgr progress_{};
    std::jmp_buf jump_{};
    char message_[JMSG_LENGTH_MAX] = {};
};

// a * b / 255, rounded, as Pillow computes it
inline int scaled(int a, int b) {
    const int product = a * b + 128;
    return ((product >> 8) + product) >> 8;
}

// Adobe writes CMYK inverted: c, m, y, k below are what is left of the light.
void rgb_from_inverted_cmyk(const Bytes& cmyk, Bytes& rgb) {
    for (size_t pixel = 0; pixel < rgb.size() / 3; ++pixel) {
        const int light = cmyk[4 * pixel + 3];
        for (size_t c = 0; c < 3; ++c) {
            rgb[3 * pixel + c] = static_cast<uint8_t>(light - scaled(255 - cmyk[4 * pixel + c], light));
        }
    }
}

}  // namespace

Image decode_jpeg(std::span<const uint8_t> bytes, const std::string& name) {
    JpegDecoder decoder(bytes);
    const auto require = [&](bool good) {
        if (!good) {
            engine::input_error("picture '", printable(name), "' is a truncated or damaged JPEG (",
                                printable(decoder.message()), "): replace or remove the file");
        }
    };
    require(decoder.read_header());
    check_picture_size(decoder.height(), decoder.width(), bytes.size(), name);
    const bool four = decoder.components() == 4;
    if (!four && decoder.components() != 1 && decoder.components() != 3) {
        engine::input_error("picture '", printable(name), "' is a JPEG of ", decoder.components(),
                            " components: convert it to RGB");
    }
    require(decoder.start(four ? JCS_CMYK : JCS_RGB));
    Image image{decoder.height(), decoder.width(), {}};
    const size_t pixels = static_cast<size_t>(image.height) * static_cast<size_t>(image.width);
    image.rgb.resize(pixels * 3);
    if (four) {
        Bytes cmyk(pixels * 4);
        require(decoder.read_rows(cmyk.data()));
        rgb_from_inverted_cmyk(cmyk, image.rgb);
    } else {
        require(decoder.read_rows(image.rgb.data()));
    }
    return image;
}

}  // namespace vvtq::data
