#include "data/positioned_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::data {

PositionedFile::PositionedFile(const std::string& path, const std::string& remedy) : path_(path) {
    // Looked at before it is opened: opening a pipe waits for its writer, and opening a device may do
    // something.
    struct stat status {};
    const bool there = ::stat(path.c_str(), &status) == 0;
    const bool regular = there && S_ISREG(status.st_mode);
    const int descriptor = regular ? ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    const int reason = errno;
    descriptor_ = {new int(descriptor), [](const int* opened) {
                       if (*opened >= 0) ::close(*opened);
                       delete opened;
                   }};
    if (!there || (regular && descriptor < 0)) {
        engine::input_error("cannot read '", printable(path), "' (", std::strerror(reason), "): ", remedy);
    }
    if (!regular || ::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
        engine::input_error("'", printable(path), "' is not a file: ", remedy);
    }
    size_ = static_cast<uint64_t>(status.st_size);
}

void PositionedFile::read(uint64_t at, void* to, size_t bytes, const std::string& what) const {
    auto* place = static_cast<uint8_t*>(to);
    while (bytes > 0) {
        const ssize_t got = ::pread(*descriptor_, place, bytes, static_cast<off_t>(at));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            engine::run_error(
                "cannot read ", what, " of '", printable(path_), "' (",
                got < 0 ? std::strerror(errno) : "the file has become shorter while it was used",
                "): put the whole file back and go on");
        }
        place += got;
        at += static_cast<uint64_t>(got);
        bytes -= static_cast<size_t>(got);
    }
}

}  // namespace vvtq::data
