// The program on packed folders: trained, predicted and labelled as from the folders they were made of.
#include <filesystem>

#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/jpeg_writer.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

TEST_CASE("vvtq pack: shards train as their folder does, and unpack to it") {
    const Scratch scratch;
    // Packed labels hold the last name of the folder.
    const std::string tree = scratch / "folder/data", packed = scratch / "shards/data";
    write_cifar_like(tree, 6, 2);
    const auto done = [&](const std::string& arguments) {
        const Ended ended = run_vvtq(arguments, scratch.path());
        INFO(arguments << "\n" << ended.err);
        REQUIRE(ended.status == 0);
        return ended.out;
    };
    CHECK(done("pack " + tree + " " + packed).find("=> 80 pictures in 2 shards") != std::string::npos);
    const auto train = [&](const std::string& data, const std::string& run) {
        done("pretrain --threads 1 --dataset cifar10 --data " + data +
             " --model deit_nano_patch4_28_quant --img-size 32 --patch-size 8 --embed-dim 32 --depth 2"
             " --num-heads 2 --warmup-epochs 0 -b 20 -p 1000 --epochs 2 --lr 1e-3 --save_checkpoint_path " +
             scratch / run);
        return scratch / run + "/checkpoint.safetensors";
    };
    const std::string of_folder = train(tree, "a"), of_shards = train(packed, "b");
    CHECK(bytes_of(of_folder) == bytes_of(of_shards));
    // A run goes on from the other form.
    done("pretrain --threads 1 --dataset cifar10 --data " + tree + " --resume " + of_shards +
         " --epochs 3 --save_checkpoint_path " + scratch / "c");
    const std::string predicted = done("predict " + of_folder + " " + tree + "/test");
    std::string expected = predicted;
    for (size_t at = 0; (at = expected.find(tree, at)) != std::string::npos; at += packed.size()) {
        expected.replace(at, tree.size(), packed);
    }
    CHECK(done("predict " + of_folder + " " + packed + "/test") == expected);
    const std::string label = "softlabel --threads 1 --dataset cifar10 --crops-per-image 2 --teacher " +
                              of_folder + " --softlabel_path " + scratch / "labels" + " --data ";
    done(label + tree);
    const data::Bytes labels = bytes_of(scratch / "labels");
    fs::remove(scratch / "labels");
    done(label + packed);
    CHECK(bytes_of(scratch / "labels") == labels);
    done("unpack " + packed + " " + scratch / "back");
    CHECK(run_shell("diff -r " + tree + " " + scratch / "back", scratch.path()).status == 0);
}

TEST_CASE("vvtq pack: errors are one line with status 2, signals leave nothing") {
    const Scratch scratch;
    write_cifar_like(scratch / "tree", 2, 1);
    const auto refused = [&](const std::string& arguments, const std::string& part) {
        const Ended ended = run_vvtq(arguments, scratch.path());
        INFO(arguments << "\n" << ended.err);
        CHECK(ended.status == 2);
        CHECK(ended.err.find(part) != std::string::npos);
        CHECK(ended.err.find('\n') == ended.err.size() - 1);
    };
    refused("pack " + scratch / "none" + " " + scratch / "out", "none");
    refused("pack " + scratch / "tree", "folder to write");
    refused("pack " + scratch / "tree" + " " + scratch / "tree", "is there already");
    refused("pack " + scratch / "tree" + " " + scratch / "out --quality 90", "--quality");
    refused("pack " + scratch / "tree" + " " + scratch / "out --resize 3", "--resize");
    refused("unpack " + scratch / "tree" + " " + scratch / "out", "shards.index");
    CHECK_FALSE(fs::exists(scratch / "out"));
    REQUIRE(run_vvtq("pack " + scratch / "tree" + " " + scratch / "out", scratch.path()).status == 0);
    const std::string shard = scratch / "out/train/shard-000000.tar";
    data::Bytes bytes = bytes_of(shard);
    bytes[600] ^= 1;
    write_bytes(shard, bytes);
    const std::string run = "pretrain --threads 1 --dataset cifar10 --data " + scratch / "out" +
                            " --model deit_nano_patch4_28_quant --img-size 32 --patch-size 8 --embed-dim 32"
                            " --depth 2 --num-heads 2 --warmup-epochs 0 -b 20 --epochs 1"
                            " --save_checkpoint_path " +
                            scratch / "run";
    refused(run, "shard-000000.tar: 0000000");
    bytes.pop_back();
    write_bytes(shard, bytes);
    refused(run, "shard-000000.tar' has");
}
