// team: a job's processes with their communicator, as training takes them.
#pragma once

#include <memory>

#include "apps/launch/job.h"
#include "apps/training/processes.h"

namespace vvtq::apps {

/// Connects the processes of `job` for tensors of `device`; without a job (null) it is one process, with
/// nothing to connect.
class Team {
  public:
    /// Throws Error(Fault::input) where another process computes on another kind of device.
    Team(Job* job, engine::Device device, double timeout);
    /// Where an error ends this process the connections stay: closing them may wait for the others, who wait
    /// for this process; or the others would fail by it before this process can tell why.
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;
    const Processes& processes() const { return processes_; }

  private:
    std::unique_ptr<engine::Communicator> communicator_;
    Processes processes_;
};

}  // namespace vvtq::apps
