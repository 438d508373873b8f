#include "data/new_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::data {

namespace fs = std::filesystem;

NewFolder::NewFolder(const std::string& path) : target_(path) {
    while (target_.size() > 1 && target_.back() == '/') target_.pop_back();
    std::error_code error;
    const fs::file_status status = fs::symlink_status(target_, error);
    const bool free = !fs::exists(status) || (fs::is_directory(status) && fs::is_empty(target_, error));
    if (target_.empty() || !free) {
        engine::input_error("'", printable(path), "' is there already: name a new folder, or remove it");
    }
    const std::string parent = fs::path(target_).parent_path().string();
    if (!parent.empty()) fs::create_directories(parent, error);  // told of by what cannot be made in it
    constexpr int kAttempts = 1000;  // names left behind by killed runs are stepped over
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        temporary_ = engine::concat(target_, ".", ::getpid(), ".", attempt, ".tmp");
        if (fs::create_directory(temporary_, error)) return;
        if (error) break;
    }
    temporary_.clear();
    engine::input_error("cannot make the folder '", printable(path), "' (", error.message(),
                        "): name one in a directory that exists and is writable");
}

NewFolder::~NewFolder() {
    std::error_code ignored;
    if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

// One call for a million files: to flush each of them by itself takes milliseconds, on an SSD too.
void NewFolder::commit() {
    const int descriptor = ::open(temporary_.c_str(), O_RDONLY | O_CLOEXEC);
    bool good = descriptor >= 0 && ::syncfs(descriptor) == 0;
    int reason = errno;
    if (descriptor >= 0) ::close(descriptor);
    if (good && std::rename(temporary_.c_str(), target_.c_str()) != 0) {
        good = false;
        reason = errno;
    }
    if (!good) {
        engine::run_error("cannot finish '", printable(target_), "' (", std::strerror(reason),
                          "): free some space or choose another folder");
    }
    temporary_.clear();
    flush_directory(fs::path(target_).parent_path().string());
}

}  // namespace vvtq::data
