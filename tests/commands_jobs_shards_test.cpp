// With --shards the files of a run do not depend on the number of processes; and runs that are resumed by
// another number of processes.
#include "tests/jobs_support.h"
#include "tests/model_files.h"
#include "tests/rank_threads.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace {

/// 8 steps and two evaluations: by one process, 2 and 4; stopped by 2 in the middle of an epoch, resumed by 4
/// and by 1.
void same_with_shards(const Jobs& jobs, const std::string& command, const std::string& flags) {
    static int number = 0;
    const std::string name = "run" + std::to_string(number++);
    const auto run = [&](const std::string& own, int count, const std::string& more = "") {
        jobs.done(command + jobs.run(own) + flags + " --shards 4 --epochs 2 --lr 1e-3 " + processes(count) +
                  more);
    };
    INFO(command << flags);
    for (const int count : {1, 2, 4}) run(name + std::to_string(count), count);
    jobs.same_files(name + "1", name + "2");
    jobs.same_files(name + "1", name + "4");
    run(name + "-then4", 2, "--max-steps 6");
    CHECK(steps_of(jobs.file(name + "-then4")) == 6);
    jobs.copy(name + "-then4", name + "-then1");
    run(name + "-then4", 4, "--resume " + jobs.file(name + "-then4"));
    run(name + "-then1", 1, "--resume auto");
    jobs.same_files(name + "1", name + "-then4");
    jobs.same_files(name + "1", name + "-then1");
}

}  // namespace

TEST_CASE("jobs: with --shards 4 one process, 2 and 4 write the same files", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    same_with_shards(jobs, "train --wbits 3 --abits 3 --reg", kDeit);
    same_with_shards(jobs, "train --wbits 4 --abits 4 --reg", kSret);
    same_with_shards(jobs, "train --wbits 1 --abits 1", kDeit);
    jobs.make_labels();
    same_with_shards(jobs, "train --wbits 2 --abits 3 --reg", kDeit + jobs.with_labels(2));
    same_with_shards(jobs, "train --wbits 3 --abits 3", kSwin + jobs.with_labels(5));
    same_with_shards(jobs, "pretrain --mixup 0.8 --cutmix 1.0 --repeated-aug", kDeit);
}

TEST_CASE("jobs: a batch counts as a whole or as shards, and processes must divide it", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    const std::string more = "--epochs 1 --max-steps 2 ";
    jobs.done(jobs.train("whole", more));
    jobs.done(jobs.train("shards", more + "--shards 4"));
    CHECK(bytes_of(jobs.file("whole")) != bytes_of(jobs.file("shards")));
    const auto refused = [&](const std::string& flags, const std::vector<std::string>& words) {
        JobRun run = jobs.start(jobs.train("refused", flags));
        check_end(run.ends_within(20), 2, words);
    };
    refused("--shards 4 " + processes(3), {"--shards 4: cannot be shared out over 3 processes"});
    refused(processes(5), {"--batch-size"});
    refused("--shards 5", {"--batch-size 12: cannot be cut into 5 equal parts"});
    refused("--precision fp64 --reduce-precision bf16 " + processes(2), {"--reduce-precision bf16"});
}

TEST_CASE("jobs: any number of processes resumes a run of another number", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    const std::string more = "--epochs 3 --lr 1e-3 --precision fp64 ";
    jobs.done(jobs.train("whole", more));
    jobs.done(jobs.train("half", more + "--max-steps 6 " + processes(2)));
    for (const int count : {1, 2, 3}) {
        const std::string name = "then" + std::to_string(count);
        jobs.copy("half", name);
        const std::string out = jobs.done(jobs.train(name, more + "--resume auto " + processes(count)));
        CHECK(has(out, "=> --resume auto: going on from " + jobs.file(name)));
        CHECK(steps_of(jobs.file(name)) == 12);
        double largest = 0;
        for (const char* tensor : {"head.weight", "patch_embed.proj.weight", "blocks.0.attn.proj_q.alpha",
                                   "blocks.1.mlp.quant2.beta", "optimizer.head.bias.exp_avg"}) {
            const auto values = values_of(jobs.file("whole"), tensor),
                       own = values_of(jobs.file(name), tensor);
            REQUIRE(values.size() == own.size());
            for (size_t i = 0; i < values.size(); ++i)
                largest = std::max(largest, std::abs(values[i] - own[i]));
        }
        CHECK(largest < 1e-10);
    }
}
