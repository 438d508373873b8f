// The program on folders of pictures: the whole way to two bits, labels in either form, and bad pictures.
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/fkd_labels.h"
#include "data/safetensors.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/jpeg_writer.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

namespace {

constexpr const char* kModel =
    " --model deit_nano_patch4_28_quant --img-size 32 --patch-size 8 --embed-dim 32 --depth 2 --num-heads 2"
    " --warmup-epochs 0 -b 40 -p 1000 ";

double last_accuracy(const std::string& out) {
    const size_t at = out.rfind(" * Acc@1 ");
    return at == std::string::npos ? -1.0 : std::stod(out.substr(at + 9));
}

/// Small pictures in the folders of CIFAR-10, and the program run on them.
struct Cifar {
    Scratch scratch;
    std::string data = " --threads 1 --dataset cifar10 --data " + scratch / "cifar";

    explicit Cifar(int train = 16, int test = 4) { write_cifar_like(scratch / "cifar", train, test); }

    Ended run(const std::string& arguments) const { return run_vvtq(arguments + data, scratch.path()); }
    std::string done(const std::string& arguments) const {
        const Ended ended = run(arguments);
        INFO(arguments << "\n" << ended.err);
        REQUIRE(ended.status == 0);
        return ended.out;
    }
    std::string checkpoint(const std::string& name) const {
        return scratch / (name + "/checkpoint.safetensors");
    }
    void pretrain(int epochs) const {
        done("pretrain --lr 2e-3 --epochs " + std::to_string(epochs) + kModel + "--save_checkpoint_path " +
             scratch / "fp");
    }
    std::string softlabel(const std::string& name, const std::string& more = "") const {
        const std::string area =
            more.find("--reference_path") == std::string::npos ? "--min-crop-area 0.5 " : "";
        return "softlabel --crops-per-image 6 --soft_label_type marginal_smoothing_k5 -b 50 " + area + more +
               " --teacher " + checkpoint("fp") + " --softlabel_path " + scratch / name;
    }
};

}  // namespace

TEST_CASE("folders of pictures: pretrain, softlabel, and train at two bits with the regularizer") {
    const Cifar cifar;
    // The recipe's augmentations, as strong as these few pictures bear.
    cifar.done(
        "pretrain --lr 3e-3 --epochs 240 --aa rand-m3-mstd0.5-inc1 --reprob 0.1 --mixup 0.2 --cutmix 0.2 "
        "--mixup-prob 0.3 --repeated-aug --train-interpolation random --scale 0.8 1.0 --hflip 0" +
        std::string(kModel) + "--save_checkpoint_path " + cifar.scratch / "fp");
    const std::string measured = cifar.done("train --evaluate --resume " + cifar.checkpoint("fp"));
    INFO(measured);
    CHECK(last_accuracy(measured) > 60.0);  // of ten classes; seeds 0 to 7: 92.5 to 100
    cifar.done(cifar.softlabel("labels", "--form tree --hflip 0"));
    const std::string trained =
        cifar.done("train --wbits 2 --abits 2 --reg --num_crops 2 --lr 1e-3 --epochs 16 --finetune " +
                   cifar.checkpoint("fp") + kModel + " --softlabel_path " + cifar.scratch / "labels" +
                   " --save_checkpoint_path " + cifar.scratch / "w2a2");
    INFO(trained);
    CHECK(last_accuracy(trained) > 40.0);
    const auto file = data::SafeTensors::open(cifar.checkpoint("w2a2"));
    CHECK(file.contains("blocks.0.attn.proj_q.alpha"));
}

TEST_CASE("labels in a tree and in a packed file are the same, and train the same") {
    const Cifar cifar(5, 2);
    cifar.pretrain(1);
    cifar.done(cifar.softlabel("packed"));
    cifar.done(cifar.softlabel("tree", "--form tree"));
    const std::string pack = "softlabel --pack " + cifar.scratch / "tree" + " --softlabel_path ";
    cifar.done(pack + cifar.scratch / "matched");
    // Without --data the pack is known by its names alone.
    REQUIRE(run_vvtq(pack + cifar.scratch / "named", cifar.scratch.path()).status == 0);
    REQUIRE(run_vvtq("softlabel --unpack " + cifar.scratch / "packed" + " --softlabel_path " +
                         cifar.scratch / "unpacked",
                     cifar.scratch.path())
                .status == 0);
    for (const std::string& name : data::list_fkd(cifar.scratch / "tree")) {
        CHECK(bytes_of(cifar.scratch / ("tree/" + name + ".tar")) ==
              bytes_of(cifar.scratch / ("unpacked/" + name + ".tar")));
    }
    // A second teacher on the first one's crops says the same if it is the first one.
    cifar.done(cifar.softlabel("again", "--seed 9 --reference_path " + cifar.scratch / "tree --form tree"));
    CHECK(bytes_of(cifar.scratch / "again/cifar/train/class3/1002.tar") ==
          bytes_of(cifar.scratch / "tree/cifar/train/class3/1002.tar"));
    std::string first;
    for (const char* name : {"packed", "tree", "matched", "named", "unpacked"}) {
        INFO(name);
        cifar.done("train --wbits 4 --abits 4 --num_crops 2 --epochs 3 --finetune " + cifar.checkpoint("fp") +
                   kModel + "-j 3 --softlabel_path " + cifar.scratch / name + " --save_checkpoint_path " +
                   cifar.scratch / ("run_" + std::string(name)));
        const auto file = data::SafeTensors::open(cifar.checkpoint("run_" + std::string(name)));
        const auto bytes = file.bytes("blocks.0.mlp.fc1.weight");
        const std::string weights(bytes.begin(), bytes.end());
        if (first.empty()) first = weights;
        CHECK(weights == first);
    }
}

TEST_CASE("softlabel goes on where it was stopped and ends in the same file") {
    const Cifar cifar(40, 1);
    cifar.pretrain(1);
    cifar.done(cifar.softlabel("whole"));
    const data::Bytes whole = bytes_of(cifar.scratch / "whole");
    for (const bool tree : {false, true}) {
        const std::string name = tree ? "tree" : "parts";
        const std::string command = cifar.softlabel(name, tree ? "--form tree -b 20" : "-b 50");
        int runs = 0;
        Ended ended;
        do {
            Running running(command + cifar.data, cifar.scratch.path());
            REQUIRE(running.wait_for("Label: "));
            if (runs < 2) running.signal(SIGINT);
            ended = running.wait();
            ++runs;
        } while (ended.status == 1 && runs < 10);
        INFO(ended.err);
        CHECK(ended.status == 0);
        CHECK(runs > 1);
        CHECK(ended.out.find("=> going on after the first ") != std::string::npos);
        CHECK(ended.out.find("=> labelled 6 crops of each of 400 pictures") != std::string::npos);
    }
    CHECK(bytes_of(cifar.scratch / "parts") == whole);
    cifar.done("softlabel --pack " + cifar.scratch / "tree --softlabel_path " + cifar.scratch / "packed");
    CHECK(bytes_of(cifar.scratch / "packed").size() == whole.size());
}

TEST_CASE("bad pictures and labels: exit 2 with the path, or left out and counted") {
    const Cifar cifar(5, 2);
    cifar.pretrain(1);
    cifar.done(cifar.softlabel("tree", "--form tree"));
    const std::string picture = cifar.scratch / "cifar/train/class4/1001.jpg";
    const std::string label = cifar.scratch / "tree/cifar/train/class4/1001.tar";
    const std::string train = "train --wbits 4 --abits 4 --num_crops 2 --epochs 4 --finetune " +
                              cifar.checkpoint("fp") + kModel + " --softlabel_path " +
                              cifar.scratch / "tree" + " --save_checkpoint_path " + cifar.scratch / "q ";
    const auto refused = [&](const std::string& arguments, const std::string& name) {
        const Ended ended = cifar.run(arguments);
        INFO(ended.err);
        CHECK(ended.status == 2);
        CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
        CHECK(ended.err.find(name) != std::string::npos);
    };
    const data::Bytes whole_label = bytes_of(label), whole_picture = bytes_of(picture);
    fs::resize_file(label, whole_label.size() / 2);
    refused(train, label);
    fs::remove(label);
    refused(train, label);
    write_bytes(label, whole_label);
    fs::resize_file(picture, whole_picture.size() / 2);
    const std::string pretrain = "pretrain --epochs 2" + std::string(kModel) + "--save_checkpoint_path " +
                                 cifar.scratch / "fp2 -b 50 ";
    refused(pretrain, picture);
    const Ended skipped = cifar.run(pretrain + "--on-bad-image skip");
    INFO(skipped.err);
    CHECK(skipped.status == 0);
    CHECK(skipped.err.find("left out 1 picture of '" + cifar.scratch / "cifar/train") != std::string::npos);
    CHECK(skipped.err.find(picture) != std::string::npos);
    refused(pretrain + "--on-bad-image ignore", "--on-bad-image");
    // A label file holds no labels of the picture that was left out, and training leaves it out too.
    cifar.done(cifar.softlabel("fewer", "--on-bad-image skip"));
    const Ended fewer = cifar.run(train + "--on-bad-image skip --softlabel_path " + cifar.scratch / "fewer");
    INFO(fewer.err);
    CHECK(fewer.status == 0);
    write_bytes(picture, whole_picture);
    fs::remove_all(cifar.scratch / "cifar/train/class4");
    fs::create_directories(cifar.scratch / "cifar/train/class4");
    refused(pretrain, cifar.scratch / "cifar/train/class4");
}

TEST_CASE("bench loader prints one line of JSON") {
    const Scratch scratch;
    write_cifar_like(scratch / "cifar", 2, 1);
    for (const int crops : {1, 4}) {
        const Ended ended =
            run_vvtq("bench loader " + scratch / "cifar" + " --img-size 32 -b 16 --seconds 0.2 --crops " +
                         std::to_string(crops),
                     scratch.path());
        INFO(ended.err);
        REQUIRE(ended.status == 0);
        const auto line = nlohmann::json::parse(ended.out);
        CHECK(line.at("crops") == crops);
        CHECK(line.at("pictures") == 20);
        CHECK(line.at("crops_s").get<double>() > 0);
        CHECK(line.at("pictures_s").get<double>() == Approx(line.at("crops_s").get<double>() / crops));
        CHECK(line.at("jpeg_share").get<double>() >= 0);
        CHECK(line.at("jpeg_share").get<double>() < 1);
    }
    const Ended ended = run_vvtq("bench loader " + scratch / "absent", scratch.path());
    CHECK(ended.status == 2);
    CHECK(ended.err.find(scratch / "absent") != std::string::npos);
}
