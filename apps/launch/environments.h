// environments: what the variables of torchrun, SLURM and Open MPI say about a process.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "apps/launch/launch.h"

namespace vvtq::apps {

constexpr int kMostProcesses = 1 << 16;  // of a job

/// None where the variables are not there. With `need_url` they must say where the processes meet too;
/// otherwise, and for Open MPI on several machines, `url` may be empty. Throw Error(Fault::input) naming the
/// variable that is missing or no number.
std::optional<Place> of_torchrun(const Environment& environment, bool need_url);
std::optional<Place> of_slurm(const Environment& environment, bool need_url);
std::optional<Place> of_open_mpi(const Environment& environment, bool need_url);

/// tcp://MASTER_ADDR:MASTER_PORT, or the next port where the agent of torchrun listens at this one itself.
std::string master_url(const Environment& environment);

/// The hosts of a SLURM list such as "gpu[03-05,9],login". Throws Error(Fault::input), naming `source`.
std::vector<std::string> slurm_hosts(const std::string& list, const std::string& source);

}  // namespace vvtq::apps
