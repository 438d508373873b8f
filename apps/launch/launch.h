// launch: which processes a command line or a launcher (torchrun, SLURM, Open MPI) asks for, and starting
// those of this machine.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "apps/launch/job.h"

namespace vvtq::apps {

/// What the command line says.
struct LaunchFlags {
    bool multiprocessing = false;  // --multiprocessing-distributed: one process for each GPU of the machine
    int nproc = 0;                 // --nproc: processes of this machine; 0: not given
    int world_size =
        -1;           // --world-size: machines with multiprocessing or nproc, else processes; -1: not given
    int rank = -1;    // --rank: likewise
    std::string url;  // --dist-url: tcp://HOST:PORT, file://PATH, env://; empty: not given
    std::string backend;   // --dist-backend: "nccl", "gloo"; empty: by the device
    double timeout = 120;  // --dist-timeout, seconds
};

using Environment = std::map<std::string, std::string>;
/// The variables of this process.
Environment environment();

struct LaunchPlan {
    Place place;    // of this process, or of the first one that it starts
    int start = 0;  // processes to start on this machine; 0: this process is one itself
};

/// What this command is to start or to be. Throws Error(Fault::input) naming the flag or variable that is
/// missing or contradicts another. The first of these that says something counts: flags, torchrun (RANK,
/// WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT), SLURM (SLURM_PROCID, SLURM_NTASKS,
/// SLURM_LOCALID, SLURM_JOB_NODELIST), Open MPI (OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK).
LaunchPlan plan_launch(const LaunchFlags& flags, const Environment& environment, int gpus);

/// How many GPUs a process started here would see; 0 without CUDA. Asks in a process of its own, because a
/// process that has called CUDA must not be forked.
int count_gpus();

/// Runs `work` in `plan.start` new processes, each with its own place, and returns the exit status of the
/// job. They die with this process, get the signals that it gets, and are killed where one of them failed and
/// they do not end by themselves soon. Prints the one line that says why the job failed, unless `work` has.
/// Call it before anything starts threads or CUDA.
int run_processes(const LaunchPlan& plan, const std::string& command,
                  const std::function<int(const Place&)>& work);

}  // namespace vvtq::apps
