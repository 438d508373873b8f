// Signals to a job: all processes stop after a common step, and the run goes on from there.
#include <signal.h>

#include "tests/jobs_support.h"
#include "tests/model_files.h"
#include "tests/rank_threads.h"

using namespace vvtq;
using namespace vvtq::tests;

TEST_CASE("jobs: a signal to the starter, to one process or to all stops them after a common step",
          "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    const std::string more = "--epochs 5000 --lr 1e-3 --resume auto " + processes(2, 20);
    enum { starter, rank0, rank1, all };
    for (const auto& [number, name] : {std::pair{SIGINT, "SIGINT"}, {SIGTERM, "SIGTERM"}}) {
        for (const int to : {starter, rank0, rank1, all}) {
            if (number == SIGTERM && (to == rank0 || to == all)) continue;
            INFO(name << " to " << to);
            const std::string folder = name + std::to_string(to);
            JobRun run = jobs.start(jobs.train(folder, more));
            REQUIRE(run.running().wait_for("Epoch: [1]"));
            const std::vector<pid_t> ranks = run.ranks();
            REQUIRE(ranks.size() == 2);
            if (to == starter || to == all) run.running().signal(number);
            if (to == rank0 || to == all) ::kill(ranks[0], number);
            if (to == rank1 || to == all) ::kill(ranks[1], number);
            const Ended ended = run.ends_within(10);
            const std::string by = to == rank1 ? "the signal of another process" : name;
            check_end(ended, 1,
                      {"vvtq train: stopped by " + by + " after step ",
                       "go on with the same flags and --resume " + jobs.file(folder)});
            const int64_t steps = steps_of(jobs.file(folder));
            CHECK(steps > 4);
            CHECK(has(ended.err, "after step " + std::to_string(steps) + ";"));
            const std::string end = more + "--max-steps " + std::to_string(steps + 6);
            jobs.done(jobs.train(folder, end));
            jobs.done(jobs.train("whole" + folder, end));  // undisturbed
            jobs.same_files("whole" + folder, folder);
        }
    }
}

TEST_CASE("jobs: a signal while the processes are starting ends all of them", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    for (const int milliseconds : {0, 5, 20, 60}) {
        INFO(milliseconds);
        JobRun run = jobs.start(jobs.train("none", "--epochs 1000 " + processes(2, 20)));
        run.wait_for_ranks(2);
        ::usleep(static_cast<useconds_t>(1000 * milliseconds));
        run.running().signal(SIGTERM);
        check_end(run.ends_within(10), 1, {"vvtq train: stopped by SIGTERM"});
    }
}

TEST_CASE("jobs: a second signal ends all at once", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    JobRun run =
        jobs.start("pretrain --model deit_small_patch16_224 --dataset fashion-mnist --data " + jobs.data +
                   " -b 48 --warmup-epochs 0 --threads 1 -j 1 --device cpu --save_checkpoint_path " +
                   jobs.scratch / "long" + " " + processes(2, 60));  // a step takes seconds
    REQUIRE(run.running().wait_for("images each"));
    run.running().signal(SIGTERM);
    ::usleep(700'000);  // later it is no longer the same signal that reached all
    run.running().signal(SIGTERM);
    check_end(run.ends_within(3), 1, {"vvtq pretrain: stopped by SIGTERM"});
}
