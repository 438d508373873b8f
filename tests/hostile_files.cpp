#include "tests/hostile_files.h"

#include <zlib.h>

#include <algorithm>
#include <array>

#include "engine/check.h"

namespace vvtq::tests {

using data::Bytes;

namespace {

void put(Bytes& to, uint64_t value, int size, bool big_endian = false) {
    constexpr int kBytes = sizeof value;  // those above are 0
    for (int i = 0; i < size; ++i) {
        const int byte = big_endian ? size - 1 - i : i;
        to.push_back(byte < kBytes ? static_cast<uint8_t>(value >> (8 * byte)) : 0);
    }
}

void put(Bytes& to, const std::string& text) { to.insert(to.end(), text.begin(), text.end()); }

void put(Bytes& to, const Bytes& bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); }

// `size` zeros, in zlib's or (raw) deflate's format.
Bytes deflated(const Bytes& content, size_t zeros, bool raw) {
    z_stream stream{};
    if (deflateInit2(&stream, 1, Z_DEFLATED, raw ? -MAX_WBITS : MAX_WBITS, 9, Z_DEFAULT_STRATEGY) != Z_OK) {
        engine::run_error("no zlib");
    }
    const Bytes blank(1 << 20);
    Bytes out;
    Bytes piece(1 << 16);
    const auto feed = [&](const uint8_t* from, size_t size, bool last) {
        stream.next_in = const_cast<uint8_t*>(from);
        stream.avail_in = static_cast<uInt>(size);
        do {
            stream.next_out = piece.data();
            stream.avail_out = static_cast<uInt>(piece.size());
            deflate(&stream, last ? Z_FINISH : Z_NO_FLUSH);
            out.insert(out.end(), piece.data(), piece.data() + (piece.size() - stream.avail_out));
        } while (stream.avail_out == 0);
    };
    feed(content.data(), content.size(), zeros == 0);
    for (size_t left = zeros; left > 0;) {
        const size_t size = std::min(left, blank.size());
        left -= size;
        feed(blank.data(), size, left == 0);
    }
    deflateEnd(&stream);
    return out;
}

void put_chunk(Bytes& to, const std::string& type, const Bytes& content) {
    put(to, content.size(), 4, true);
    Bytes checked(type.begin(), type.end());
    put(checked, content);
    put(to, checked);
    put(to, data::checksum(checked), 4, true);
}

// Bits of one JPEG scan, filled up with ones; 0xFF is followed by 0.
class BitWriter {
  public:
    void add(uint32_t bits, int count) {
        for (int i = count - 1; i >= 0; --i) {
            byte_ = byte_ << 1 | (bits >> i & 1);
            if (++held_ == 8) flush();
        }
    }
    Bytes take() {
        while (held_ != 0) add(1, 1);
        return std::move(out_);
    }

  private:
    void flush() {
        out_.push_back(static_cast<uint8_t>(byte_));
        if ((byte_ & 0xFF) == 0xFF) out_.push_back(0);
        held_ = 0;
        byte_ = 0;
    }

    Bytes out_;
    uint32_t byte_ = 0;
    int held_ = 0;
};

}  // namespace

Bytes blank_png(uint32_t width, uint32_t height, uint8_t depth, uint8_t color, bool passes) {
    const uint64_t channels = color == 2 ? 3 : color == 6 ? 4 : 1;
    uint64_t raw = 0;
    struct Pass {
        uint32_t x, y, dx, dy;
    };
    const std::vector<Pass> all =
        passes ? std::vector<Pass>{{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                   {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}}
               : std::vector<Pass>{{0, 0, 1, 1}};
    for (const Pass& pass : all) {
        const uint64_t columns = (width - std::min(width, pass.x) + pass.dx - 1) / pass.dx;
        const uint64_t rows = (height - std::min(height, pass.y) + pass.dy - 1) / pass.dy;
        if (columns > 0) raw += rows * (1 + (columns * channels * depth + 7) / 8);
    }
    Bytes file = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    Bytes header;
    put(header, width, 4, true);
    put(header, height, 4, true);
    put(header, Bytes{depth, color, 0, 0, static_cast<uint8_t>(passes ? 1 : 0)});
    put_chunk(file, "IHDR", header);
    if (color == 3) put_chunk(file, "PLTE", {1, 2, 3, 4, 5, 6});
    put_chunk(file, "IDAT", deflated({}, raw, false));
    put_chunk(file, "IEND", {});
    return file;
}

Bytes filled_palette_png(uint8_t index) {
    Bytes file = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    put_chunk(file, "IHDR", {0, 0, 0, 4, 0, 0, 0, 2, 8, 3, 0, 0, 0});
    put_chunk(file, "PLTE", {1, 2, 3, 4, 5, 6});
    Bytes rows(10, index);
    rows[0] = rows[5] = 0;
    put_chunk(file, "IDAT", deflated(rows, 0, false));
    put_chunk(file, "IEND", {});
    return file;
}

Bytes blank_jpeg(uint32_t width, uint32_t height, int components, int scans) {
    Bytes file = {0xFF, 0xD8};
    const auto parts = static_cast<uint8_t>(components);
    put(file, Bytes{0xFF, 0xDB, 0, 67, 0});
    put(file, Bytes(64, 1));
    put(file, Bytes{0xFF, static_cast<uint8_t>(scans > 0 ? 0xC2 : 0xC0), 0,
                    static_cast<uint8_t>(8 + 3 * parts), 8});
    put(file, height, 2, true);
    put(file, width, 2, true);
    put(file, parts, 1);
    for (uint8_t c = 1; c <= parts; ++c) put(file, Bytes{c, 0x11, 0});
    // Codes of one bit: no difference of DC; the end of a block, or (progressive) of 2^14 blocks and more.
    const auto table = [&](uint8_t number, uint8_t symbol) {
        put(file, Bytes{0xFF, 0xC4, 0, 20, number, 1});
        put(file, Bytes(15, 0));
        put(file, symbol, 1);
    };
    table(0x00, 0);
    table(0x10, scans > 0 ? 0xE0 : 0);
    const uint64_t blocks = uint64_t{(width + 7) / 8} * ((height + 7) / 8);
    if (scans == 0) {
        put(file, Bytes{0xFF, 0xDA, 0, static_cast<uint8_t>(6 + 2 * parts), parts});
        for (uint8_t c = 1; c <= parts; ++c) put(file, Bytes{c, 0});
        put(file, Bytes{0, 63, 0});
        put(file, Bytes(blocks * parts * 2 / 8 + 1, 0));
    }
    constexpr uint64_t kMostBlocks = 0x7FFF;
    for (int scan = 0; scan < scans; ++scan) {
        put(file, Bytes{0xFF, 0xDA, 0, 8, 1, static_cast<uint8_t>(1 + scan % components), 0, 1, 63, 0x10});
        BitWriter bits;
        for (uint64_t left = blocks; left > 0; left -= std::min(left, kMostBlocks)) bits.add(0x3FFF, 15);
        put(file, bits.take());
    }
    put(file, Bytes{0xFF, 0xD9});
    return file;
}

Bytes plain_bmp(uint32_t width, uint32_t height, uint16_t bits, uint32_t colors, uint8_t value) {
    const size_t row = (size_t{width} * bits + 31) / 32 * 4;
    Bytes file{'B', 'M'};
    const uint64_t pixels_at = 54 + 4 * colors;
    for (const uint64_t number : {pixels_at + row * height, uint64_t{0}, pixels_at, uint64_t{40},
                                  uint64_t{width}, uint64_t{height}}) {
        put(file, number, 4);
    }
    put(file, 1, 2);
    put(file, bits, 2);
    for (const uint32_t number : {0U, 0U, 0U, 0U, colors, 0U}) put(file, number, 4);
    for (uint32_t i = 0; i < colors; ++i) put(file, Bytes{100, 101, 102, 0});
    file.resize(file.size() + row * height, value);
    return file;
}

Bytes deflated_zip(const std::vector<std::pair<std::vector<std::string>, Bytes>>& files) {
    Bytes out, central;
    uint64_t entries = 0;
    for (const auto& [names, content] : files) {
        const Bytes packed = deflated(content, 0, true);
        const auto common = [&, &whole = content](Bytes& to, const std::string& name) {
            put(to, 20, 2);
            put(to, 0, 2);
            put(to, 8, 2);
            put(to, 0, 4);
            put(to, data::checksum(whole), 4);
            put(to, packed.size(), 4);
            put(to, whole.size(), 4);
            put(to, name.size(), 2);
            put(to, 0, 2);
        };
        for (const std::string& name : names) {
            put(central, 0x02014B50, 4);
            put(central, 20, 2);
            common(central, name);
            put(central, 0, 10);
            put(central, out.size(), 4);
            put(central, name);
            ++entries;
        }
        put(out, 0x04034B50, 4);
        common(out, names.front());
        put(out, names.front());
        put(out, packed);
    }
    const size_t directory = out.size();
    put(out, central);
    put(out, 0x06054B50, 4);
    put(out, 0, 4);
    put(out, entries, 2);
    put(out, entries, 2);
    put(out, central.size(), 4);
    put(out, directory, 4);
    put(out, 0, 2);
    return out;
}

Bytes pickled_tensors(const std::vector<PickledTensor>& tensors) {
    Bytes out{0x80, 2, ']', '('};
    const auto text = [&](const std::string& value) {
        out.push_back('X');
        put(out, value.size(), 4);
        put(out, value);
    };
    const auto integer = [&](int64_t value) {
        put(out, Bytes{0x8A, 8});
        put(out, static_cast<uint64_t>(value), 8);
    };
    for (const PickledTensor& tensor : tensors) {
        put(out, "ctorch._utils\n_rebuild_tensor_v2\n((");
        text("storage");
        put(out, "ctorch\n" + tensor.storage + "\n");
        text(tensor.key);
        text("cpu");
        integer(0);
        put(out, "tQ");
        integer(0);
        for (const auto& numbers : {tensor.shape, tensor.strides}) {
            put(out, "(");
            for (const int64_t number : numbers) integer(number);
            put(out, "t");
        }
        put(out, Bytes{0x89});
        put(out, "ccollections\nOrderedDict\n)RtR");
    }
    put(out, "e.");
    return out;
}

}  // namespace vvtq::tests
