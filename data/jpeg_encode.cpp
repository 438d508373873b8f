// libjpeg reports errors through longjmp: no function of JpegEncoder that calls into it holds a C++ object of
// its own.
#include "data/jpeg_encode.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
// jpeglib.h needs <cstdio> before it.
#include <jpeglib.h>

#include "engine/check.h"

namespace vvtq::data {
namespace {

class JpegEncoder {
  public:
    JpegEncoder() {
        info_.err = jpeg_std_error(&errors_);
        info_.client_data = this;
        errors_.error_exit = [](j_common_ptr info) {
            std::longjmp(static_cast<JpegEncoder*>(info->client_data)->jump_, 1);
        };
        errors_.output_message = [](j_common_ptr) {};
    }
    JpegEncoder(const JpegEncoder&) = delete;
    JpegEncoder& operator=(const JpegEncoder&) = delete;
    ~JpegEncoder() {
        jpeg_destroy_compress(&info_);
        std::free(bytes_);
    }

    bool encode(const Image& image, int quality) {
        if (setjmp(jump_) != 0) return false;
        jpeg_create_compress(&info_);
        jpeg_mem_dest(&info_, &bytes_, &size_);
        info_.image_width = static_cast<JDIMENSION>(image.width);
        info_.image_height = static_cast<JDIMENSION>(image.height);
        info_.input_components = 3;
        info_.in_color_space = JCS_RGB;
        jpeg_set_defaults(&info_);
        jpeg_set_quality(&info_, quality, TRUE);
        jpeg_start_compress(&info_, TRUE);
        while (info_.next_scanline < info_.image_height) {
            JSAMPROW row =
                const_cast<uint8_t*>(image.rgb.data()) + size_t{3} * info_.next_scanline * info_.image_width;
            jpeg_write_scanlines(&info_, &row, 1);
        }
        jpeg_finish_compress(&info_);
        return true;
    }
    Bytes bytes() const { return {bytes_, bytes_ + size_}; }

  private:
    jpeg_compress_struct info_{};
    jpeg_error_mgr errors_{};
    std::jmp_buf jump_{};
    unsigned char* bytes_ = nullptr;
    unsigned long size_ = 0;
};

}  // namespace

Bytes encode_jpeg(const Image& image, int quality) {
    VVTQ_CHECK(image.height > 0 && image.width > 0 && quality >= 1 && quality <= 100, image.height, " x ",
               image.width, ", quality ", quality);
    JpegEncoder encoder;
    if (!encoder.encode(image, quality)) {
        engine::run_error("cannot encode a picture of ", image.height, " x ", image.width, " as JPEG");
    }
    return encoder.bytes();
}

}  // namespace vvtq::data
