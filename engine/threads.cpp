#include "engine/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include <omp.h>

#include "engine/check.h"

namespace vvtq::engine {
namespace {

/// True while this thread works on a loop.
thread_local bool in_loop = false;

/// Waits until ready() for the time of waking a sleeping thread, tens of microseconds at most. A thread that
/// must wait longer sleeps.
template <typename Ready>
void spin_until(Ready&& ready) {
    for (int i = 0; i < 2000 && !ready(); ++i) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }
}

/// One loop at a time. Its iterations are taken one by one, so a thread that another program keeps from
/// running delays the loop by its current iteration alone.
class Pool {
  public:
    static Pool& get() {
        static Pool pool;
        return pool;
    }
    ~Pool() {
        {
            const std::lock_guard lock(mutex_);
            stop_ = true;
            loops_ += 1;
        }
        wake_.notify_all();
        for (std::thread& worker : workers_) worker.join();
    }

    /// False, and nothing is done, while another thread's loop runs.
    bool run(int64_t count, int width, void (*call)(const void*, int64_t), const void* f) {
        const std::unique_lock only(busy_, std::try_to_lock);
        if (!only) return false;
        const auto helpers = static_cast<size_t>(std::min<int64_t>(width, count)) - 1;
        {
            const std::lock_guard lock(mutex_);
            call_ = call;
            f_ = f;
            count_ = count;
            next_ = 0;
            places_ = helpers;
            while (workers_.size() < helpers) workers_.emplace_back(&Pool::work, this, loops_.load());
            loops_ += 1;
        }
        for (size_t i = 0; i < helpers; ++i) wake_.notify_one();
        take_iterations();
        {
            const std::lock_guard lock(mutex_);
            places_ = 0;  // a worker that has not begun stays out
        }
        spin_until([&] { return working_ == 0; });
        std::unique_lock lock(mutex_);
        done_.wait(lock, [&] { return working_ == 0; });
        return true;
    }

  private:
    void take_iterations() noexcept {
        in_loop = true;
        for (int64_t i = next_++; i < count_; i = next_++) call_(f_, i);
        in_loop = false;
    }

    /// What a worker does all its life. It has seen the first `seen` loops.
    void work(uint64_t seen) {
        while (true) {
            spin_until([&] { return loops_ != seen; });
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return loops_ != seen; });
                if (stop_) return;
                seen = loops_;
                if (places_ == 0) continue;
                places_ -= 1;
                working_ += 1;
            }
            take_iterations();
            const std::lock_guard lock(mutex_);
            working_ -= 1;
            if (working_ == 0) done_.notify_one();
        }
    }

    std::mutex busy_;   // held by the thread whose loop runs
    std::mutex mutex_;  // of all below
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    std::atomic<uint64_t> loops_ = 0;  // that have begun
    std::atomic<int> working_ = 0;     // workers in the loop
    size_t places_ = 0;                // workers that may still enter the loop
    bool stop_ = false;
    void (*call_)(const void*, int64_t) = nullptr;
    const void* f_ = nullptr;
    int64_t count_ = 0;
    std::atomic<int64_t> next_ = 0;
};

}  // namespace

void set_threads(int count) {
    VVTQ_CHECK(count >= 0, "threads ", count);
    omp_set_num_threads(count > 0 ? count : omp_get_num_procs());
}

int threads() { return omp_get_max_threads(); }

void detail::parallel_for(int64_t count, void (*call)(const void* f, int64_t i), const void* f) {
    if (count > 1 && !in_loop && threads() > 1 && Pool::get().run(count, threads(), call, f)) return;
    for (int64_t i = 0; i < count; ++i) call(f, i);
}

}  // namespace vvtq::engine
