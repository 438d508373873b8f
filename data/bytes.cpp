#include "data/bytes.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "engine/check.h"

namespace vvtq::data {
namespace {

// An open file descriptor that closes itself.
class OpenFile {
  public:
    // Looked at before it is opened: opening a pipe waits for its other end, and opening a device may do
    // something. O_NONBLOCK is for a path that becomes one in between.
    OpenFile(const std::string& path, const std::string& remedy) {
        struct stat status {};
        bool good = ::stat(path.c_str(), &status) == 0;
        if (good && S_ISREG(status.st_mode)) {
            descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
            good = descriptor_ >= 0 && ::fstat(descriptor_, &status) == 0;
        }
        const int reason = errno;
        if (!good || !S_ISREG(status.st_mode)) close();
        if (!good) {
            engine::input_error("cannot read '", printable(path), "' (", std::strerror(reason),
                                "): ", remedy);
        }
        if (!S_ISREG(status.st_mode)) {
            engine::input_error("'", printable(path), "' is not a file: ", remedy);
        }
        size_ = static_cast<size_t>(status.st_size);
    }
    OpenFile(const OpenFile&) = delete;
    OpenFile& operator=(const OpenFile&) = delete;
    ~OpenFile() { close(); }

    int descriptor() const { return descriptor_; }
    size_t size() const { return size_; }

  private:
    void close() {
        if (descriptor_ >= 0) ::close(descriptor_);
    }

    int descriptor_ = -1;
    size_t size_ = 0;
};

// Reads up to `size` bytes, fewer at the end of the file; -1 with errno where that fails.
ssize_t read_some(int descriptor, uint8_t* to, size_t size) {
    size_t done = 0;
    while (done < size) {
        const ssize_t got = ::read(descriptor, to + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += static_cast<size_t>(got);
    }
    return static_cast<ssize_t>(done);
}

}  // namespace

std::string printable(std::string_view text) {
    constexpr size_t kLongest = 300;
    std::string out(text.substr(0, kLongest));
    for (char& c : out) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
    }
    if (text.size() > kLongest) out += "...";
    return out;
}

bool is_directory(const std::string& path) {
    std::error_code ignored;
    return std::filesystem::is_directory(path, ignored);
}

void read_file(const std::string& path, const std::string& remedy, Bytes& bytes, const FirstLook& look) {
    const OpenFile file(path, remedy);
    const auto read = [&](size_t begin, size_t end) {
        bytes.resize(end);
        const ssize_t got = read_some(file.descriptor(), bytes.data() + begin, end - begin);
        if (got < 0) {
            engine::input_error("cannot read '", printable(path), "' (", std::strerror(errno), "): ", remedy);
        }
        bytes.resize(begin + static_cast<size_t>(got));
    };
    constexpr size_t kFirst = 16;
    bytes.clear();
    if (look) {
        read(0, std::min(kFirst, file.size()));
        look(bytes, file.size());
    }
    if (bytes.size() < file.size()) read(bytes.size(), file.size());
}

Bytes read_file(const std::string& path, const std::string& remedy) {
    Bytes bytes;
    read_file(path, remedy, bytes);
    return bytes;
}

MappedFile::MappedFile(const std::string& path, const std::string& remedy) {
    const OpenFile file(path, remedy);
    if (file.size() == 0) return;
    void* mapped = ::mmap(nullptr, file.size(), PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
    if (mapped == MAP_FAILED) {
        engine::input_error("cannot map '", printable(path), "' (", std::strerror(errno), "): ", remedy);
    }
    size_ = file.size();
    data_ = {static_cast<const uint8_t*>(mapped),
             [mapped, size = size_](const uint8_t*) { ::munmap(mapped, size); }};
}

bool write_all(int descriptor, const void* data, size_t size) {
    const auto* from = static_cast<const uint8_t*>(data);
    while (size > 0) {
        const ssize_t written = ::write(descriptor, from, size);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        from += written;
        size -= static_cast<size_t>(written);
    }
    return true;
}

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
    if (is_directory(path)) {
        engine::input_error("cannot write '", printable(path), "': it is a directory; name a file");
    }
    constexpr int kAttempts = 1000;  // names left behind by killed runs are stepped over
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        temporary_ = engine::concat(path, ".", ::getpid(), ".", attempt, ".tmp");
        descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor_ >= 0 || errno != EEXIST) break;
    }
    if (descriptor_ < 0) {
        engine::input_error("cannot write '", printable(path), "' (", std::strerror(errno),
                            "): name a file in a directory that exists and is writable");
    }
}

AtomicFile::~AtomicFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::fail(const char* action) const {
    engine::run_error("cannot ", action, " '", printable(path_), "' (", std::strerror(errno),
                      "): free some space or choose another directory; the previous file is unchanged");
}

void AtomicFile::write(const void* data, size_t size) {
    VVTQ_CHECK(descriptor_ >= 0, "'", path_, "' is already committed");
    if (!write_all(descriptor_, data, size)) fail("write");
}

void AtomicFile::commit(bool durable) {
    VVTQ_CHECK(descriptor_ >= 0, "'", path_, "' is already committed");
    if (durable && ::fsync(descriptor_) != 0) fail("flush");
    if (::close(std::exchange(descriptor_, -1)) != 0) fail("close");
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename");
    temporary_.clear();
    if (!durable) return;
    // The rename itself lasts only once the directory is flushed; some file systems refuse this, harmlessly.
    const std::string directory = std::filesystem::path(path_).parent_path().string();
    const int descriptor = ::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor >= 0) {
        ::fsync(descriptor);
        ::close(descriptor);
    }
}

uint32_t checksum(std::span<const uint8_t> bytes) {
    return static_cast<uint32_t>(crc32_z(0, bytes.data(), bytes.size()));
}

void Fnv::add(std::span<const uint8_t> bytes) {
    for (uint8_t byte : bytes) hash_ = (hash_ ^ byte) * 0x100000001B3ULL;
}

void Fnv::add(std::string_view text) {
    add(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
    add(static_cast<uint64_t>(text.size()));
}

void Fnv::add(uint64_t number) {
    for (int shift = 0; shift < 64; shift += 8) {
        const auto byte = static_cast<uint8_t>(number >> shift);
        add(std::span(&byte, 1));
    }
}

}  // namespace vvtq::data
