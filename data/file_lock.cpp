#include "data/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::data {

void lock_descriptor(int descriptor, const std::string& what) {
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return;
    if (errno != EWOULDBLOCK) {
        engine::input_error("cannot lock '", printable(what), "' (", std::strerror(errno),
                            "): name a place on a file system with locks");
    }
    engine::input_error("'", printable(what),
                        "' is being written by another process: wait for it or name another place");
}

FileLock::FileLock(const std::string& path, const std::string& what)
    : descriptor_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666)) {
    if (descriptor_ < 0) {
        engine::input_error("cannot write '", printable(path), "' (", std::strerror(errno),
                            "): name a place that you may write to");
    }
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
        ::close(descriptor_);
        engine::input_error("'", printable(path), "' is no regular file: remove it");
    }
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
        const int reason = errno;
        char holder[32] = {};
        const ssize_t size = ::pread(descriptor_, holder, sizeof holder - 1, 0);
        ::close(descriptor_);
        if (reason != EWOULDBLOCK) {
            engine::input_error("cannot lock '", printable(path), "' (", std::strerror(reason),
                                "): name a place on a file system with locks");
        }
        engine::input_error(printable(what), " is being written by another process (",
                            size > 0 ? printable(holder) : "unknown", "): wait for it or name another place");
    }
    const std::string holder = std::to_string(::getpid());
    // Who holds the lock is told for people alone, so a full disk does not matter here.
    if (::ftruncate(descriptor_, 0) == 0) write_all(descriptor_, holder.data(), holder.size());
}

FileLock::~FileLock() { ::close(descriptor_); }

bool FileLock::is_at(const std::string& path) const {
    struct stat locked {
    }, there{};
    return ::fstat(descriptor_, &locked) == 0 && ::lstat(path.c_str(), &there) == 0 &&
           locked.st_dev == there.st_dev && locked.st_ino == there.st_ino;
}

FolderLock::FolderLock(const std::string& path)
    : descriptor_(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (descriptor_ < 0) {
        engine::input_error("cannot open the folder '", printable(path), "' (", std::strerror(errno),
                            "): name one that you may read and write");
    }
    try {
        lock_descriptor(descriptor_, path);
    } catch (...) {
        ::close(descriptor_);
        throw;
    }
}

FolderLock::~FolderLock() { ::close(descriptor_); }

}  // namespace vvtq::data
