// memory_share: a bound on the memory that decoding takes in the whole process, however many threads decode.
#pragma once

#include <cstdint>
#include <string>

namespace vvtq::data {

/// A thread's part of the memory that is there for pictures whose files are small for what they ask: what
/// goes beyond 8 MiB and sixteen times the file's size. Usual pictures ask for less and never wait. A thread
/// must not hold two.
class MemoryShare {
  public:
    static constexpr uint64_t kAll = uint64_t{544} << 20;  ///< of the process

    MemoryShare() = default;
    MemoryShare(const MemoryShare&) = delete;
    MemoryShare& operator=(const MemoryShare&) = delete;
    ~MemoryShare() { release(); }

    /// Waits until the part of `needed` bytes that needs a share is free; does nothing where a share is held.
    /// A picture of a large file may need more than there is, and is then the only one. Errors: input_error
    /// naming the picture where it needs that, and its file is no hundredth of it.
    void take(uint64_t needed, uint64_t file_bytes, const std::string& name);
    /// Waits until nobody else holds a share.
    void take_all();
    /// To be called after the memory was freed.
    void release();
    bool held() const { return bytes_ > 0; }

  private:
    uint64_t bytes_ = 0;
};

}  // namespace vvtq::data
