// Runs that are killed, stopped and resumed: they end as a run that nobody disturbed.
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <thread>

#include "data/safetensors.h"
#include "engine/random.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

namespace {

constexpr const char* kSizes = "--patch-size 7 --embed-dim 16 --depth 1 ";

/// A data set of 4 batches and, where wanted, labels of it.
struct Runs {
    Scratch scratch;
    std::string data = scratch / "data";

    Runs() { write_idx_dataset(data, 64, 32); }

    Ended run(const std::string& arguments) const { return run_vvtq(arguments, scratch.path()); }
    std::string done(const std::string& arguments) const {
        const Ended ended = run(arguments);
        INFO(arguments << "\n" << ended.err);
        REQUIRE(ended.status == 0);
        return ended.out;
    }
    std::string file(const std::string& name, const std::string& of = "checkpoint") const {
        return scratch / (name + "/" + of + ".safetensors");
    }
    int64_t step_of(const std::string& path) const {
        return std::stoll(data::SafeTensors::open(path).metadata().at("step"));
    }
    std::string pretrain(const std::string& name) const {
        return "pretrain" + tiny_flags(data, scratch / name) + kSizes;
    }
    void make_labels() const {
        done(pretrain("fp") + "--epochs 1 --no-aug");
        done(
            "softlabel --crops-per-image 6 --min-crop-area 0.5 --threads 1 -b 50 --dataset fashion-mnist "
            "--data " +
            data + " --teacher " + file("fp") + " --softlabel_path " + scratch / "labels");
    }
    /// 8 steps a pass of 2 crops, 4 a pass of single crops.
    std::string train(const std::string& name) const {
        return "train --wbits 2 --abits 3 --reg --num_crops 2 --lr 1e-3 --finetune " + file("fp") +
               " --softlabel_path " + scratch / "labels" + tiny_flags(data, scratch / name);
    }
    /// The numbered checkpoints of a run.
    std::set<std::string> numbered(const std::string& name) const {
        std::set<std::string> found;
        for (const auto& entry : fs::directory_iterator(scratch / name)) {
            const std::string file = entry.path().filename().string();
            if (file.starts_with("checkpoint-")) found.insert(file);
        }
        return found;
    }
    size_t half_written(const std::string& name) const {
        size_t count = 0;
        for (const auto& entry : fs::directory_iterator(scratch / name)) {
            count += entry.path().extension() == ".tmp" ? 1 : 0;
        }
        return count;
    }
    /// What the log says of each batch, but for times; lines of one batch must agree.
    std::map<std::string, std::string> batches(const std::string& log) const {
        const std::regex line("(Epoch: \\[\\d+\\]\\[ *\\d+/\\d+\\])\\tTime[^\\t]*\\tData[^\\t]*\\t(.*)");
        std::map<std::string, std::string> found;
        std::istringstream in(text_of(scratch / log));
        std::smatch match;
        for (std::string text; std::getline(in, text);) {
            if (!std::regex_match(text, match, line)) continue;
            const auto [known, first] = found.try_emplace(match[1], match[2]);
            CHECK(known->second == match[2].str());
        }
        return found;
    }
};

void cut(const std::string& path) { fs::resize_file(path, fs::file_size(path) * 3 / 4); }

}  // namespace

TEST_CASE("a run that is killed at 20 moments and goes on by itself ends in the same bits") {
    const Runs r;
    r.make_labels();
    const std::string more = "--epochs 60 --seed 5 --save-every-steps 1 --keep 3 --resume auto ";
    r.done(r.train("whole") + more);
    engine::Random random(11);
    int kills = 0, while_saving = 0;
    for (int i = 0; i < 20; ++i) {
        Running running(r.train("killed") + more, r.scratch.path());
        if (i % 2 == 0) {  // at any moment
            std::this_thread::sleep_for(std::chrono::milliseconds(5 + random.below(120)));
        } else {  // while a file is being written, from some save on
            const int64_t saves = random.below(4);
            const int64_t from =
                saves + (fs::exists(r.file("killed")) ? r.step_of(r.file("killed")) : int64_t{0});
            running.wait_until([&] {
                running.stop();  // so that the save does not end while it is looked at
                if (fs::exists(r.file("killed")) && r.half_written("killed") > 0 &&
                    r.step_of(r.file("killed")) >= from) {
                    return true;
                }
                running.signal(SIGCONT);
                return false;
            });
        }
        running.signal(SIGKILL);
        kills += running.wait().status == 1000 + SIGKILL ? 1 : 0;
        while_saving += fs::exists(r.scratch / "killed") && r.half_written("killed") > 0 ? 1 : 0;
    }
    CHECK(kills >= 15);  // a run may end before its kill on a machine that is fast
    CHECK(while_saving >= 3);
    const std::string out = r.done(r.train("killed") + more);
    CHECK(out.find("=> --resume auto: going on from " + r.file("killed")) != std::string::npos);
    CHECK(bytes_of(r.file("killed")) == bytes_of(r.file("whole")));
    CHECK(bytes_of(r.file("killed", "model_best")) == bytes_of(r.file("whole", "model_best")));
    CHECK(r.numbered("killed") == r.numbered("whole"));
    CHECK(r.half_written("killed") == 0);
    const auto logged = r.batches("whole/train.log");
    CHECK(logged.size() > 100);
    CHECK(r.batches("killed/train.log") == logged);
}

TEST_CASE("the means of an epoch go on where a run was stopped") {
    const Runs r;
    r.done(r.pretrain("whole") + "--epochs 2");
    for (const char* steps : {"1", "3", "6"}) {
        const std::string dir = std::string("parts") + steps;
        r.done(r.pretrain(dir) + "--epochs 2 --max-steps " + steps);
        r.done(r.pretrain(dir) + "--epochs 2 --resume " + r.file(dir));
        CHECK(r.batches(dir + "/pretrain.log") == r.batches("whole/pretrain.log"));
        CHECK(bytes_of(r.file(dir)) == bytes_of(r.file("whole")));
    }
}

TEST_CASE("checkpoints within epochs: the last are kept under numbers, and each can be gone on from") {
    const Runs r;
    r.done(r.pretrain("whole") + "--epochs 3");
    r.done(r.pretrain("a") + "--epochs 3 --save-every-steps 3 --keep 3");
    CHECK(bytes_of(r.file("a")) == bytes_of(r.file("whole")));
    CHECK(r.numbered("a") == std::set<std::string>{"checkpoint-0000008.safetensors",
                                                   "checkpoint-0000009.safetensors",
                                                   "checkpoint-0000012.safetensors"});
    CHECK(bytes_of(r.file("a", "checkpoint-0000012")) == bytes_of(r.file("a")));
    for (const int step : {8, 9}) {
        const std::string from = r.file("a", "checkpoint-000000" + std::to_string(step));
        CHECK(r.step_of(from) == step);
        const std::string dir = "from" + std::to_string(step);
        r.done(r.pretrain(dir) + "--epochs 3 --resume " + from);
        CHECK(bytes_of(r.file(dir)) == bytes_of(r.file("whole")));
        CHECK(r.numbered(dir).empty());
    }
    // A state that is gone back to gives up those behind it.
    r.done(r.pretrain("a") + "--epochs 3 --keep 3 --max-steps 10 --resume " +
           r.file("a", "checkpoint-0000009"));
    CHECK(r.numbered("a") == std::set<std::string>{"checkpoint-0000008.safetensors",
                                                   "checkpoint-0000009.safetensors",
                                                   "checkpoint-0000010.safetensors"});
    r.done(r.pretrain("a") + "--epochs 1 --keep 2");  // afresh
    CHECK(r.numbered("a") == std::set<std::string>{"checkpoint-0000004.safetensors"});
    CHECK(r.run(r.pretrain("a") + "--keep -1").status == 2);
}

TEST_CASE("resume auto takes the newest whole checkpoint") {
    const Runs r;
    const std::string more = "--epochs 3 --save-every-steps 1 --keep 3 --resume auto ";
    const std::string afresh = r.done(r.pretrain("a") + more);
    CHECK(afresh.find("no checkpoint in " + r.scratch / "a" + ", the run starts afresh") !=
          std::string::npos);
    const data::Bytes whole = bytes_of(r.file("a")), best = bytes_of(r.file("a", "model_best"));
    CHECK(r.done(r.pretrain("a") + more).find("going on from " + r.file("a")) != std::string::npos);
    CHECK(bytes_of(r.file("a")) == whole);

    cut(r.file("a"));  // and with it the one of step 12
    cut(r.file("a", "checkpoint-0000011"));
    const std::string out = r.done(r.pretrain("a") + more);
    CHECK(out.find("=> warning: " + r.file("a") + " is passed over: ") != std::string::npos);
    CHECK(out.find("=> warning: " + r.file("a", "checkpoint-0000011") + " is passed over: ") !=
          std::string::npos);
    CHECK(out.find("going on from " + r.file("a", "checkpoint-0000010")) != std::string::npos);
    CHECK(bytes_of(r.file("a")) == whole);
    CHECK(bytes_of(r.file("a", "model_best")) == best);

    cut(r.file("a"));
    write_bytes(r.file("a", "model_best"), whole);  // of step 12, and so later than the numbered ones
    cut(r.file("a", "checkpoint-0000012"));
    CHECK(r.done(r.pretrain("a") + more).find("going on from " + r.file("a", "model_best")) !=
          std::string::npos);
    CHECK(bytes_of(r.file("a")) == whole);
    write_bytes(r.file("a", "model_best"), best);

    for (const std::string& name : r.numbered("a")) fs::remove(r.scratch / ("a/" + name));
    write_bytes(r.file("a"), {});
    CHECK(r.done(r.pretrain("a") + more).find("going on from " + r.file("a", "model_best")) !=
          std::string::npos);
    CHECK(bytes_of(r.file("a")) == whole);

    for (const std::string& name : r.numbered("a")) fs::remove(r.scratch / ("a/" + name));
    cut(r.file("a"));
    cut(r.file("a", "model_best"));
    const Ended refused = r.run(r.pretrain("a") + more);
    INFO(refused.err);
    CHECK(refused.status == 2);
    CHECK(refused.err.find("--resume: no checkpoint in " + r.scratch / "a" + " is whole") !=
          std::string::npos);
    const Ended none = r.run("train --evaluate --resume auto --dataset fashion-mnist --data " + r.data +
                             " --save_checkpoint_path " + r.scratch / "none");
    CHECK(none.status == 2);
    CHECK(none.err.find("--resume: there is no checkpoint in ") != std::string::npos);
}

TEST_CASE("a resumed run may have more epochs") {
    const Runs r;
    r.make_labels();
    for (const std::string steps : {"20", "22"}) {  // at the end of 6 epochs but one, and within the last
        const std::string dir = "more" + steps, again = "again" + steps;
        for (const std::string& name : {dir, again}) {
            r.done(r.train(name) + "--epochs 6 --max-steps " + steps);
            const std::string out = r.done(r.train(name) + "--epochs 9 --resume auto");
            CHECK(out.find("=> --epochs 6 becomes 9: from epoch 5 on ") != std::string::npos);
            CHECK(out.find("Epoch: [8]") != std::string::npos);
            CHECK(data::SafeTensors::open(r.file(name)).metadata().at("epoch") == "9");
        }
        CHECK(bytes_of(r.file(dir)) == bytes_of(r.file(again)));
    }
    r.done(r.train("more20") + "--epochs 10 --resume auto");  // of a finished run
    CHECK(data::SafeTensors::open(r.file("more20")).metadata().at("epoch") == "10");
    const Ended fewer = r.run(r.train("more20") + "--epochs 3 --resume auto");
    CHECK(fewer.status == 2);
    CHECK(fewer.err.find("--epochs 3 (there 10)") != std::string::npos);
}
