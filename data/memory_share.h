// memory_share: a bound on the memory that decoding takes in the whole process, however many threads decode.
#pragma once

#include <cstdint>
#include <string>

namespace vvtq::data {

/// A thread's part of the memory for pictures that need far more of it than their files are large. Only
/// what goes beyond 8 MiB and sixteen times the file's size is counted. Usual pictures need less and never
/// wait. A thread must not hold two shares.
class MemoryShare {
  public:
    static constexpr uint64_t kAll = uint64_t{544} << 20;  ///< of the process

    MemoryShare() = default;
    MemoryShare(const MemoryShare&) = delete;
    MemoryShare& operator=(const MemoryShare&) = delete;
    ~MemoryShare() { release(); }

    /// Waits until the part of `needed` bytes that needs a share is free; does nothing where a share is held.
    /// A picture may need more than `kAll`, and is then the only one; its file must have at least a hundredth
    /// of `needed`. Errors: input_error naming the picture where the file is smaller.
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
