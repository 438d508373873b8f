// The program as its users run it: what a run leaves must not depend on how it was run.
#include <signal.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>

#include "data/safetensors.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace {

constexpr int kTrain = 64, kEvaluation = 32;

/// A small data set and, where wanted, a teacher and its labels.
struct Workshop {
    Scratch scratch;
    std::string data = scratch / "data";

    Words sizes;  // of the model

    explicit Workshop(Words model_sizes = {"--patch-size", "7", "--embed-dim", "16", "--depth", "1"})
        : sizes(std::move(model_sizes)) {
        write_idx_dataset(data, kTrain, kEvaluation);
    }

    Ended run(const Words& arguments) const { return run_vvtq(arguments, scratch.path()); }
    Words flags(const std::string& name) const { return tiny_flags(data, scratch / name) + sizes; }
    std::string checkpoint(const std::string& name) const {
        return scratch / (name + "/checkpoint.safetensors");
    }

    void pretrain() const {
        const Ended ended = run(words("pretrain") + flags("fp") + words("--epochs 1 --no-aug"));
        INFO(ended.err);
        REQUIRE(ended.status == 0);
    }
    void label() const {
        const Ended ended = run({"softlabel", "--teacher", checkpoint("fp"), "--dataset", "fashion-mnist",
                                 "--data", data, "--softlabel_path", scratch / "labels", "--crops-per-image",
                                 "6", "--min-crop-area", "0.5", "--threads", "1", "-b", "64"});
        INFO(ended.err);
        REQUIRE(ended.status == 0);
    }
    /// Quantization-aware training with everything on.
    Words train_flags(const std::string& name, int epochs) const {
        return words("train") + flags(name) +
               words("--finetune " + checkpoint("fp") + " --softlabel_path " + (scratch / "labels") + " --num_crops 2 --wbits 2 --abits 3 --reg --epochs " + std::to_string(epochs) + " --lr 1e-3 --seed 5");
    }
};

}  // namespace

TEST_CASE("equal runs leave equal checkpoints, whatever the number of threads and workers") {
    const Workshop w({"--depth", "2"});  // wide enough for kernels to share a tensor between threads
    w.pretrain();
    w.label();
    REQUIRE(w.run(w.train_flags("a", 5)).status == 0);
    REQUIRE(w.run(w.train_flags("b", 5)).status == 0);
    auto two = w.train_flags("c", 5);
    for (size_t i = 0; i + 1 < two.size(); ++i) {
        if (two[i] == "--threads") two[i + 1] = "2";
        if (two[i] == "-j") two[i + 1] = "3";
    }
    REQUIRE(w.run(two).status == 0);
    auto other_seed = w.train_flags("d", 5);
    other_seed.back() = "6";
    REQUIRE(w.run(other_seed).status == 0);
    const data::Bytes a = bytes_of(w.checkpoint("a"));
    REQUIRE(a.size() > 1000);
    CHECK(a == bytes_of(w.checkpoint("b")));
    CHECK(a == bytes_of(w.checkpoint("c")));
    CHECK(a != bytes_of(w.checkpoint("d")));
    CHECK(bytes_of(w.scratch / "a/model_best.safetensors") ==
          bytes_of(w.scratch / "b/model_best.safetensors"));
}

TEST_CASE("a run that stopped and was resumed ends as one that did not") {
    const Workshop w;
    w.pretrain();
    w.label();
    REQUIRE(w.run(w.train_flags("whole", 6)).status == 0);
    const data::Bytes whole = bytes_of(w.checkpoint("whole"));
    REQUIRE(data::SafeTensors::open(w.checkpoint("whole")).metadata().at("step") == "24");
    // 64 pictures, 16 crops: 8 steps a pass of 2 crops, 4 a pass of single crops
    for (const char* steps :
         {"8", "11", "16", "19"}) {  // at the end of a pass and within one, of either kind
        INFO("stopped after " << steps << " steps");
        const std::string dir = std::string("parts") + steps;
        const Ended stopped = w.run(w.train_flags(dir, 6) + words("--max-steps " + steps));
        INFO(stopped.err);
        REQUIRE(stopped.status == 0);
        REQUIRE(bytes_of(w.checkpoint(dir)) != whole);
        const Ended resumed = w.run({"train", "--resume", w.checkpoint(dir), "--dataset", "fashion-mnist",
                                     "--data", w.data, "--softlabel_path", w.scratch / "labels",
                                     "--save_checkpoint_path", w.scratch / dir, "--threads", "1"});
        INFO(resumed.err);
        REQUIRE(resumed.status == 0);
        CHECK(bytes_of(w.checkpoint(dir)) == whole);
    }
}

TEST_CASE("Ctrl-C ends a run after its step, with a checkpoint to go on from") {
    const Workshop w;
    const auto flags = [&](const std::string& name) {
        return words("pretrain") + w.flags(name) + words("--epochs 60");
    };
    REQUIRE(w.run(flags("whole")).status == 0);
    const int number = GENERATE(SIGINT, SIGTERM);
    Running running(flags("stopped"), w.scratch.path());
    REQUIRE(running.wait_for("Epoch: [3]"));
    running.signal(number);
    const Ended stopped = running.wait();
    INFO(stopped.err);
    CHECK(stopped.status == 1);
    CHECK(stopped.err.find("--resume " + w.checkpoint("stopped")) != std::string::npos);
    const auto metadata = data::SafeTensors::open(w.checkpoint("stopped")).metadata();
    CHECK(std::stoi(metadata.at("epoch")) < 60);
    const Ended resumed = w.run(flags("stopped") + words("--resume " + w.checkpoint("stopped")));
    INFO(resumed.err);
    REQUIRE(resumed.status == 0);
    CHECK(bytes_of(w.checkpoint("stopped")) == bytes_of(w.checkpoint("whole")));
}

TEST_CASE("a loss that is not finite stops the run, names layer and step, and leaves the last checkpoint") {
    const Workshop w;
    w.pretrain();
    const data::Bytes before = bytes_of(w.checkpoint("fp"));
    const Ended ended = w.run(words("pretrain") + w.flags("fp") +
                              words("--epochs 2 --lr 1e30 --resume " + w.checkpoint("fp")));
    CHECK(ended.status == 2);  // another learning rate is another run
    const Ended burst = w.run(words("pretrain") + w.flags("fp") + words("--epochs 2 --lr 1e30"));
    INFO(burst.err);
    CHECK(burst.status == 1);
    CHECK(std::regex_search(
        burst.err, std::regex("step [0-9]+: .*not finite.*(blocks|norm|head|patch_embed|embed|token)")));
    CHECK(std::count(burst.err.begin(), burst.err.end(), '\n') == 1);
    CHECK(bytes_of(w.checkpoint("fp")) == before);
}

TEST_CASE("log lines keep the published form and metrics.jsonl holds an object a line") {
    const Workshop w;
    const Ended ended = w.run(words("pretrain") + w.flags("fp") +
                              words("--epochs 2 --log " + (w.scratch / "logs/run.log")));
    REQUIRE(ended.status == 0);
    const std::string log = text_of(w.scratch / "logs/run.log");
    const std::regex line(
        "Epoch: \\[1\\]\\[ *[0-9]+/4\\]\tTime +[0-9.]+ \\( *[0-9.]+\\)\tData +[0-9.]+ \\( *[0-9.]+\\)\t"
        "Loss [0-9.e+-]+ \\([0-9.e+-]+\\)\tAcc@1 +[0-9.]+ \\( *[0-9.]+\\)\tAcc@5 +[0-9.]+ \\( *[0-9.]+\\)\t"
        "LR [0-9.]+\n");
    CHECK(std::regex_search(log, line));
    CHECK(std::regex_search(log, std::regex("\n \\* Acc@1 [0-9]+\\.[0-9]{3} Acc@5 [0-9]+\\.[0-9]{3}\n")));
    CHECK(ended.out == log);
    std::istringstream metrics(text_of(w.scratch / "logs/metrics.jsonl"));
    int train = 0, eval = 0;
    for (std::string text; std::getline(metrics, text);) {
        const auto object = nlohmann::json::parse(text);
        train += object.at("kind") == "train" && object.at("img_s").get<double>() > 0;
        eval += object.at("kind") == "eval" && object.at("acc1").get<double>() >= 0;
    }
    CHECK(train == 8);
    CHECK(eval == 2);
}

TEST_CASE("--evaluate measures what training measured, in either precision") {
    const Workshop w;
    w.pretrain();
    w.label();
    const Ended trained = w.run(w.train_flags("q", 2));
    REQUIRE(trained.status == 0);
    const auto last_accuracy = [](const std::string& out) {
        const size_t at = out.rfind(" * Acc@1");
        return at == std::string::npos ? "none" : out.substr(at, out.find('\n', at) - at);
    };
    const Words evaluate{"train",         "--evaluate", "--resume", w.checkpoint("q"), "--dataset",
                         "fashion-mnist", "--data",     w.data,     "--threads",       "1"};
    const Ended measured = w.run(evaluate);
    INFO(measured.err);
    REQUIRE(measured.status == 0);
    CHECK(last_accuracy(measured.out) == last_accuracy(trained.out));
    CHECK(last_accuracy(measured.out) != "none");
    CHECK(w.run(evaluate + words("--precision fp64")).status == 0);
    CHECK(w.run(evaluate + words("--wbits 4")).status == 2);
}

TEST_CASE("a float run in double precision, without labels, and a folder data set") {
    const Scratch scratch;
    write_folder_dataset(scratch / "data", 3, 4);
    const Words flags = {"--dataset",
                         "folder",
                         "--data",
                         scratch / "data",
                         "--model",
                         "deit_nano_patch4_28",
                         "--img-size",
                         "8",
                         "--depth",
                         "1",
                         "--embed-dim",
                         "8",
                         "--epochs",
                         "2",
                         "--warmup-epochs",
                         "1",
                         "-b",
                         "4",
                         "--threads",
                         "1",
                         "--save_checkpoint_path",
                         scratch / "out"};
    const Ended ended =
        run_vvtq(words("train") + flags + words("--precision fp64 --wbits 4 --abits 4"),
                 scratch.path());
    INFO(ended.err);
    REQUIRE(ended.status == 0);
    const auto file = data::SafeTensors::open(scratch / "out/checkpoint.safetensors");
    CHECK(file.entry("blocks.0.attn.proj_q.alpha").dtype == "F64");
    CHECK(file.entry("head.weight").shape == std::vector<int64_t>{3, 8});
}

TEST_CASE("bench step prints one line of JSON") {
    const Scratch scratch;
    const Ended ended =
        run_vvtq({"bench", "step", "--model", "deit_nano_patch4_28", "--depth", "1", "--wbits", "4",
                  "--abits", "4", "--batch-size", "2", "--reg", "--steps", "3", "--threads", "1"},
                 scratch.path());
    INFO(ended.err);
    REQUIRE(ended.status == 0);
    const auto line = nlohmann::json::parse(ended.out);
    CHECK(line.at("ms").get<double>() > 0);
    CHECK(line.at("gemm_ms").get<double>() > 0);
    CHECK(line.at("ratio").get<double>() ==
          Approx(line.at("ms").get<double>() / line.at("gemm_ms").get<double>()));
    CHECK(line.at("peak_mib").get<double>() > 0);
    CHECK(line.at("threads") == 1);
}
