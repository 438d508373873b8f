// libjpeg reports errors through longjmp: no function of JpegDecoder that calls into it holds a C++ object of
// its own.
#include "data/jpeg.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <string_view>
// jpeglib.h needs <cstdio> before it.
#include <jerror.h>
#include <jpeglib.h>

#include "engine/check.h"

namespace vvtq::data {

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
            if (self(info).asks_too_much()) ERREXIT(info, JERR_EOI_EXPECTED);
        };
        info_.client_data = this;
    }
    JpegDecoder(const JpegDecoder&) = delete;
    JpegDecoder& operator=(const JpegDecoder&) = delete;
    ~JpegDecoder() { jpeg_destroy_decompress(&info_); }

    // These return false on an error; message() then says which.
    bool read_header() {
        if (setjmp(jump_) != 0) return false;
        jpeg_create_decompress(&info_);
        info_.client_data = this;
        info_.progress = &progress_;
        jpeg_mem_src(&info_, bytes_.data(), bytes_.size());
        jpeg_read_header(&info_, TRUE);
        return true;
    }
    bool start(J_COLOR_SPACE colors, unsigned reduce) {
        if (setjmp(jump_) != 0) return false;
        info_.scale_num = 1;
        info_.scale_denom = reduce;
        info_.out_color_space = colors;
        jpeg_start_decompress(&info_);
        return true;
    }
    // Decodes columns [left, left + width) only; both become multiples of what the format holds together.
    bool narrow(unsigned& left, unsigned& width) {
        if (setjmp(jump_) != 0) return false;
        jpeg_crop_scanline(&info_, &left, &width);
        return true;
    }
    bool skip(unsigned rows) {
        if (setjmp(jump_) != 0) return false;
        return rows == 0 || jpeg_skip_scanlines(&info_, rows) == rows;
    }
    // rows: (count, output width, output components)
    bool read(uint8_t* rows, unsigned count) {
        if (setjmp(jump_) != 0) return false;
        const size_t stride = size_t{info_.output_width} * static_cast<size_t>(info_.output_components);
        for (unsigned done = 0; done < count;) {
            JSAMPROW pointers[4];
            for (size_t i = 0; i < 4; ++i) pointers[i] = rows + (done + i) * stride;
            done += jpeg_read_scanlines(&info_, pointers, std::min(4U, count - done));
        }
        return true;
    }
    bool finish() {
        if (setjmp(jump_) != 0) return false;
        jpeg_finish_decompress(&info_);
        return true;
    }

    int height() const { return static_cast<int>(info_.image_height); }
    int width() const { return static_cast<int>(info_.image_width); }
    int components() const { return info_.num_components; }
    bool several_scans() const { return jpeg_has_multiple_scans(const_cast<j_decompress_ptr>(&info_)) != 0; }
    // One component, or color at full, half or quarter resolution of the brightness: what cameras and
    // encoders write, and what decoding in parts was tested on.
    bool usual_sampling() const {
        const auto factors = [&](int c, int h, int v) {
            return info_.comp_info[c].h_samp_factor == h && info_.comp_info[c].v_samp_factor == v;
        };
        if (info_.num_components == 1) return true;
        const bool colors = info_.num_components == 3 && factors(1, 1, 1) && factors(2, 1, 1);
        return colors && (factors(0, 1, 1) || factors(0, 2, 1) || factors(0, 2, 2));
    }
    // Of all scans of a picture in several, which libjpeg keeps.
    uint64_t coefficient_bytes() const {
        uint64_t blocks = 0;
        for (int c = 0; several_scans() && c < info_.num_components; ++c) {
            const jpeg_component_info& part = info_.comp_info[c];
            const auto up = [](uint64_t size, int unit) { return size + static_cast<uint64_t>(unit); };
            blocks +=
                up(part.width_in_blocks, part.h_samp_factor) * up(part.height_in_blocks, part.v_samp_factor);
        }
        return blocks * sizeof(JBLOCK);
    }
    // Pixels that the format holds together, across.
    int unit_width() const { return info_.max_h_samp_factor * DCTSIZE; }
    size_t unread() const { return info_.src->bytes_in_buffer; }
    const char* message() const { return message_; }

  private:
    static JpegDecoder& self(j_common_ptr info) { return *static_cast<JpegDecoder*>(info->client_data); }
    // A small file can ask for endless passes over a large picture.
    bool asks_too_much() const {
        constexpr uint64_t kMostScans = 500, kPixels = uint64_t{1} << 31, kPixelsPerByte = 1024;
        const auto scans = static_cast<uint64_t>(std::max(0, info_.input_scan_number));
        const uint64_t pixels = uint64_t{info_.image_height} * info_.image_width;
        return scans > kMostScans || scans * pixels > kPixels + kPixelsPerByte * bytes_.size();
    }
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

namespace {

// Whether the segments before the first scan are those of a file that Pillow takes: it looks at markers and
// at the lengths of a few segments that libjpeg passes over.
bool has_usual_segments(std::span<const uint8_t> bytes) {
    using namespace std::string_view_literals;
    struct Kind {
        uint8_t marker;
        std::string_view begin;
        size_t least;  // bytes
    };
    constexpr Kind kKinds[] = {{0xE0, "JFIF"sv, 7}, {0xEE, "Adobe"sv, 7}, {0xE2, "ICC_PROFILE\0"sv, 14}};
    constexpr uint8_t kEscaped = 0, kFirst = 0xC0, kScan = 0xDA, kFill = 0xFF;
    for (size_t at = 2; at + 1 < bytes.size();) {
        const uint8_t marker = bytes[at + 1];
        if (bytes[at] != 0xFF || marker == kFill) {
            ++at;
            continue;
        }
        at += 2;
        if (marker == kScan) return true;
        if (marker != kEscaped && marker < kFirst) return false;
        const bool alone = marker == kEscaped || marker == 0xC8 || (marker >= 0xD0 && marker <= 0xD9) ||
                           (marker >= 0xF0 && marker <= 0xFD);
        if (alone) continue;
        if (bytes.size() - at < 2) return false;
        const size_t length = std::max<size_t>(2, size_t{bytes[at]} << 8 | bytes[at + 1]);
        if (bytes.size() - at < length) return false;
        const std::string_view text(reinterpret_cast<const char*>(&bytes[at]) + 2, length - 2);
        for (const Kind& kind : kKinds) {
            if (marker == kind.marker && text.starts_with(kind.begin) && text.size() < kind.least)
                return false;
        }
        at += length;
    }
    return false;
}

// a * b / 255, rounded, as Pillow computes it
inline int scaled(int a, int b) {
    const int product = a * b + 128;
    return ((product >> 8) + product) >> 8;
}

// Adobe writes CMYK inverted: c, m, y, k below are what is left of the light.
void rgb_from_inverted_cmyk(uint8_t* pixels, size_t count) {
    for (uint8_t* pixel = pixels; pixel < pixels + 4 * count; pixel += 4) {
        const int light = pixel[3];
        for (size_t c = 0; c < 3; ++c) pixel[c] = static_cast<uint8_t>(light - scaled(255 - pixel[c], light));
    }
}

}  // namespace

JpegReader::JpegReader() = default;
JpegReader::JpegReader(JpegReader&&) noexcept = default;
JpegReader& JpegReader::operator=(JpegReader&&) noexcept = default;
JpegReader::~JpegReader() = default;

void JpegReader::require(bool good) const {
    if (!good) {
        engine::input_error("picture '", printable(name_), "' is a truncated or damaged JPEG (",
                            printable(decoder_->message()), "): replace or remove the file");
    }
}

void JpegReader::open(std::span<const uint8_t> bytes, const std::string& name) {
    bytes_ = bytes;
    name_ = name;
    decoder_ = std::make_unique<JpegDecoder>(bytes);  // anew: a file must not use another's tables
    require(decoder_->read_header());
    if (!has_usual_segments(bytes)) {
        engine::input_error("picture '", printable(name), "' is a damaged JPEG (",
                            "odd segments before its first scan): replace or remove the file");
    }
    check_picture_size(decoder_->height(), decoder_->width(), bytes.size(), name);
    const int components = decoder_->components();
    if (components != 4 && components != 1 && components != 3) {
        engine::input_error("picture '", printable(name), "' is a JPEG of ", components,
                            " components: convert it to RGB");
    }
    height_ = decoder_->height();
    width_ = decoder_->width();
    in_part_ = components != 4 && !decoder_->several_scans() && decoder_->usual_sampling() && has_end();
}

uint64_t JpegReader::memory(const Box& needed, int reduce) const {
    const uint64_t rows = 64 * static_cast<uint64_t>(width_);
    return Canvas::memory(reduced(in_part_ ? needed : Box{0, 0, height_, width_}, reduce)) +
           decoder_->coefficient_bytes() + rows;
}

// A file that is cut off has no end marker after its first scan's header.
bool JpegReader::has_end() const {
    const auto scan = bytes_.last(decoder_->unread());
    for (size_t at = scan.size(); at >= 2; --at) {
        if (scan[at - 2] == 0xFF && scan[at - 1] == 0xD9) return true;
    }
    return false;
}

void JpegReader::decode(const Box& whole_needed, Canvas& canvas, int reduce) {
    const Box needed = reduced(whole_needed, reduce), all = reduced({0, 0, height_, width_}, reduce);
    const bool known = reduce == 1 || reduce == 2 || reduce == 4 || reduce == 8;
    VVTQ_CHECK(known && decoder_ != nullptr && needed.top >= 0 && needed.left >= 0 &&
                   needed.height <= all.height - needed.top && needed.width <= all.width - needed.left,
               needed.height, " x ", needed.width, " at ", needed.top, ", ", needed.left, " of ", all.height,
               " x ", all.width);
    JpegDecoder& decoder = *decoder_;
    const bool cmyk = decoder.components() == 4;
    require(decoder.start(cmyk ? JCS_CMYK : JCS_EXT_RGBX, static_cast<unsigned>(reduce)));
    Box box = all;
    // Smooth upsampling looks at the neighbours, so a unit more is decoded on either side.
    const int unit = decoder.unit_width() / reduce;
    const int left = std::max(0, (needed.left / unit - 1) * unit);
    const int right = std::min(all.width, (needed.left + needed.width + 2 * unit - 1) / unit * unit);
    int shift = 0;  // from the first decoded column to the first kept one
    if (in_part_ && right - left < all.width) {
        auto first = static_cast<unsigned>(left);
        auto columns = static_cast<unsigned>(right - left);
        require(decoder.narrow(first, columns));
        box.left = static_cast<int>(first);
        box.width = static_cast<int>(columns);
    }
    const size_t stride = static_cast<size_t>(box.width) * 4;
    if (in_part_) {
        shift = needed.left - box.left;
        box = needed;
        require(decoder.skip(static_cast<unsigned>(box.top)));
    }
    canvas.reset(box, reduce);
    rows_.resize(stride * 4);
    for (int y = 0; y < box.height; y += 4) {
        const int count = std::min(4, box.height - y);
        require(decoder.read(rows_.data(), static_cast<unsigned>(count)));
        if (cmyk) rgb_from_inverted_cmyk(rows_.data(), stride / 4 * static_cast<size_t>(count));
        canvas.write_quad(y / 4, rows_.data() + 4 * shift, stride);
    }
    if (!in_part_) require(decoder.finish());
    decoder_.reset();
}

}  // namespace vvtq::data
