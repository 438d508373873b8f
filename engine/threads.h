// threads: a loop over the threads of the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace vvtq::engine {

/// Threads of every loop that this thread starts; 0 for all processors this process may use. Before the first
/// call: as many as OMP_NUM_THREADS says.
void set_threads(int count);
int threads();

namespace detail {
void parallel_for(int64_t count, void (*call)(const void* f, int64_t i), const void* f);
}

/// Calls f(i) for every i of [0, count), in any order, on at most threads() threads: the calling one and
/// those of a pool. Returns when all calls have returned. f must not throw. A loop inside f, or beside a loop
/// of another thread, runs on its calling thread alone. Idle threads of the pool sleep after a few
/// microseconds, so they take no time from other programs.
template <typename F>
void parallel_for(int64_t count, const F& f) {
    if (count == 1) return f(int64_t{0});
    detail::parallel_for(
        count, [](const void* g, int64_t i) { (*static_cast<const F*>(g))(i); }, std::addressof(f));
}

}  // namespace vvtq::engine
