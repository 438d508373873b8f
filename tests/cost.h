// cost: what an action takes, measured in a process of its own.
#pragma once

#include <functional>
#include <string>

namespace vvtq::tests {

struct Cost {
    bool ended = false;     ///< false: a signal killed it, or it took more than two minutes
    std::string error;      ///< of engine::Error; empty where there was none
    double seconds = 0;     ///< of all its threads on CPUs
    int64_t mebibytes = 0;  ///< most resident memory at any time, of the whole process
};

/// Runs `action` in a fork of this process.
Cost cost_of(const std::function<void()>& action);

/// Whether times and memory say nothing, because of AddressSanitizer.
constexpr bool kSanitized =
#ifdef __SANITIZE_ADDRESS__
    true;
#else
    false;
#endif

}  // namespace vvtq::tests
