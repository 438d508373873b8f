// The program as its users run it: what a run leaves must not depend on how it was run.
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <thread>

#include "data/safetensors.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

namespace {

/// A small data set and, where wanted, a teacher and its labels.
struct Workshop {
    Scratch scratch;
    std::string data = scratch / "data";
    std::string sizes;  // of the model

    explicit Workshop(const std::string& model_sizes = "--patch-size 7 --embed-dim 16 --depth 1")
        : sizes(model_sizes) {
        write_idx_dataset(data, 64, 32);
    }

    Ended run(const std::string& arguments) const { return run_vvtq(arguments, scratch.path()); }
    /// Runs to a good end.
    std::string done(const std::string& arguments) const {
        const Ended ended = run(arguments);
        INFO(arguments << "\n" << ended.err);
        REQUIRE(ended.status == 0);
        return ended.out;
    }
    std::string checkpoint(const std::string& name) const {
        return scratch / (name + "/checkpoint.safetensors");
    }

    /// Training at full precision, in the folder `name`.
    std::string pretrain(const std::string& name) const {
        return "pretrain" + tiny_flags(data, scratch / name) + sizes + " ";
    }
    /// Quantization-aware training with everything on: 8 steps a pass of 2 crops, 4 a pass of single crops.
    std::string train(const std::string& name) const {
        return "train --wbits 2 --abits 3 --reg --num_crops 2 --lr 1e-3 --finetune " + checkpoint("fp") +
               " --softlabel_path " + scratch / "labels" + tiny_flags(data, scratch / name);
    }
    void make_labels() const {
        done(pretrain("fp") + "--epochs 1 --no-aug");
        done(
            "softlabel --crops-per-image 6 --min-crop-area 0.5 --threads 1 -b 50 --dataset fashion-mnist "
            "--data " +
            data + " --teacher " + checkpoint("fp") + " --softlabel_path " + scratch / "labels");
    }
};

}  // namespace

TEST_CASE("equal runs leave equal checkpoints, whatever the number of threads and workers") {
    const Workshop w("--depth 2");  // wide enough for kernels to share a tensor between threads
    w.make_labels();
    w.done(w.train("a") + "--epochs 3 --seed 5");
    w.done(w.train("b") + "--epochs 3 --seed 5");
    w.done(w.train("c") + "--epochs 3 --seed 5 --threads 2 -j 3");
    w.done(w.train("d") + "--epochs 3 --seed 6");
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
    w.make_labels();
    w.done(w.train("whole") + "--epochs 6 --seed 5");
    const data::Bytes whole = bytes_of(w.checkpoint("whole"));
    REQUIRE(data::SafeTensors::open(w.checkpoint("whole")).metadata().at("step") == "24");
    for (const char* steps :
         {"8", "11", "20", "22"}) {  // at the end of a pass and within one, of either kind
        INFO("stopped after " << steps << " steps");
        const std::string dir = std::string("parts") + steps;
        w.done(w.train(dir) + "--epochs 6 --seed 5 --max-steps " + steps);
        REQUIRE(data::SafeTensors::open(w.checkpoint(dir)).metadata().at("step") == steps);
        // Flags that the checkpoint knows need not be repeated.
        w.done("train --threads 1 --resume " + w.checkpoint(dir) + " --softlabel_path " +
               w.scratch / "labels" + " --dataset fashion-mnist --data " + w.data +
               " --save_checkpoint_path " + w.scratch / dir);
        CHECK(bytes_of(w.checkpoint(dir)) == whole);
    }
}

TEST_CASE("Ctrl-C ends a run after its step, with a checkpoint to go on from") {
    const Workshop w;
    w.done(w.pretrain("whole") + "--epochs 60");
    const std::pair<int, const char*> cases[] = {{SIGINT, "Epoch: [3]"},
                                                 {SIGTERM, "Test: ["}};  // signal, when
    for (const auto& [number, moment] : cases) {
        const std::string dir = number == SIGINT ? "int" : "term";
        Running running(w.pretrain(dir) + "--epochs 60", w.scratch.path());
        REQUIRE(running.wait_for(moment));
        running.signal(number);
        const Ended stopped = running.wait();
        INFO(stopped.err);
        CHECK(stopped.status == 1);
        CHECK(stopped.err.find("--resume " + w.checkpoint(dir)) != std::string::npos);
        CHECK(std::stoi(data::SafeTensors::open(w.checkpoint(dir)).metadata().at("epoch")) < 60);
        w.done(w.pretrain(dir) + "--epochs 60 --resume " + w.checkpoint(dir));
        CHECK(bytes_of(w.checkpoint(dir)) == bytes_of(w.checkpoint("whole")));
    }
}

TEST_CASE("a loss that is not finite stops the run, names layer and step, and leaves the last checkpoint") {
    const Workshop w;
    w.done(w.pretrain("fp") + "--epochs 1");
    const data::Bytes before = bytes_of(w.checkpoint("fp"));
    const Ended ended = w.run(w.pretrain("fp") + "--epochs 2 --lr 1e30");
    INFO(ended.err);
    CHECK(ended.status == 1);
    const std::regex message(
        "epoch 0, step [0-9]+: .*not finite.*(blocks|norm|head|patch_embed|embed|token)");
    CHECK(std::regex_search(ended.err, message));
    CHECK(ended.err.find("a smaller --lr may help") != std::string::npos);
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
    CHECK(bytes_of(w.checkpoint("fp")) == before);
}

TEST_CASE("log lines keep the published form and metrics.jsonl holds an object a line") {
    const Workshop w;
    const std::string out = w.done(w.pretrain("fp") + "--epochs 2 --log " + w.scratch / "logs/run.log");
    const std::string log = text_of(w.scratch / "logs/run.log");
    const std::regex line(
        "Epoch: \\[1\\]\\[ *[0-9]+/4\\]\tTime +[0-9.]+ \\( *[0-9.]+\\)\tData +[0-9.]+ \\( *[0-9.]+\\)\t"
        "Loss [0-9.e+-]+ \\([0-9.e+-]+\\)\tAcc@1 +[0-9.]+ \\( *[0-9.]+\\)\tAcc@5 +[0-9.]+ \\( *[0-9.]+\\)\t"
        "LR [0-9.]+\n");
    CHECK(std::regex_search(log, line));
    CHECK(std::regex_search(log, std::regex("\n \\* Acc@1 [0-9]+\\.[0-9]{3} Acc@5 [0-9]+\\.[0-9]{3}\n")));
    CHECK(out == log);
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

TEST_CASE("train --evaluate measures what training measured, in either precision") {
    const auto last_accuracy = [](const std::string& out) {
        const size_t at = out.rfind(" * Acc@1");
        return at == std::string::npos ? "none" : out.substr(at, out.find('\n', at) - at);
    };
    const Workshop w;
    w.make_labels();
    const std::string trained = w.done(w.train("q") + "--epochs 2");
    const std::string evaluate = "train --evaluate --threads 1 --dataset fashion-mnist --data " + w.data +
                                 " --resume " + w.checkpoint("q");
    const std::string measured = w.done(evaluate);
    CHECK(last_accuracy(measured) == last_accuracy(trained));
    CHECK(last_accuracy(measured) != "none");
    w.done(evaluate + " --precision fp64");
    for (const std::string precision : {"fp32", "int8"}) {
        CHECK(last_accuracy(w.done(evaluate + " --precision " + precision)) == last_accuracy(trained));
    }
    const Ended again = w.run("train --evaluate --dataset fashion-mnist --data " + w.data + " --finetune " +
                              w.checkpoint("q"));
    CHECK(again.status == 2);
    CHECK(again.err.find("--finetune: " + w.checkpoint("q") + " is quantized; use --resume") !=
          std::string::npos);
    // Neither the training pictures nor the labels are needed.
    fs::remove(w.data + "/train-images-idx3-ubyte");
    CHECK(last_accuracy(w.done(evaluate + " --num_crops 4 --softlabel_path none")) == last_accuracy(trained));
    CHECK(w.run(evaluate + " --wbits 4").status == 2);
}

TEST_CASE("a run resumed into another folder leaves both files there") {
    const Workshop w;
    w.done(w.pretrain("a") + "--epochs 2");
    const data::Bytes end = bytes_of(w.checkpoint("a")),
                      best = bytes_of(w.scratch / "a/model_best.safetensors");
    REQUIRE(best.size() > 1000);
    const std::string resume = "--epochs 2 --resume " + w.checkpoint("a");
    w.done(w.pretrain("b") + resume);  // nothing is left to do
    CHECK(bytes_of(w.checkpoint("b")) == end);
    CHECK(bytes_of(w.scratch / "b/model_best.safetensors") == best);
    fs::remove(w.scratch / "a/model_best.safetensors");
    CHECK(w.done(w.pretrain("c") + resume).find("does not lie beside") != std::string::npos);
    CHECK(bytes_of(w.checkpoint("c")) == end);
    CHECK_FALSE(fs::exists(w.scratch / "c/model_best.safetensors"));
}

TEST_CASE("a run that starts anew in a used folder leaves no best model of the earlier one") {
    const Workshop w;
    w.done(w.pretrain("a") + "--epochs 1");
    REQUIRE(fs::exists(w.scratch / "a/model_best.safetensors"));
    const data::Bytes before = bytes_of(w.checkpoint("a"));
    w.done(w.pretrain("a") + "--epochs 1 --max-steps 1");
    CHECK(bytes_of(w.checkpoint("a")) != before);
    CHECK_FALSE(fs::exists(w.scratch / "a/model_best.safetensors"));
}

TEST_CASE("a folder of pictures is trained on in double precision, without labels") {
    const Scratch scratch;
    write_folder_dataset(scratch / "data", 3, 4);
    const Ended ended = run_vvtq(
        "train --model deit_nano_patch4_28 --img-size 8 --depth 1 --embed-dim 8 --epochs 2 "
        "--warmup-epochs 1 -b 4 --threads 1 --precision fp64 --wbits 4 --abits 4 --data " +
            scratch / "data" + " --save_checkpoint_path " + scratch / "out",
        scratch.path());
    INFO(ended.err);
    REQUIRE(ended.status == 0);
    const auto file = data::SafeTensors::open(scratch / "out/checkpoint.safetensors");
    CHECK(file.entry("blocks.0.attn.proj_q.alpha").dtype == "F64");
    CHECK(file.entry("head.weight").shape == std::vector<int64_t>{3, 8});
}

TEST_CASE("Ctrl-C ends a measurement with one line") {
    const Scratch scratch;
    Running running("bench step --model deit_nano_patch4_28 --batch-size 2 --steps 100000 --threads 1",
                    scratch.path());
    std::this_thread::sleep_for(std::chrono::seconds(1));
    running.signal(SIGINT);
    const Ended stopped = running.wait();
    INFO(stopped.err);
    CHECK(stopped.status == 1);
    CHECK(stopped.out.empty());
    CHECK(std::regex_match(stopped.err, std::regex("vvtq bench step: stopped by SIGINT after [0-9]+ .*\n")));
}

TEST_CASE("bench step prints one line of JSON") {
    const Scratch scratch;
    const Ended ended = run_vvtq(
        "bench step --model deit_nano_patch4_28 --depth 1 --wbits 4 --abits 4 --batch-size 2 "
        "--reg --steps 3 --threads 2",
        scratch.path());
    INFO(ended.err);
    REQUIRE(ended.status == 0);
    const auto line = nlohmann::json::parse(ended.out);
    CHECK(line.at("ms").get<double>() > 0);
    CHECK(line.at("gemm_ms").get<double>() > 0);
    CHECK(line.at("ratio").get<double>() ==
          Approx(line.at("ms").get<double>() / line.at("gemm_ms").get<double>()));
    CHECK(line.at("peak_mib").get<double>() > 0);
    CHECK(line.at("threads") == 2);
}

TEST_CASE("the log begins with model, bits and data, and warns of what is probably not meant") {
    const Workshop w;
    const auto holds = [](const std::string& out, const std::string& part) {
        INFO(part << " in\n" << out);
        CHECK(out.find(part) != std::string::npos);
    };
    const std::string trained = w.done("train --wbits 4 --abits 3 --reg" +
                                       tiny_flags(w.data, w.scratch / "q") + w.sizes + " --epochs 1");
    holds(trained, "=> model deit_nano_patch4_28_quant, ");
    holds(trained, " parameters, W4A3 with the bin regularizer\n");
    holds(trained, "=> data " + w.data + ": 64 training images, 32 evaluation images, 10 classes\n");
    CHECK_FALSE(std::regex_search(trained, std::regex("=> warning: (?!step)")));
    const std::string careless =
        w.done("train" + tiny_flags(w.data, w.scratch / "float") + w.sizes + " --epochs 2 --warmup-epochs 2");
    holds(careless, "=> warning: only the first and the last layer are quantized");
    holds(careless, "W32A32\n");
    holds(careless, "=> warning: --warmup-epochs 2 is not below --epochs 2");
    holds(text_of(w.scratch / "float/train.log"), "=> warning: --warmup-epochs 2");
}

TEST_CASE("a model is not measured on other classes without a warning") {
    const Scratch scratch;
    write_folder_dataset(scratch / "own", 3, 4);
    write_folder_dataset(scratch / "other", 3, 4);
    for (const char* split : {"train", "val"}) {
        fs::rename(scratch / "other/" + split + "/class1", scratch / "other/" + split + "/class1b");
    }
    const auto done = [&](const std::string& arguments) {
        const Ended ended = run_vvtq(arguments, scratch.path());
        INFO(arguments << "\n" << ended.err);
        REQUIRE(ended.status == 0);
        return ended.out;
    };
    done(
        "pretrain --model deit_nano_patch4_28 --img-size 8 --embed-dim 16 --depth 1 --epochs 1 "
        "--warmup-epochs 0 -b 4 --threads 1 --dataset folder --data " +
        scratch / "own" + " --save_checkpoint_path " + scratch / "fp");
    const std::string checkpoint = scratch / "fp/checkpoint.safetensors";
    const std::string evaluate =
        "train --evaluate --resume " + checkpoint + " --threads 1 --data " + scratch.path();
    CHECK(done(evaluate + "/own").find("warning") == std::string::npos);
    const std::string warning = checkpoint + " was trained for other classes";
    const std::string other = done(evaluate + "/other");
    CHECK(other.find(warning) != std::string::npos);
    CHECK(other.find("class 1 is 'class1' there and 'class1b' here") != std::string::npos);
    CHECK(done("softlabel --soft_label_type ori --threads 1 --teacher " + checkpoint + " --data " +
               scratch / "other" + " --softlabel_path " + scratch / "labels")
              .find(warning) != std::string::npos);
}

TEST_CASE("quickstart refuses a wrong flag before it trains") {
    const Scratch scratch;
    const std::string command = "VVTQ='" VVTQ_BINARY "' '" VVTQ_SOURCE_DIR
                                "/scripts/quickstart' --short --sead 1 >" +
                                scratch / "out" + " 2>" + scratch / "err";
    const int status = std::system(command.c_str());
    CHECK(WEXITSTATUS(status) == 2);
    CHECK(text_of(scratch / "out").empty());
    CHECK(text_of(scratch / "err").find("--sead: unknown flag; the nearest is --seed") != std::string::npos);
}
