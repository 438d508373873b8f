// The ways to start a job, each to the end of a run.
#include <unistd.h>

#include <deque>

#include "tests/jobs_support.h"
#include "tests/model_files.h"
#include "tests/rank_threads.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace {

/// A process that is started: its flags and its variables.
struct Start {
    std::string flags;
    std::vector<std::string> variables;
};

/// Runs of two steps an epoch whose files do not depend on the number of processes.
struct Launches : Jobs {
    const std::string more = "--epochs 2 --lr 1e-3 --shards 4 ";

    Launches() { done(train("one", more)); }
    /// Starts all; `batch` is the batch of each. They must end with the files of one process.
    void same(const std::string& name, const std::vector<Start>& starts, int batch) const {
        INFO(name);
        std::deque<JobRun> runs;
        for (const Start& one : starts) {
            runs.emplace_back(scratch.path(), train(name, more + "--dist-timeout 20 " + one.flags, batch),
                              one.variables);
        }
        size_t speakers = 0;
        for (JobRun& run : runs) {
            const Ended ended = run.ends_within(30);
            INFO(ended.err);
            CHECK(ended.status == 0);
            CHECK(ended.err == "");
            speakers += ended.out.empty() ? 0 : 1;
        }
        CHECK(speakers == 1);
        same_files("one", name);
    }
};

std::string number(int64_t value) { return std::to_string(value); }

}  // namespace

TEST_CASE("jobs: the published command line, and two machines of two processes", "[jobs]") {
    if (gloo_missing()) return;
    const Launches jobs;
    const std::string url = "--dist-url tcp://127.0.0.1:" + number(free_tcp_port());
    jobs.same(
        "published",
        {{"--multiprocessing-distributed " + url + " --dist-backend gloo --world-size 1 --rank 0 --nproc 2",
          {}}},
        12);
    const auto machine = [&](int rank) {
        return Start{url + " --dist-backend gloo --nproc 2 --world-size 2 --rank " + number(rank), {}};
    };
    jobs.same("machines", {machine(0), machine(1)}, 6);
    jobs.same("later", {machine(1), machine(0)}, 6);
}

TEST_CASE("jobs: started by hand, at a port, at a file or by the variables of torch.distributed", "[jobs]") {
    if (gloo_missing()) return;
    const Launches jobs;
    const std::string port = number(free_tcp_port()), file = jobs.scratch / "meeting";
    const auto by_hand = [&](int rank, const std::string& url) {
        return Start{"--dist-url " + url + " --world-size 2 --rank " + number(rank), {}};
    };
    jobs.same("tcp", {by_hand(1, "tcp://127.0.0.1:" + port), by_hand(0, "tcp://127.0.0.1:" + port)}, 6);
    jobs.same("file", {by_hand(1, "file://" + file), by_hand(0, "file://" + file)}, 6);
    CHECK_FALSE(std::filesystem::exists(file));
    const auto variables = [&](int rank) {
        return Start{
            "--dist-url env://",
            {"RANK=" + number(rank), "WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + port}};
    };
    jobs.same("env", {variables(1), variables(0)}, 6);
}

TEST_CASE("jobs: started by torchrun, SLURM and Open MPI, as their variables say", "[jobs]") {
    if (gloo_missing()) return;
    const Launches jobs;
    const int port = free_tcp_port();
    const auto torchrun = [&](int rank) {
        return Start{"",
                     {"RANK=" + number(rank), "WORLD_SIZE=2", "LOCAL_RANK=" + number(rank),
                      "LOCAL_WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + number(port - 1),
                      "TORCHELASTIC_USE_AGENT_STORE=True"}};
    };
    jobs.same("torchrun", {torchrun(0), torchrun(1)}, 12);
    int job = ::getpid();
    while (!is_free(12000 + job % 20000)) ++job;  // the port that the program takes for this number
    const auto slurm = [&](int rank) {
        return Start{
            "",
            {"SLURM_PROCID=" + number(rank), "SLURM_NTASKS=2", "SLURM_LOCALID=" + number(rank),
             "SLURM_NTASKS_PER_NODE=2", "SLURM_JOB_NODELIST=localhost", "SLURM_JOB_ID=" + number(job)}};
    };
    jobs.same("slurm", {slurm(0), slurm(1)}, 12);
    const auto open_mpi = [&](int rank) {
        return Start{"",
                     {"OMPI_COMM_WORLD_RANK=" + number(rank), "OMPI_COMM_WORLD_SIZE=2",
                      "OMPI_COMM_WORLD_LOCAL_RANK=" + number(rank), "OMPI_COMM_WORLD_LOCAL_SIZE=2",
                      "PMIX_NAMESPACE=prterun-test-" + number(::getpid()) + "@1"}};
    };
    jobs.same("openmpi", {open_mpi(0), open_mpi(1)}, 12);
}
