// apps_launch_support: real processes for the tests of jobs, with what they print.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "apps/launch/launch.h"

namespace vvtq::tests {

/// How a process ended.
struct Outcome {
    int status = -1;  // exit status; 1000 + signal where one killed it
    std::string err;  // what it wrote to stderr
    double seconds = 0;
};

/// A forked process that runs `work` and exits with what it returns; killed where it still runs at the end.
class Forked {
  public:
    explicit Forked(const std::function<int()>& work);
    Forked(Forked&& other) noexcept;
    ~Forked();

    pid_t pid() const { return pid_; }
    /// Waits until it has ended and everything that it started too; kills it after 20 s (status 1009).
    Outcome wait();

  private:
    pid_t pid_;
    int err_;  // a pipe
    double start_;
};

/// `run_processes` in a process of its own, for commands called "vvtq train".
Forked launched(int count, const std::function<int(const apps::Place&)>& work, const std::string& url = "");

/// Rank r of `size` processes that were started by hand; a `vvtq::engine::Error` is printed as main does.
Forked by_hand(int rank, int size, const std::string& url, double timeout,
               const std::function<int(apps::Job&)>& work);

int free_port();
std::string free_url();
void sleep_for(double seconds);
/// Waits for at most 10 s.
bool soon(const std::function<bool()>& holds);
bool lives(pid_t pid);

/// What processes say to the test that started them: whole numbers, in memory that they share.
class Board {
  public:
    Board();
    ~Board();
    Board(const Board&) = delete;
    Board& operator=(const Board&) = delete;
    volatile int& operator[](int place) const { return cells_[place]; }

  private:
    volatile int* cells_;
};

}  // namespace vvtq::tests
