#include "data/bytes.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
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

// Which file is mapped where, for a signal handler: a fixed place without locks to read.
struct Mapping {
    std::atomic<const uint8_t*> begin{nullptr};
    size_t size = 0;
    char path[256] = "";
};
Mapping mappings[32];  // of more than so many at once the others have no name
std::mutex mappings_change;
char lost[80] = "";  // how the line of tell_of_lost_mappings begins

void remember_mapping(const uint8_t* begin, size_t size, const std::string& path) {
    const std::lock_guard lock(mappings_change);
    for (Mapping& mapping : mappings) {
        if (mapping.begin != nullptr) continue;
        mapping.size = size;
        const std::string name = printable(path);
        mapping.path[name.copy(mapping.path, sizeof mapping.path - 1)] = '\0';
        mapping.begin = begin;
        return;
    }
}

void forget_mapping(const uint8_t* begin) {
    const std::lock_guard lock(mappings_change);
    for (Mapping& mapping : mappings) {
        if (mapping.begin == begin) mapping.begin = nullptr;
    }
}

void on_lost_mapping(int, siginfo_t* info, void*) {
    const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
    const char* path = "a mapped file";
    for (const Mapping& mapping : mappings) {
        const auto begin = reinterpret_cast<uintptr_t>(mapping.begin.load());
        if (begin != 0 && at >= begin && at - begin < mapping.size) path = mapping.path;
    }
    for (const char* text : {static_cast<const char*>(lost), path,
                             " became shorter while it was read, or its disk fails: write it anew\n"}) {
        write_all(STDERR_FILENO, text, std::strlen(text));
    }
    _exit(1);
}

// Where a chain of symbolic links ends; the end itself need not exist.
std::string followed(const std::string& path) {
    constexpr int kMostLinks = 40;  // as the system's own limit
    namespace fs = std::filesystem;
    std::error_code error;
    fs::path at = path;
    for (int i = 0; i < kMostLinks && fs::is_symlink(at, error); ++i) {
        at = at.parent_path() / fs::read_symlink(at, error);
    }
    return at.string();
}

// Why a rename may not replace the file; null where it may, or where there is none.
const char* not_replaceable(const std::string& path) {
    struct statx file {
    }, directory{};
    const auto look = [](const char* name, struct statx& found) {
        return ::statx(AT_FDCWD, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &found) == 0;
    };
    if (!look(path.c_str(), file)) return nullptr;
    if (S_ISDIR(file.stx_mode)) return "it is a directory";
    if (!S_ISREG(file.stx_mode)) return "it is no regular file";
    if ((file.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0) return "something is mounted on it";
    if ((file.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND)) != 0) {
        return "its attributes forbid to replace it";
    }
    const std::string parent = std::filesystem::path(path).parent_path().string();
    if (!look(parent.empty() ? "." : parent.c_str(), directory)) return nullptr;
    if ((directory.stx_attributes & STATX_ATTR_APPEND) != 0) return "its directory only takes new files";
    const uid_t user = ::geteuid();
    const bool others =
        (directory.stx_mode & S_ISVTX) != 0 && user != 0 && user != file.stx_uid && user != directory.stx_uid;
    return others ? "it belongs to another user" : nullptr;
}

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
    remember_mapping(static_cast<const uint8_t*>(mapped), size_, path);
    data_ = {static_cast<const uint8_t*>(mapped), [mapped, size = size_](const uint8_t* begin) {
                 forget_mapping(begin);
                 ::munmap(mapped, size);
             }};
}

void tell_of_lost_mappings(const std::string& command) {
    const std::string text = command + ": error: ";
    lost[text.copy(lost, sizeof lost - 1)] = '\0';
    struct sigaction action = {};
    action.sa_sigaction = on_lost_mapping;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    ::sigaction(SIGBUS, &action, nullptr);
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

void flush_directory(const std::string& directory) {
    const int descriptor = ::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return;
    ::fsync(descriptor);
    ::close(descriptor);
}

AtomicFile::AtomicFile(const std::string& path) : path_(followed(path)) {
    if (const char* reason = not_replaceable(path_)) {
        engine::input_error("cannot write '", printable(path_), "': ", reason, "; name another file");
    }
    constexpr int kAttempts = 1000;  // names left behind by killed runs are stepped over
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        temporary_ = engine::concat(path_, ".", ::getpid(), ".", attempt, ".tmp");
        descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor_ >= 0 || errno != EEXIST) break;
    }
    if (descriptor_ < 0) {
        engine::input_error("cannot write '", printable(path_), "' (", std::strerror(errno),
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

void AtomicFile::reserve(size_t size) {
    VVTQ_CHECK(descriptor_ >= 0, "'", path_, "' is already committed");
    int reason = 0;
    do {
        reason = size > 0 ? ::posix_fallocate(descriptor_, 0, static_cast<off_t>(size)) : 0;
    } while (reason == EINTR);
    if (reason == 0 || reason == EINVAL || reason == EOPNOTSUPP) return;  // some file systems cannot tell
    errno = reason;
    fail("write");
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
    flush_directory(std::filesystem::path(path_).parent_path().string());  // else the rename may not last
}

uint32_t checksum(std::span<const uint8_t> bytes, uint32_t before) {
    return static_cast<uint32_t>(crc32_z(before, bytes.data(), bytes.size()));
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
