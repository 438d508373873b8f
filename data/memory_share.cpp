#include "data/memory_share.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

// First come, first served, so that small demands do not keep a large one waiting.
class Budget {
  public:
    void take(uint64_t bytes) {
        std::unique_lock lock(mutex_);
        const uint64_t ticket = next_++;
        changed_.wait(lock, [&] { return ticket == served_ && bytes <= free_; });
        free_ -= bytes;
        ++served_;
        changed_.notify_all();
    }
    void give_back(uint64_t bytes) {
        const std::lock_guard lock(mutex_);
        free_ += bytes;
        changed_.notify_all();
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    uint64_t free_ = MemoryShare::kAll;
    uint64_t next_ = 0, served_ = 0;
};

Budget& budget() {
    static Budget all;
    return all;
}

}  // namespace

void MemoryShare::take(uint64_t needed, uint64_t file_bytes, const std::string& name) {
    constexpr uint64_t kUsual = 16, kMost = 128;  // bytes of memory for a byte of the file
    constexpr uint64_t kSmall = uint64_t{8} << 20;
    if (held()) return;
    const uint64_t usual = kSmall + kUsual * file_bytes;
    if (needed > std::max(usual + kAll, kMost * file_bytes)) {
        engine::input_error("picture '", printable(name), "' takes ", needed >> 20,
                            " MiB to decode, too much for a file of ", file_bytes,
                            " bytes: scale it down, or remove it");
    }
    const uint64_t bytes = needed > usual ? std::min(needed - usual, kAll) : 0;
    if (bytes == 0) return;
    budget().take(bytes);
    bytes_ = bytes;
}

void MemoryShare::take_all() {
    release();
    budget().take(kAll);
    bytes_ = kAll;
}

void MemoryShare::release() {
    if (held()) budget().give_back(std::exchange(bytes_, 0));
}

}  // namespace vvtq::data
