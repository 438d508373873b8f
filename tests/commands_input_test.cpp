// Bad usage and bad input: exit status 2 and one line that names the file or flag.
#include <cstring>
#include <filesystem>

#include "data/safetensors.h"
#include "engine/device.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;
namespace fs = std::filesystem;

namespace {

constexpr const char* kSmall = " --patch-size 7 --embed-dim 16 --depth 1 --epochs 1 ";

/// Runs the program and checks that it refuses with one line that holds every one of `names`.
void refused(const Scratch& scratch, const std::string& arguments, const std::vector<std::string>& names) {
    const Ended ended = run_vvtq(arguments, scratch.path());
    INFO(arguments << "\n" << ended.err);
    CHECK(ended.status == 2);
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
    for (const std::string& name : names) {
        INFO(name);
        CHECK(ended.err.find(name) != std::string::npos);
    }
}

std::string pretrain_on(const Scratch& scratch, const std::string& kind, const std::string& dir) {
    return "pretrain --model deit_nano_patch4_28 --epochs 1 -b 3 --threads 1 --dataset " + kind + " --data " +
           scratch / dir + " --save_checkpoint_path " + scratch / "out";
}

void truncate_file(const std::string& path, double share) {
    fs::resize_file(path, static_cast<uintmax_t>(static_cast<double>(fs::file_size(path)) * share));
}

}  // namespace

TEST_CASE("bad usage is refused with the flag's name") {
    const Scratch scratch;
    refused(scratch, "train --no-such-flag", {"vvtq train: error:", "--no-such-flag", "--help"});
    refused(scratch, "trian", {"trian", "train"});
    refused(scratch, "", {"--help"});
    refused(scratch, "bench", {"--help"});
    refused(scratch, "train --lr fast", {"--lr"});
    refused(scratch, "train --lr nan", {"--lr"});
    refused(scratch, "train --batch-size 0", {"--batch-size"});
    refused(scratch, "train --mixpre", {"--mixpre"});
    refused(scratch, "train --opt sgd", {"--opt", "adamw"});
    refused(scratch, "train --precision fp16", {"--precision", "bf16", "fp32"});
    refused(scratch, "train --device cpu --precision bf16", {"--precision", "bf16", "fp32"});
    for (const std::string command : {"train", "pretrain", "bench step", "bench op",
                                      "softlabel --teacher t "
                                      "--softlabel_path l"}) {
        refused(scratch, command + " --device cpu --precision int8", {"--precision", "int8", "fp32"});
    }
    refused(scratch, "bench step --evaluate --device cpu --precision int8", {"--precision", "quantized"});
    refused(scratch, "train --device cpu --gpu 0", {"--gpu", "--device cpu"});
    if (!engine::is_available(engine::Device::cuda)) {
        refused(scratch, "train --device cuda", {"--device", "cpu"});
    }
    refused(scratch, "train --evaluate", {"--evaluate", "--resume"});
    refused(scratch, "train --num_crops 4", {"--num_crops", "--softlabel_path"});
    refused(scratch, "train --config " + scratch / "none.ini", {"--config", "none.ini"});
    refused(scratch, "softlabel", {"--teacher"});
    refused(scratch, "bench step --model resnet50", {"resnet50", "deit_tiny_patch16_224"});
    refused(scratch, "bench step --wbits 9", {"--wbits"});
    refused(scratch, "bench step --patch-size 15", {"--patch-size"});
    refused(scratch, "train --bacth-size 8", {"--bacth-size", "the nearest is --batch-size"});
    refused(scratch, "train --softlabel-pth x", {"the nearest is --softlabel_path"});
    refused(scratch, "softlabel one two three", {"not understood: one two three"});
    refused(scratch, "train --reg", {"--reg", "--wbits"});
}

TEST_CASE("missing and damaged data sets are refused with the path") {
    const Scratch scratch;
    refused(scratch, pretrain_on(scratch, "imagenet", "x"), {"imagenet", "folder"});
    refused(scratch, pretrain_on(scratch, "folder", "missing"), {scratch / "missing"});
    fs::create_directories(scratch / "empty");
    refused(scratch, pretrain_on(scratch, "folder", "empty"), {scratch / "empty"});
    write_folder_dataset(scratch / "hole", 2, 4);
    fs::remove_all(scratch / "hole/train/class1");
    fs::create_directories(scratch / "hole/train/class1");
    refused(scratch, pretrain_on(scratch, "folder", "hole"), {scratch / "hole/train/class1"});

    write_idx_dataset(scratch / "idx", 16, 16);
    truncate_file(scratch / "idx/train-images-idx3-ubyte", 0.7);
    refused(scratch, pretrain_on(scratch, "fashion-mnist", "idx"), {"train-images-idx3-ubyte", "truncated"});
    const std::string gz = "/usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz";
    if (fs::exists(gz)) {
        write_idx_dataset(scratch / "gz", 16, 16);
        fs::remove(scratch / "gz/train-labels-idx1-ubyte");
        fs::copy_file(gz, scratch / "gz/train-labels-idx1-ubyte.gz");
        truncate_file(scratch / "gz/train-labels-idx1-ubyte.gz", 0.5);
        refused(scratch, pretrain_on(scratch, "fashion-mnist", "gz"),
                {"train-labels-idx1-ubyte.gz", "truncated"});
    }
    CHECK_FALSE(fs::exists(scratch / "out/checkpoint.safetensors"));
    for (const char* picture : {"picture.png", "picture_q75_s0.jpg"}) {
        const std::string dir = std::string("cut_") + picture;
        write_folder_dataset(scratch / dir, 2, 4);
        const std::string cut =
            scratch / (dir + "/train/class1/cut" + fs::path(picture).extension().string());
        fs::copy_file(fixture_path(picture), cut);
        truncate_file(cut, 0.5);
        refused(scratch, pretrain_on(scratch, "folder", dir), {cut});
    }
}

TEST_CASE("checkpoints that do not fit are refused with the names") {
    const Scratch scratch;
    write_idx_dataset(scratch / "data", 32, 16);
    const std::string pretrain = "pretrain" + tiny_flags(scratch / "data", scratch / "fp") + kSmall;
    REQUIRE(run_vvtq(pretrain, scratch.path()).status == 0);
    const std::string checkpoint = scratch / "fp/checkpoint.safetensors";
    const std::string train = "train --epochs 1" + tiny_flags(scratch / "data", scratch / "q");

    refused(scratch, train + "--finetune " + scratch / "none.safetensors", {"none.safetensors"});
    fs::copy_file(checkpoint, scratch / "cut.safetensors");
    truncate_file(scratch / "cut.safetensors", 0.9);
    refused(scratch, train + "--finetune " + scratch / "cut.safetensors", {"cut.safetensors"});
    refused(scratch, train + "--finetune " + checkpoint + " --depth 3",
            {"--depth 3 (there 1)", checkpoint, "blocks.1.mlp.fc1.weight is missing"});
    refused(scratch, train + "--finetune " + checkpoint + " --wbits 9", {"--wbits 9"});
    refused(scratch, train + "--finetune " + checkpoint + " -b 100", {"--batch-size", "32"});
    refused(scratch, train + "--finetune " + checkpoint + " --start-epoch 1", {"--start-epoch"});
    refused(scratch, train + "--resume " + checkpoint, {"--resume", "pretrain", "--finetune"});
    refused(scratch, pretrain + "--resume " + checkpoint + " --lr 0.5 --seed 7",
            {"--lr", "--seed", checkpoint});
    refused(scratch, pretrain + "--resume " + checkpoint + " --start-epoch 0", {"--start-epoch"});

    // The same tensors without a record of their model, one left out and one of another shape.
    const auto file = data::SafeTensors::open(checkpoint);
    std::vector<data::TensorBytes> tensors;
    const std::vector<uint8_t> short_bias(12);
    for (const auto& [name, entry] : file.entries()) {
        if (name == "head.bias") {
            tensors.push_back({name, "F32", {3}, short_bias});
        } else if (name != "norm.bias" && !name.starts_with("optimizer.")) {
            tensors.push_back({name, entry.dtype, entry.shape, file.bytes(name)});
        }
    }
    data::write_safetensors(scratch / "odd.safetensors", tensors, {});
    refused(scratch, train + kSmall + "--finetune " + scratch / "odd.safetensors",
            {"odd.safetensors", "missing: norm.bias", "head.bias (3)"});
    CHECK_FALSE(fs::exists(scratch / "q"));  // bad input leaves nothing behind
}

TEST_CASE("labels and classes that do not fit are refused") {
    const Scratch scratch;
    write_idx_dataset(scratch / "data", 32, 16);
    write_idx_dataset(scratch / "other", 48, 16);
    write_folder_dataset(scratch / "three", 3, 8);
    REQUIRE(
        run_vvtq("pretrain" + tiny_flags(scratch / "data", scratch / "fp") + kSmall, scratch.path()).status ==
        0);
    const std::string checkpoint = scratch / "fp/checkpoint.safetensors";
    const std::string labels = scratch / "labels";
    const std::string label = "softlabel --crops-per-image 4 --threads 1 --teacher " + checkpoint +
                              " --softlabel_path " + labels + " --data " + scratch.path() + "/";
    refused(scratch, label + "three --soft_label_type hard", {checkpoint, "10 classes", "3"});
    refused(scratch, label + "data --dataset fashion-mnist --soft_label_type soft", {"soft"});
    CHECK_FALSE(fs::exists(labels));
    REQUIRE(run_vvtq(label + "data --dataset fashion-mnist", scratch.path()).status == 0);

    const std::string train = "train --epochs 1 --finetune " + checkpoint + " --softlabel_path " + labels;
    const std::string on_data = train + tiny_flags(scratch / "data", scratch / "q");
    refused(scratch, train + tiny_flags(scratch / "other", scratch / "q"), {labels});
    refused(scratch, on_data + "--num_classes 7", {"--num_classes"});
    refused(scratch, on_data + "--num_crops 5", {"--num_crops", labels});
    refused(scratch, on_data + "--num_crops 4 --soft_label_type hard", {"--soft_label_type", labels});
    const std::string stop = on_data +
                             "--num_crops 2 --wbits 4 --abits 4 --max-steps 1 --save_checkpoint_path " +
                             scratch / "part ";
    REQUIRE(run_vvtq(stop, scratch.path()).status == 0);
    const data::Bytes original = bytes_of(labels);
    fs::remove(labels);
    REQUIRE(run_vvtq(label + "data --dataset fashion-mnist --seed 1", scratch.path()).status == 0);
    refused(scratch, stop + "--resume " + scratch / "part/checkpoint.safetensors",
            {"--softlabel_path", "with another label file"});
    write_bytes(labels, original);
    refused(scratch,
            "train --epochs 1 " + tiny_flags(scratch / "data", scratch / "part") +
                "--wbits 4 --abits 4 --max-steps 1 --resume " + scratch / "part/checkpoint.safetensors",
            {"--softlabel_path", "missing"});
    CHECK(run_vvtq(stop + "--resume " + scratch / "part/checkpoint.safetensors", scratch.path()).status == 0);
    data::Bytes bytes = bytes_of(labels);
    const float outside = 1.5F;
    REQUIRE(bytes.size() > 136);
    std::memcpy(bytes.data() + 132, &outside, sizeof outside);  // the first crop's top
    write_bytes(labels, bytes);
    refused(scratch, on_data, {labels, "picture 0: record 0 (", "is damaged"});
    bytes.resize(bytes.size() / 2);
    write_bytes(labels, bytes);
    refused(scratch, on_data, {labels, "truncated"});
    CHECK_FALSE(fs::exists(scratch / "q/checkpoint.safetensors"));
}

TEST_CASE("where no evaluation picture can be read and all are left out, the run ends well", "[bad-input]") {
    const Scratch scratch;
    write_folder_dataset(scratch / "data", 3, 4);
    for (const auto& entry : fs::recursive_directory_iterator(scratch / "data/val")) {
        if (entry.is_regular_file()) fs::resize_file(entry.path(), 4);
    }
    const Ended ended = run_vvtq(
        pretrain_on(scratch, "folder", "data") + " --device cpu --warmup-epochs 0 --on-bad-image skip",
        scratch.path());
    INFO(ended.err);
    CHECK(ended.status == 0);
    CHECK(ended.out.find("=> done: ") != std::string::npos);
}
