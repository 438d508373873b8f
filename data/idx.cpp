#include "data/idx.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "engine/check.h"

namespace vvtq::data {
namespace {

constexpr const char* kRemedy =
    "install the package dataset-fashion-mnist, or name its directory with `data`";

[[noreturn]] void refuse(const std::string& path, const std::string& reason) {
    engine::input_error("'", printable(path), "' ", reason, ": fetch the file again");
}

// Bytes in order, from a file that may be gzipped.
class Source {
  public:
    explicit Source(const std::string& path) : path_(path), file_(path, kRemedy), in_(file_.bytes()) {
        zipped_ = in_.size() >= 2 && in_[0] == 0x1F && in_[1] == 0x8B;
        if (!zipped_) return;
        constexpr int kGzip = 16 + MAX_WBITS;
        VVTQ_CHECK(inflateInit2(&stream_, kGzip) == Z_OK, "zlib does not start");
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
        if (zipped_ && !ended_) refuse(path_, "is truncated");
    }
    // No more than this many bytes can follow: what deflate can make of the file at most.
    uint64_t most() const { return in_.size() * (zipped_ ? uint64_t{1032} : uint64_t{1}); }

  private:
    size_t take(uint8_t* out, size_t size) {
        if (!zipped_) {
            const size_t taken = std::min(size, in_.size());
            if (taken > 0) std::memcpy(out, in_.data(), taken);
            in_ = in_.subspan(taken);
            return taken;
        }
        constexpr size_t kPiece = 1 << 30;  // zlib counts in 32 bits
        size_t taken = 0;
        while (taken < size && !ended_) {
            const size_t fed = std::min(in_.size(), kPiece);
            const size_t room = std::min(size - taken, kPiece);
            stream_.next_in = const_cast<uint8_t*>(in_.data());
            stream_.avail_in = static_cast<uInt>(fed);
            stream_.next_out = out + taken;
            stream_.avail_out = static_cast<uInt>(room);
            const int status = inflate(&stream_, Z_NO_FLUSH);
            in_ = in_.subspan(fed - stream_.avail_in);
            taken += room - stream_.avail_out;
            if (status == Z_BUF_ERROR) refuse(path_, "is truncated");
            if (status != Z_OK && status != Z_STREAM_END) refuse(path_, "is damaged (gzip)");
            ended_ = status == Z_STREAM_END;
            if (ended_ && !in_.empty()) refuse(path_, "has bytes after the end of its gzip data");
        }
        return taken;
    }

    std::string path_;
    MappedFile file_;
    std::span<const uint8_t> in_;
    z_stream stream_{};
    bool zipped_ = false;
    bool ended_ = false;
};

}  // namespace

Idx read_idx(const std::string& path, int rank) {
    Source source(path);
    uint8_t magic[4];
    source.read(magic, sizeof magic);
    constexpr uint8_t kUnsignedByte = 0x08;
    if (magic[0] != 0 || magic[1] != 0 || magic[2] != kUnsignedByte || magic[3] != rank) {
        refuse(path, engine::concat("is not an idx file of bytes with ", rank, " dimensions"));
    }
    Idx idx;
    uint64_t size = 1;
    for (int i = 0; i < rank; ++i) {
        uint8_t raw[4];
        source.read(raw, sizeof raw);
        const uint64_t dim = uint64_t{raw[0]} << 24 | uint64_t{raw[1]} << 16 | uint64_t{raw[2]} << 8 | raw[3];
        if (dim == 0 || dim > source.most() / size) {
            refuse(path, dim == 0 ? "is empty" : "is truncated: its header promises more than it holds");
        }
        size *= dim;
        idx.dims.push_back(static_cast<int64_t>(dim));
    }
    idx.values.resize(size);
    source.read(idx.values.data(), size);
    source.expect_end();
    return idx;
}

}  // namespace vvtq::data
