// Log lines, metrics and the order of passes.
#include "apps/training/log.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "apps/training/passes.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using apps::Pass;
using apps::plan_passes;

TEST_CASE("meters print the published form") {
    apps::Meter loss("Loss", "%.4e");
    loss.update(6.9256, 2);
    CHECK(loss.str() == "Loss 6.9256e+00 (6.9256e+00)");
    loss.update(0.9256, 4);
    CHECK(loss.mean() == Approx((2 * 6.9256 + 4 * 0.9256) / 6));
    apps::Meter time("Time", "%6.3f");
    time.update(30.4541);
    CHECK(time.str() == "Time 30.454 (30.454)");
    CHECK(apps::batch_label("Epoch: [0]", 0, 5005) == "Epoch: [0][   0/5005]");
    CHECK(apps::batch_label("Test: ", 195, 196) == "Test: [195/196]");
}

TEST_CASE("clock text") {
    CHECK(apps::clock_text(65.9) == "01:05");
    CHECK(apps::clock_text(3600 + 62) == "1:01:02");
    CHECK(apps::clock_text(std::nan("")) == "00:00");
}

TEST_CASE("the log and its metrics are appended to, and NaN becomes null") {
    const Scratch scratch;
    for (int i = 0; i < 2; ++i) {
        apps::RunLog log(scratch / "logs/run.log");
        log.line("line " + std::to_string(i));
        log.metrics({{"loss", std::numeric_limits<double>::quiet_NaN()}, {"step", i}});
    }
    CHECK(text_of(scratch / "logs/run.log") == "line 0\nline 1\n");
    CHECK(text_of(scratch / "logs/metrics.jsonl") ==
          "{\"loss\":null,\"step\":0}\n{\"loss\":null,\"step\":1}\n");
    write_bytes(scratch / "file", {1});
    CHECK(refuses("`log`", [&] { apps::RunLog log(scratch / "file/run.log"); }));
}

TEST_CASE("passes: warm-up and the last epochs with single crops, several crops between") {
    CHECK(plan_passes(10, 2, 3) == std::vector<Pass>{{0, 1}, {1, 1}, {2, 3}, {5, 3}, {8, 1}, {9, 1}});
    CHECK(plan_passes(3, 5, 4) == std::vector<Pass>{{0, 1}, {1, 1}, {2, 1}});
    CHECK(plan_passes(10, 2, 3, 5) == std::vector<Pass>{{5, 3}, {8, 1}, {9, 1}});
    CHECK(plan_passes(12, 2, 3, 8) == std::vector<Pass>{{8, 3}, {11, 1}});  // 10 epochs became 12
    CHECK(plan_passes(10, 2, 3, 10).empty());
    const auto published = plan_passes(150, 0, 4);
    CHECK(published.size() == 39);
    CHECK(published[36] == Pass{144, 4});  // as the published logs: 0, 4, ..., 144, 148, 149
    CHECK(published[37] == Pass{148, 1});
    for (int crops = 1; crops < 7; ++crops) {
        for (int epochs = 1; epochs < 20; ++epochs) {
            int next = 0;
            for (const Pass& pass : plan_passes(epochs, 1, crops)) {
                CHECK(pass.epoch == next);
                next += pass.crops;
            }
            CHECK(next == epochs);
        }
    }
}
