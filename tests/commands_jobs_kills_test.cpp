// Processes of a job that are killed or stopped: the job ends everywhere, and the run goes on from its files.
#include <signal.h>

#include <chrono>
#include <thread>

#include "engine/random.h"
#include "tests/jobs_support.h"
#include "tests/model_files.h"
#include "tests/rank_threads.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace {

const std::string kMore = "--epochs 40 --lr 1e-3 --save-every-steps 1 --resume auto ";
constexpr double kTimeout = 20;  // seconds

std::string rank_name(int rank) { return "rank " + std::to_string(rank) + " (host "; }

/// Waits until the run in `name` has made `steps` more steps than when it began.
bool wait_for_steps(JobRun& run, const Jobs& jobs, const std::string& name, int64_t from, int64_t steps) {
    return run.running().wait_until([&] { return steps_of(jobs.file(name)) >= from + steps; });
}

/// The run of `name` goes on to the end, which is that of an undisturbed one.
void goes_on(const Jobs& jobs, const std::string& name, const std::string& more) {
    jobs.done(jobs.train(name, more));
    jobs.same_files("whole", name);
    CHECK(half_written(jobs.scratch / name) == 0);
}

}  // namespace

TEST_CASE("jobs: a process that is killed at any moment ends the job at once", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    const std::string more = kMore + processes(2, kTimeout);
    jobs.done(jobs.train("whole", more));
    engine::Random random(5);
    int kills = 0, while_saving = 0;
    for (int i = 0; i < 9 || (while_saving == 0 && i < 30); ++i) {
        const int rank = i % 3 == 0 && i < 9 ? 1 : 0;
        INFO("kill " << i << " of rank " << rank);
        const int64_t from = steps_of(jobs.file("killed"));
        JobRun run = jobs.start(jobs.train("killed", more));
        if (!wait_for_steps(run, jobs, "killed", from, 1 + random.below(3))) continue;
        const std::vector<pid_t> ranks = run.ranks();
        if (ranks.size() < 2) continue;  // the run is at its end
        if (i % 3 == 2 || i >= 9) {      // while a file is being written
            run.running().wait_until([&] { return half_written(jobs.scratch / "killed") > 0; });
        } else {
            std::this_thread::sleep_for(std::chrono::milliseconds(random.below(20)));
        }
        ::kill(ranks[static_cast<size_t>(rank)], SIGKILL);
        const Ended ended = run.ends_within(kTimeout / 2);
        if (ended.status == 0) continue;
        check_end(ended, 1, {"vvtq train: error: " + rank_name(rank), "): ended by SIGKILL"});
        ++kills;
        while_saving += half_written(jobs.scratch / "killed") > 0 ? 1 : 0;
        CHECK(steps_of(jobs.file("killed")) > from);  // and so the file is whole
    }
    CHECK(kills >= 6);  // the run may be faster than its kill
    CHECK(while_saving >= 1);
    goes_on(jobs, "killed", more);
}

TEST_CASE("jobs: started processes die with the one that started them, and their port is free", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    const int port = free_tcp_port();
    const std::string url = " --dist-url tcp://127.0.0.1:" + std::to_string(port) + " ";
    const std::string more = kMore + processes(2, kTimeout) + url;
    jobs.done(jobs.train("whole", kMore + processes(2, kTimeout)));
    JobRun run = jobs.start(jobs.train("killed", more));
    REQUIRE(wait_for_steps(run, jobs, "killed", 0, 2));
    CHECK_FALSE(is_free(port));
    REQUIRE(run.ranks().size() == 2);
    run.running().signal(SIGKILL);
    const Ended ended = run.ends_within(kTimeout / 2);
    CHECK(ended.status == 1000 + SIGKILL);
    CHECK(ended.err == "");
    CHECK(becomes_free(port));
    goes_on(jobs, "killed", more);
}

TEST_CASE("jobs: a process that is stopped ends the job within the time limit", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    constexpr double kShort = 5, kGrace = 5;  // the limit, and what killing the stopped one may take
    const std::string more = kMore + processes(2, kShort);
    jobs.done(jobs.train("whole", more));
    for (const int rank : {0, 1}) {
        INFO("rank " << rank);
        const std::string name = "stopped" + std::to_string(rank);
        JobRun run = jobs.start(jobs.train(name, more));
        REQUIRE(wait_for_steps(run, jobs, name, 0, 2));
        const std::vector<pid_t> ranks = run.ranks();
        REQUIRE(ranks.size() == 2);
        ::kill(ranks[static_cast<size_t>(rank)], SIGSTOP);
        check_end(run.ends_within(kShort + kGrace), 1,
                  {"vvtq train: error: " + rank_name(rank), "): has not answered for "});
        goes_on(jobs, name, more);
    }
}

TEST_CASE("jobs: of processes started by hand one is killed: the other ends with a line that names it",
          "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    const auto by_hand = [&](int rank, const std::string& url) {
        return jobs.start(jobs.train("killed", kMore, 6) + "--world-size 2 --dist-timeout 20 --rank " +
                          std::to_string(rank) + url);
    };
    jobs.done(jobs.train("whole", kMore + processes(2, kTimeout)));
    for (const int rank : {0, 1}) {
        INFO("rank " << rank);
        const int port = free_tcp_port();
        const std::string url = " --dist-url tcp://127.0.0.1:" + std::to_string(port);
        const int64_t from = steps_of(jobs.file("killed"));
        JobRun first = by_hand(0, url), second = by_hand(1, url);
        REQUIRE(wait_for_steps(first, jobs, "killed", from, 2));
        (rank == 0 ? first : second).running().signal(SIGKILL);
        check_end((rank == 0 ? second : first).ends_within(kTimeout / 2), 1,
                  {"vvtq train: error: " + rank_name(rank), "connection lost"});
        CHECK((rank == 0 ? first : second).ends_within(kTimeout / 2).status == 1000 + SIGKILL);
        CHECK(becomes_free(port));
    }
    goes_on(jobs, "killed", kMore + processes(2, kTimeout));
}
