#include "engine/threads.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "engine/check.h"
#include "tests/catch.h"

namespace vvtq::engine {

namespace {

/// How often each index of a loop over n was visited.
std::vector<int> visits(int64_t n) {
    std::vector<int> counts(static_cast<size_t>(n));
    parallel_for(n, [&](int64_t i) { counts[static_cast<size_t>(i)] += 1; });
    return counts;
}

bool once_each(const std::vector<int>& counts) {
    return std::all_of(counts.begin(), counts.end(), [](int count) { return count == 1; });
}

}  // namespace

TEST_CASE("threads: a loop visits every index once, whatever the number of threads", "[threads]") {
    const int before = threads();
    for (const int width : {1, 2, 3, 7}) {
        set_threads(width);
        CHECK(threads() == width);
        for (const int64_t n : {0, 1, 2, 3, 100}) {
            for (int round = 0; round < 200; ++round) REQUIRE(once_each(visits(n)));
        }
    }
    set_threads(before);
    CHECK_THROWS_AS(set_threads(-1), Error);
}

TEST_CASE("threads: no more threads than asked for, and several where there is time", "[threads]") {
    const int before = threads();
    set_threads(5);
    visits(100);  // the pool has four workers now
    set_threads(3);
    std::atomic<int> inside = 0, most = 0;
    parallel_for(30, [&](int64_t) {
        const int now = ++inside;
        for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        --inside;
    });
    CHECK(most == 3);
    set_threads(before);
}

TEST_CASE("threads: loops inside loops and loops of several threads", "[threads]") {
    const int before = threads();
    set_threads(3);
    std::atomic<int> good = 0;
    parallel_for(20, [&](int64_t) { good += once_each(visits(50)) ? 1 : 0; });
    CHECK(good == 20);
    std::vector<std::thread> callers;
    for (int t = 0; t < 4; ++t) {
        callers.emplace_back([&] {
            for (int round = 0; round < 500; ++round) good += once_each(visits(17)) ? 1 : 0;
        });
    }
    for (std::thread& caller : callers) caller.join();
    CHECK(good == 2020);
    set_threads(before);
}

}  // namespace vvtq::engine
