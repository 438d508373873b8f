// Runs that follow the oscillation of weights: log and metrics, resumed and by several processes, frozen
// weights.
#include <cmath>

#include "tests/jobs_support.h"
#include "tests/model_files.h"
#include "tests/rank_threads.h"

using namespace vvtq;
using namespace vvtq::tests;
using nlohmann::json;

namespace {

/// The objects of the kind "oscillation" in the metrics of a run.
std::vector<json> reports_of(const Jobs& jobs, const std::string& name) {
    std::vector<json> reports;
    for (const std::string& line : lines_of(text_of(jobs.scratch / (name + "/metrics.jsonl")))) {
        const json object = json::parse(line);
        if (object.at("kind") == "oscillation") reports.push_back(object.at("oscillation"));
    }
    return reports;
}

constexpr const char* kTrack = "--epochs 4 --lr 4e-3 --track-osc ";
constexpr const char* kFreeze = "--epochs 4 --lr 4e-3 --track-osc --freeze-osc 0.03 --freeze-osc-end 0.01 ";

}  // namespace

TEST_CASE(
    "oscillation: --track-osc reports each epoch, keeps its state in the checkpoint and changes no "
    "parameter") {
    const Jobs jobs;
    jobs.done(jobs.train("plain", "--epochs 4 --lr 4e-3 "));
    const std::string out = jobs.done(jobs.train("tracked", kTrack));
    CHECK(has(out, "=> oscillation: "));
    CHECK(has(out, " % of the weights, mean frequency 0.0"));
    CHECK_FALSE(has(out, "frozen"));
    const std::vector<json> reports = reports_of(jobs, "tracked");
    REQUIRE(reports.size() == 4);
    CHECK(reports_of(jobs, "plain").empty());
    const auto plain = data::SafeTensors::open(jobs.file("plain")),
               tracked = data::SafeTensors::open(jobs.file("tracked"));
    size_t more = 0;
    for (const auto& [name, entry] : tracked.entries()) {
        if (has(name, ".osc_")) {
            ++more;
            CHECK_FALSE(plain.contains(name));
        } else {
            CHECK(plain.read<double>(name) == tracked.read<double>(name));
        }
    }
    CHECK(more == 3 * reports[0].at("layers").size());
    // the last report is of the state in the checkpoint
    double share = 0, mean = 0, count = 0;
    for (const auto& [path, layer] : reports.back().at("layers").items()) {
        INFO(path);
        double sum = 0, oscillating = 0;
        const auto f = tracked.read<double>("optimizer." + path + ".weight.osc_frequency");
        for (const double x : f) {
            sum += x;
            oscillating += x > 0.005 ? 1 : 0;
        }
        const auto n = static_cast<double>(f.size());
        CHECK(layer.at("share").get<double>() == Approx(oscillating / n));
        CHECK(layer.at("mean").get<double>() == Approx(sum / n));
        CHECK(layer.at("step").at(0).get<double>() == tracked.read<double>(path + ".alpha").at(0));
        double all = 0;
        for (const double part : layer.at("occupancy")) all += part;
        CHECK(all == Approx(1));
        CHECK(layer.at("variance_in_bins").get<double>() > 0);
        share += oscillating;
        mean += sum;
        count += n;
    }
    CHECK(share > 0);
    CHECK(reports.back().at("share").get<double>() == Approx(share / count));
    CHECK(reports.back().at("mean").get<double>() == Approx(mean / count));
    CHECK(reports.back().at("epoch") == 3);
    CHECK(reports.back().at("step") == 16);
    CHECK(reports.back().at("activations").at("blocks.0.attn.quant_q").at("step").size() == 1);
}

TEST_CASE(
    "oscillation: a run that follows it or freezes is resumed to the same bits, through a .pth as well") {
    const Jobs jobs;
    for (const char* flags : {kTrack, kFreeze}) {
        INFO(flags);
        const std::string name = flags == kTrack ? "track" : "freeze";
        const std::string whole = jobs.done(jobs.train(name, flags));
        CHECK(has(whole, "% are frozen") == (flags == kFreeze));
        for (const char* steps : {"4", "6", "11"}) {
            const std::string part = name + steps, torch = jobs.scratch / (part + ".pth");
            jobs.done(jobs.train(part, std::string(flags) + "--max-steps " + steps));
            jobs.done("convert " + jobs.file(part) + " " + torch);
            jobs.copy(part, part + "p");
            jobs.done(jobs.train(part, "--epochs 4 --resume " + jobs.file(part)));
            CHECK(bytes_of(jobs.file(part)) == bytes_of(jobs.file(name)));
            jobs.done(jobs.train(part + "p", "--epochs 4 --resume " + torch));
            CHECK(bytes_of(jobs.file(part + "p")) == bytes_of(jobs.file(name)));
        }
    }
    CHECK(reports_of(jobs, "freeze").back().at("frozen").get<double>() > 0);
    CHECK(bytes_of(jobs.file("freeze")) != bytes_of(jobs.file("track")));

    // what must agree, and what must be there
    const auto refused = [&](const std::string& more, const std::string& text) {
        const Ended ended = run_vvtq(jobs.train("refused", more), jobs.scratch.path());
        INFO(ended.err);
        CHECK(ended.status == 2);
        CHECK(has(ended.err, text));
    };
    jobs.done(jobs.train("plain", "--epochs 4 --max-steps 5"));
    refused("--epochs 4 --track-osc --resume " + jobs.file("plain"), "--track-osc true (there false)");
    refused("--epochs 4 --freeze-osc 0.05 --resume " + jobs.file("freeze6"),
            "--freeze-osc 0.05 (there 0.03)");
    jobs.done("convert --drop-optimizer " + jobs.file("freeze6") + " " + jobs.scratch / "bare.safetensors");
    refused("--epochs 5 --resume " + jobs.scratch / "bare.safetensors", "has no optimizer.");
}

TEST_CASE("jobs: oscillation is the same for any number of processes with --shards", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    const std::string flags = std::string(kFreeze) + "--shards 4 ";
    for (const int count : {1, 2, 4})
        jobs.done(jobs.train("by" + std::to_string(count), flags + processes(count)));
    jobs.same_files("by1", "by2");
    jobs.same_files("by1", "by4");
    CHECK(reports_of(jobs, "by1") == reports_of(jobs, "by4"));
    jobs.done(jobs.train("then", flags + "--max-steps 6 " + processes(2)));
    jobs.done(jobs.train("then", "--epochs 4 --resume " + jobs.file("then") + " " + processes(4)));
    jobs.same_files("by1", "then");
}

TEST_CASE("oscillation: it is followed with one bit, steps of heads, and every family") {
    const Jobs jobs;
    for (const char* flags : {"--wbits 1 --abits 3", "--wbits 3 --abits 3 --head-wise --freeze-osc 0.03"}) {
        INFO(flags);
        jobs.done(jobs.train("run", std::string(flags) + " --epochs 2 --lr 4e-3 --track-osc"));
        CHECK(reports_of(jobs, "run").back().at("share").get<double>() > 0);
    }
    for (const char* model : {kSwin, kSret}) {
        INFO(model);
        jobs.done("train --wbits 3 --abits 3 --epochs 2 --lr 4e-3 --track-osc --freeze-osc 0.03" +
                  jobs.run("family") + model);
        CHECK(reports_of(jobs, "family").back().at("share").get<double>() > 0);
    }
}
