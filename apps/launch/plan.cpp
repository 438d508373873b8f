#include <algorithm>

#include "apps/launch/environments.h"
#include "apps/launch/launch.h"
#include "apps/launch/sockets.h"
#include "engine/check.h"

extern char** environ;

namespace vvtq::apps {
namespace {

using engine::input_error;

/// Where `flags` or the variables MASTER_ADDR and MASTER_PORT say that the processes meet.
std::string meeting_url(const LaunchFlags& flags, const Environment& environment,
                        const std::string& otherwise) {
    if (flags.url == "env://") return master_url(environment);
    return flags.url.empty() ? otherwise : parse_meeting(flags.url, "--dist-url").url();
}

/// The same for --world-size `size`: one alone meets on the loopback device.
std::string url_of_world(const LaunchFlags& flags, const Environment& environment, int size) {
    const std::string url = meeting_url(flags, environment, size == 1 ? "tcp://127.0.0.1:0" : "");
    if (url.empty()) {
        input_error("--world-size ", size, " without --dist-url: give tcp://HOST:PORT, with the host of ",
                    "--rank 0 and a free port there");
    }
    return url;
}

/// The flag's number, or with env:// the variable's; -1: neither.
int number(int flag, const char* name, const LaunchFlags& flags, const Environment& environment) {
    if (flag >= 0 || flags.url != "env://" || environment.count(name) == 0) return flag;
    return parse_number(environment.at(name), name, 0, kMostProcesses);
}

/// `--rank` of `--world-size`, both of machines or of processes.
void check_rank(int rank, int size, const char* of) {
    if (size == 0) input_error("--world-size 0: must be the number of ", of, ", at least 1");
    if (rank < 0 && size > 1) {
        input_error("--world-size ", size, " without --rank: give each of the ", of,
                    " its --rank, from 0 to ", size - 1);
    }
    if (size > kMostProcesses)
        input_error("--world-size ", size, ": at most ", kMostProcesses, " can be used");
    if (rank >= size) {
        input_error("--rank ", rank, ": with --world-size ", size, " it must be ",
                    size == 1 ? "0" : engine::concat("from 0 to ", size - 1));
    }
}

LaunchPlan start_processes(const LaunchFlags& flags, const Environment& environment, int gpus) {
    if (flags.nproc == 0 && flags.backend == "gloo") {
        input_error("--multiprocessing-distributed with --dist-backend gloo: say with --nproc how many ",
                    "processes to start");
    }
    if (flags.nproc == 0 && gpus == 0) {
        input_error("--multiprocessing-distributed starts one process for each GPU, but this machine has ",
                    "none that can be used: for processes on the CPU give --nproc and --dist-backend gloo");
    }
    const int local = flags.nproc > 0 ? flags.nproc : gpus;
    const int given = number(flags.world_size, "WORLD_SIZE", flags, environment);
    const int machines = given < 0 ? 1 : given;
    const int machine = number(flags.rank, "RANK", flags, environment);
    check_rank(machine, machines, "machines");
    if (machines > kMostProcesses / local) input_error("--world-size ", machines, ": too many machines");
    const std::string url = url_of_world(flags, environment, machines);
    return {{std::max(0, machine) * local, machines * local, 0, local, machines, url, true}, local};
}

/// One of several processes that were started by hand.
LaunchPlan by_hand(const LaunchFlags& flags, const Environment& environment) {
    const int size = number(flags.world_size, "WORLD_SIZE", flags, environment);
    const int rank = number(flags.rank, "RANK", flags, environment);
    if (size < 0) input_error("--rank ", rank, " without --world-size: give the number of processes");
    check_rank(rank, size, "processes");
    const std::string url = url_of_world(flags, environment, size);
    return {{std::max(0, rank), size, 0, 1, size, url, true}, 0};
}

}  // namespace

Environment environment() {
    Environment variables;
    for (char** next = environ; *next != nullptr; ++next) {
        const std::string line = *next;
        const size_t equals = line.find('=');
        if (equals != std::string::npos) variables[line.substr(0, equals)] = line.substr(equals + 1);
    }
    return variables;
}

LaunchPlan plan_launch(const LaunchFlags& flags, const Environment& environment, int gpus) {
    if (!(flags.timeout >= 1 && flags.timeout <= 1e6)) {
        input_error("--dist-timeout ", flags.timeout, ": must be from 1 to 1000000 seconds");
    }
    if (flags.nproc < 0 || flags.nproc > kMostProcesses) {
        input_error("--nproc ", flags.nproc, ": must be from 1 to ", kMostProcesses);
    }
    if (!flags.url.empty() && flags.url != "env://") parse_meeting(flags.url, "--dist-url");
    if (flags.multiprocessing || flags.nproc > 0) return start_processes(flags, environment, gpus);
    if (flags.world_size >= 0 || flags.rank >= 0) return by_hand(flags, environment);
    for (const auto& launcher : {of_torchrun, of_slurm, of_open_mpi}) {
        auto place = launcher(environment, flags.url.empty());
        if (!place) continue;
        place->url = meeting_url(flags, environment, place->url);
        if (place->url.empty()) {
            input_error("started by ", place->size,
                        " processes of Open MPI on several machines: give --dist-url ",
                        "tcp://HOST:PORT, with the host of rank 0 and a free port there");
        }
        place->several = true;
        return {*place, 0};
    }
    if (flags.url == "env://") {
        input_error("--dist-url env://: RANK and WORLD_SIZE are not set: give --rank and --world-size");
    }
    return {};
}

}  // namespace vvtq::apps
