// Training by several processes computes what one process computes (specification section 10).
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/state_file.h"
#include "tests/jobs_support.h"
#include "tests/model_files.h"
#include "tests/rank_threads.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace {

constexpr double kBound = 1e-12;

double difference(double a, double b) { return std::abs(a - b) / std::max(1.0, std::abs(b)); }

/// Parameters, statistics and moments of both runs.
void same_state(const Jobs& jobs, const std::string& one, const std::string& other) {
    const data::StateFile a(jobs.file(one)), b(jobs.file(other));
    const auto names = data::SafeTensors::open(jobs.file(one)).entries();
    size_t compared = 0;
    double largest = 0;
    std::string where;
    for (const auto& [name, entry] : names) {
        // A bias in front of a batch norm, which takes it away again: its gradient is rounding alone, which
        // AdamW enlarges.
        const bool bias = has(name, "patch_embed.conv") && has(name, ".bias");
        const bool mean_with_bias = has(name, "patch_embed.bn") && has(name, ".running_mean");
        if (bias || mean_with_bias) continue;
        const std::vector<double> values = a.read<double>(name), others = b.read<double>(name);
        REQUIRE(values.size() == others.size());
        for (size_t i = 0; i < values.size(); ++i, ++compared) {
            const double apart = difference(others[i], values[i]);
            if (apart <= largest) continue;
            largest = apart;
            where = name;
        }
    }
    INFO(where);
    CHECK(compared > 3000);
    CHECK(largest <= kBound);
}

/// What the runs logged of losses and hits, in order.
void same_log(const Jobs& jobs, const std::string& one, const std::string& other, size_t batches,
              size_t evaluations) {
    const auto read = [&](const std::string& name) {
        std::vector<nlohmann::json> lines;
        for (const std::string& line : lines_of(text_of(jobs.scratch / (name + "/metrics.jsonl")))) {
            lines.push_back(nlohmann::json::parse(line));
            for (const char* measured : {"time", "data", "img_s"}) lines.back().erase(measured);
        }
        return lines;
    };
    const auto a = read(one), b = read(other);
    REQUIRE(a.size() == b.size());
    size_t trained = 0, evaluated = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        INFO(b[i].dump() << "\ninstead of " << a[i].dump());
        REQUIRE(a[i].size() == b[i].size());
        trained += a[i].at("kind") == "train" ? 1 : 0;
        evaluated += a[i].at("kind") == "eval" ? 1 : 0;
        for (const auto& [key, value] : a[i].items()) {
            REQUIRE(b[i].contains(key));
            const bool rounded = value.is_number_float() && !key.starts_with("acc");
            if (rounded) {
                CHECK(difference(b[i].at(key).get<double>(), value.get<double>()) <= kBound);
            } else {
                CHECK(b[i].at(key) == value);
            }
        }
    }
    CHECK(trained == batches);
    CHECK(evaluated == evaluations);
}

/// 5 steps and, with one crop, an evaluation after the fourth, in f64, by one process, 2 and 3.
void same_with_processes(const Jobs& jobs, const std::string& command, const std::string& flags,
                         size_t evaluations = 1) {
    static int number = 0;
    const std::string name = "run" + std::to_string(number++);
    const std::string more = flags + " --precision fp64 --epochs 8 --max-steps 5 --lr 1e-3 ";
    for (const int count : {1, 2, 3}) {
        const std::string own = name + "-" + std::to_string(count);
        INFO(command << flags << ", " << count << " processes");
        const std::string out = jobs.done(command + jobs.run(own) + more + processes(count));
        if (count == 1) continue;
        CHECK(has(
            out, std::to_string(count) + " processes, Gloo, " + std::to_string(12 / count) + " images each"));
        same_state(jobs, name + "-1", own);
        same_log(jobs, name + "-1", own, 5, evaluations);
    }
}

}  // namespace

TEST_CASE("jobs: 2 and 3 processes compute what one computes, for every family of models", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    same_with_processes(jobs, "train --wbits 3 --abits 3 --reg", kDeit);
    same_with_processes(jobs, "train --wbits 2 --abits 2 --reg", kSwin);
    same_with_processes(jobs, "train --wbits 4 --abits 4 --reg", kSret);
    same_with_processes(jobs, "train --wbits 4 --abits 4 --reg --head-wise", kDeit);
    same_with_processes(jobs, "train --wbits 3 --abits 2 --clip-grad 0.5", kDeit);
}

TEST_CASE("jobs: crops of one picture in two processes, mixed pictures and repeated ones", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    jobs.make_labels();
    same_with_processes(jobs, "train --wbits 3 --abits 3 --reg", kDeit + jobs.with_labels(1));
    // 12 crops of 3 pictures: parts of 6 and of 4
    same_with_processes(jobs, "train --wbits 3 --abits 3 --reg", kDeit + jobs.with_labels(4), 0);
    same_with_processes(jobs, "train --wbits 2 --abits 2", kSret + jobs.with_labels(5), 0);
    for (const char* mode : {"batch", "pair", "elem"}) {
        same_with_processes(
            jobs, "pretrain --mixup 0.8 --cutmix 1.0 --repeated-aug --smoothing 0.1",
            std::string(kDeit) + "--reprob 0.25 --aa rand-m9-mstd0.5-inc1 --mixup-mode " + mode);
    }
    same_with_processes(jobs, "pretrain --cutmix 1.0", kSwin);
}

TEST_CASE("jobs: an evaluation counts each picture once, whatever divides them", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    jobs.done(jobs.train("trained", "--epochs 3 --lr 1e-2"));
    const auto result = [&](int count, int batch) {
        const std::string out = jobs.done("train --evaluate --resume " + jobs.file("trained") +
                                          jobs.run("none", batch) + processes(count));
        for (const std::string& line : lines_of(out)) {
            if (line.starts_with(" * Acc@1")) return line;
        }
        return std::string();
    };
    const std::string one = result(1, 6);
    CHECK(one.size() > 10);
    CHECK(one != " * Acc@1 0.000 Acc@5 0.000");
    for (const int count : {2, 3, 5}) CHECK(result(count, 6) == one);
    CHECK(result(5, 40) == one);  // fewer batches than processes
}
