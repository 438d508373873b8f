// rank_threads: the processes of a job as threads of one process, for tests of communicators.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/communicator.h"

namespace vvtq::tests {

/// Whether this build has no Gloo, which make_communicator must say. Says so in a line, after which a test
/// case ends.
bool gloo_missing();

/// Where threads exchange texts, as processes do. An exchange that not all join fails after 10 s.
class Meeting {
  public:
    explicit Meeting(int size);
    ~Meeting();
    engine::ExchangeText exchange_of(int rank) const;

  private:
    struct State;
    std::shared_ptr<State> state_;
};

/// work(communicator) in `size` threads, each with a communicator of the CPU; returns when all are done.
/// Gives what each of them threw, "" where nothing.
std::vector<std::string> run_ranks(int size, const std::function<void(engine::Communicator&)>& work,
                                   double timeout = 20);

}  // namespace vvtq::tests
