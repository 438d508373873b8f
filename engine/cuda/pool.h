// pool: caching free lists for device memory, with arenas that belong to recorded graphs.
#pragma once

#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "engine/memory.h"

namespace vvtq::engine::cuda {

/// All kernels run in one order, so a block that was given back may be handed out at once; who writes to a
/// block from elsewhere first waits for the kernels before. A graph replays on the very addresses it was
/// recorded with: while one is recorded, memory comes from its own arena, and what is given back there serves
/// that graph alone.
class DevicePool final : public Pool {
  public:
    void* allocate(size_t bytes) override;
    void release(void* memory, size_t bytes) noexcept override;
    void trim() override;
    size_t in_use() const override;
    size_t peak() const override;
    void reset_peak() override;

    /// Bytes taken from the device and not in use.
    size_t cached() const;
    /// A new arena, which takes over all cached blocks.
    int make_arena();
    /// Gives an arena's blocks to the common list.
    void drop_arena(int arena);

    /// While one lives, memory comes from `arena`.
    class InArena {
      public:
        InArena(DevicePool& pool, int arena);
        ~InArena();
        InArena(const InArena&) = delete;
        InArena& operator=(const InArena&) = delete;

      private:
        DevicePool& pool_;
        int before_;
    };

  private:
    using FreeLists = std::map<size_t, std::vector<void*>>;
    struct Block {
        size_t size;
        int arena;
    };
    static constexpr int kCommon = 0;

    void* from_device(size_t size);
    void trim_locked();

    mutable std::mutex mutex_;
    std::map<int, FreeLists> free_;
    std::unordered_map<void*, Block> blocks_;  // all that were taken from the device
    int current_ = kCommon;
    int arenas_ = 0;
    size_t in_use_ = 0, peak_ = 0, cached_ = 0;
};

DevicePool& device_pool();

}  // namespace vvtq::engine::cuda
