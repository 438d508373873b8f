#include "data/idx.h"

#include <zlib.h>

#include <algorithm>
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
    explicit Source(const std::string& path)
        : path_(path), file_(path, kRemedy), in_(gzopen(path.c_str(), "rb"), gzclose) {
        if (in_ == nullptr) refuse(path, "cannot be read");
    }
    void read(uint8_t* out, size_t size) {
        if (take(out, size) != size) refuse(path_, "is truncated");
    }
    void expect_end() {
        uint8_t more = 0;
        if (take(&more, 1) != 0) refuse(path_, "is longer than its header says");
        if (gzdirect(in_.get()) != 0) return;
        uint32_t size = 0;  // as gzip's last four bytes have it; zlib reads over what lies behind them
        for (size_t i = 1; i <= sizeof size; ++i)
            size = size << 8 | *(file_.bytes().end() - static_cast<int>(i));
        if (size != static_cast<uint32_t>(total_)) refuse(path_, "has bytes after the end of its gzip data");
    }
    // No more than this many bytes can follow: what deflate can make of the file at most.
    uint64_t most() const { return file_.bytes().size() * (gzdirect(in_.get()) != 0 ? 1 : uint64_t{1032}); }

  private:
    size_t take(uint8_t* out, size_t size) {
        constexpr size_t kPiece = 1 << 30;  // zlib counts in 32 bits
        size_t taken = 0;
        for (int got = 1; taken < size && got > 0; taken += static_cast<size_t>(std::max(got, 0))) {
            got = gzread(in_.get(), out + taken, static_cast<unsigned>(std::min(size - taken, kPiece)));
        }
        int status = Z_OK;
        gzerror(in_.get(), &status);
        if (status == Z_BUF_ERROR) refuse(path_, "is truncated");
        if (status != Z_OK) refuse(path_, "is damaged (gzip)");
        total_ += taken;
        return taken;
    }

    std::string path_;
    MappedFile file_;
    std::unique_ptr<gzFile_s, int (*)(gzFile)> in_;
    uint64_t total_ = 0;  // bytes read
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
