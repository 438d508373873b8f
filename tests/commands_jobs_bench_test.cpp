// `vvtq bench step` in several processes: what it tells, and how it ends.
#include <signal.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/jobs_support.h"
#include "tests/rank_threads.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace {

const std::string kBench = "bench step --device cpu --threads 2 --img-size 16 -b 12 " + std::string(kDeit);

}  // namespace

TEST_CASE("jobs: bench step tells what processes add to a step", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    const auto line = nlohmann::json::parse(jobs.done(kBench + "--steps 5 " + processes(2)));
    CHECK(line.at("processes") == 2);
    CHECK(line.at("bytes").get<int64_t>() > 4 * 1000);
    CHECK(line.at("exposed_ms").get<double>() ==
          line.at("ms").get<double>() - line.at("ms_alone").get<double>());
    const auto halved =
        nlohmann::json::parse(jobs.done(kBench + "--steps 5 --reduce-precision bf16 " + processes(2)));
    CHECK(2 * halved.at("bytes").get<int64_t>() == line.at("bytes").get<int64_t>());
    const auto shards = nlohmann::json::parse(jobs.done(kBench + "--steps 5 --shards 4 " + processes(2)));
    CHECK(shards.at("shards") == 4);
    CHECK_FALSE(shards.contains("exposed_ms"));
    check_end(run_vvtq(kBench + "--steps 3 --shards 5", jobs.scratch.path()), 2,
              {"--batch-size 12: cannot be cut into 5 equal parts"});
}

TEST_CASE("jobs: a signal ends bench step in all processes, with one line", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    Running run(kBench + "--steps 90000 " + processes(2), jobs.scratch.path());
    std::this_thread::sleep_for(std::chrono::seconds(2));  // whether it steps or starts
    run.signal(SIGINT);
    check_end(run.wait(), 1, {"vvtq bench step: stopped by SIGINT"});
}
