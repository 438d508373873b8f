#include "data/idx.h"

#include <zlib.h>

#include <algorithm>

#include "engine/check.h"

namespace vvtq::data {
namespace {

constexpr const char* kRemedy =
    "install the package dataset-fashion-mnist, or name its directory with `data`";

[[noreturn]] void refuse(const std::string& path, const std::string& reason) {
    engine::input_error("'", printable(path), "' ", reason, ": fetch the file again");
}

[[noreturn]] void refuse_type(const std::string& path, int rank) {
    refuse(path, engine::concat("is not an idx file of bytes with ", rank, " dimensions"));
}

bool is_gzip(std::span<const uint8_t> bytes) {
    return bytes.size() > 1 && bytes[0] == 0x1F && bytes[1] == 0x8B;
}

// Bytes in order, of a file that may be gzipped, in several parts.
class Source {
  public:
    Source(std::span<const uint8_t> bytes, const std::string& path)
        : path_(path), size_(bytes.size()), zipped_(is_gzip(bytes)) {
        constexpr int kGzip = 16 + MAX_WBITS;
        rest_ = bytes;
        if (zipped_ && inflateInit2(&stream_, kGzip) != Z_OK) engine::run_error("zlib cannot start");
    }
    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;
    ~Source() {
        if (zipped_) inflateEnd(&stream_);
    }

    void read(uint8_t* out, size_t size) {
        if (take(out, size) != size) refuse(path_, "is truncated");
    }
    void expect_end() {
        uint8_t more = 0;
        if (take(&more, 1) != 0) refuse(path_, "is longer than its header says");
        if (!rest_.empty()) refuse(path_, "has bytes after the end of its gzip data");
    }
    // No more than this many bytes may follow: deflate could make a thousand of one, pictures do not.
    uint64_t most() const { return zipped_ ? size_ * 16 + (uint64_t{16} << 20) : size_; }

  private:
    size_t take(uint8_t* out, size_t size) {
        if (!zipped_) {
            const size_t taken = std::min(size, rest_.size());
            std::copy_n(rest_.begin(), taken, out);
            rest_ = rest_.subspan(taken);
            return taken;
        }
        constexpr size_t kPiece = 1 << 30;  // zlib counts in 32 bits
        size_t taken = 0;
        while (taken < size && !ended_) {
            stream_.next_in = const_cast<uint8_t*>(rest_.data());
            stream_.avail_in = static_cast<unsigned>(std::min(rest_.size(), kPiece));
            stream_.next_out = out + taken;
            stream_.avail_out = static_cast<unsigned>(std::min(size - taken, kPiece));
            const unsigned given = stream_.avail_in, room = stream_.avail_out;
            const int status = inflate(&stream_, Z_NO_FLUSH);
            rest_ = rest_.subspan(given - stream_.avail_in);
            taken += room - stream_.avail_out;
            if (status == Z_BUF_ERROR) refuse(path_, "is truncated");
            if (status != Z_OK && status != Z_STREAM_END) refuse(path_, "is damaged (gzip)");
            if (status != Z_STREAM_END) continue;
            ended_ = !is_gzip(rest_);
            if (!ended_) inflateReset(&stream_);
        }
        return taken;
    }

    std::string path_;
    size_t size_;
    bool zipped_, ended_ = false;
    std::span<const uint8_t> rest_;
    z_stream stream_{};
};

}  // namespace

Idx parse_idx(std::span<const uint8_t> bytes, const std::string& path, int rank) {
    Source source(bytes, path);
    uint8_t magic[4];
    source.read(magic, sizeof magic);
    constexpr uint8_t kUnsignedByte = 0x08;
    if (magic[0] != 0 || magic[1] != 0 || magic[2] != kUnsignedByte || magic[3] != rank) {
        refuse_type(path, rank);
    }
    Idx idx;
    uint64_t size = 1;
    for (int i = 0; i < rank; ++i) {
        uint8_t raw[4];
        source.read(raw, sizeof raw);
        const uint64_t dim = uint64_t{raw[0]} << 24 | uint64_t{raw[1]} << 16 | uint64_t{raw[2]} << 8 | raw[3];
        if (dim == 0 || dim > source.most() / size) {
            refuse(path, dim == 0 ? "is empty" : "is truncated: its header promises more than it can hold");
        }
        size *= dim;
        idx.dims.push_back(static_cast<int64_t>(dim));
    }
    idx.values.resize(size);
    source.read(idx.values.data(), size);
    source.expect_end();
    return idx;
}

Idx read_idx(const std::string& path, int rank) {
    Bytes bytes;
    read_file(path, kRemedy, bytes, [&](std::span<const uint8_t> first, uint64_t size) {
        constexpr uint64_t kMost = uint64_t{1} << 31;
        if (size > kMost) refuse(path, "is larger than 2 GiB");
        if (first.size() > 1 && !is_gzip(first) && (first[0] != 0 || first[1] != 0)) refuse_type(path, rank);
    });
    return parse_idx(bytes, path, rank);
}

}  // namespace vvtq::data
