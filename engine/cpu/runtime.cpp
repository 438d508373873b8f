// runtime: the CPU as a device: its memory is the host's, and its work is done when a call returns.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

#include "engine/check.h"
#include "engine/cpu/backend.h"
#include "engine/threads.h"

namespace vvtq::engine::cpu {
namespace {

using Clock = std::chrono::steady_clock;

/// The number in a file that holds one, or behind `name` in one of lines; nothing where there is none
/// ("max").
std::optional<size_t> number_in(const char* path, const std::string& name = "") {
    std::ifstream file(path);
    std::string word;
    while (!name.empty() && file >> word && word != name) {
    }
    size_t number = 0;
    return file >> number ? std::optional(number) : std::nullopt;
}

class HostEvent final : public Event {
  public:
    void record() override { at_ = Clock::now(); }
    void wait() override {}
    double since(const Event& earlier) override {
        const auto& other = static_cast<const HostEvent&>(earlier);
        return std::chrono::duration<double, std::milli>(at_ - other.at_).count();
    }

  private:
    Clock::time_point at_{};
};

class HostUpload final : public Upload {
  public:
    explicit HostUpload(void* target) : target_(target) {}
    void* host() override { return target_; }
    void send() override {}
    void send_from(const void* host, size_t bytes) override { std::memcpy(target_, host, bytes); }
    void wait() override {}

  private:
    void* target_;
};

class HostRuntime final : public Runtime {
  public:
    std::string description() const override { return concat("CPU, ", threads(), " threads"); }
    size_t free_memory() const override {
        pool().trim();
        return available_memory();
    }
    void synchronize() override {}
    void upload(const void* host, void* device, size_t bytes) override { copy(host, device, bytes); }
    void download(const void* device, void* host, size_t bytes) override { copy(device, host, bytes); }
    void enqueue_download(const void* device, void* host, size_t bytes) override {
        copy(device, host, bytes);
    }
    void* allocate_host(size_t bytes) override { return pool().allocate(bytes); }
    void release_host(void* memory, size_t bytes) noexcept override { pool().release(memory, bytes); }
    std::unique_ptr<Event> make_event() override { return std::make_unique<HostEvent>(); }
    std::unique_ptr<Upload> make_upload(void* device, size_t) override {
        return std::make_unique<HostUpload>(device);
    }
    std::unique_ptr<Graph> record_graph(const std::function<void()>&) override { return nullptr; }

  private:
    static void copy(const void* from, void* to, size_t bytes) {
        if (bytes > 0) std::memcpy(to, from, bytes);
    }
};

}  // namespace

Runtime& runtime() {
    static HostRuntime instance;
    return instance;
}

size_t available_memory() {
    const auto machine = number_in("/proc/meminfo", "MemAvailable:");  // KiB
    size_t bytes = machine ? *machine * 1024 : std::numeric_limits<size_t>::max();
    const auto limit = number_in("/sys/fs/cgroup/memory.max"),
               used = number_in("/sys/fs/cgroup/memory.current");
    if (limit && used) bytes = std::min(bytes, *limit - std::min(*limit, *used));
    return bytes;
}

}  // namespace vvtq::engine::cpu
