// job: the processes that train together. Rank 0 listens at one address; the others connect to it, say who
// they are, and stay connected, so that everyone learns soon when one of them is dead, stuck or disagrees.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/communicator.h"

namespace vvtq::apps {

/// The place of this process in a job.
struct Place {
    int rank = 0;        // of the process, among all
    int size = 1;        // processes of all machines
    int local_rank = 0;  // of the process, on its machine
    int local_size = 1;  // processes of this machine
    int machines = 1;
    std::string url;       // where they meet: tcp://HOST:PORT or file://PATH
    bool several = false;  // whether the command line or a launcher asked for a job, perhaps of one process
    int listener = -1;     // of rank 0: a socket that listens at url, where who started it has opened one
};

/// Connection of this process to its job. Messages are one line and name rank, host and reason.
class Job {
  public:
    /// Meets the others; waits until all are there. Throws Error(Fault::run) where that takes longer than
    /// `timeout` seconds (naming the ranks that are missing), where the address is taken, or where versions
    /// of the program differ.
    Job(const Place& place, const std::string& command, double timeout);
    /// Says good-bye; the end of a process that did not is a failure of the job.
    ~Job();
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;

    const Place& place() const;
    /// The texts of all processes by rank. A process that waits here is not stuck.
    std::vector<std::string> exchange(const std::string& own);
    /// The address of this machine as the others reach it: that of its connection to rank 0.
    std::string address() const;

    /// Says that this process gets on: call it for each batch. From the first call on, a process that does
    /// not call it for `timeout` seconds, outside of `exchange`, ends the job. `patient`: until the next call
    /// it may take any time (a long save).
    void progress(bool patient = false);
    /// Says that this process waits for the others, in a collective operation: then it is not the one that is
    /// stuck. Optional; without it the process that has called `progress` least is named.
    void waiting(bool on);
    /// Ends the job: this process cannot go on because of `reason`. All processes print one line and exit
    /// with `status`; does not return.
    [[noreturn]] void fail(const std::string& reason, int status);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace vvtq::apps
