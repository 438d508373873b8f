// predict and convert, without other programs.
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/state_file.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace {

constexpr const char* kSizes = "--patch-size 7 --embed-dim 16 --depth 1 ";

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

/// A checkpoint of one epoch and a folder of six pictures in two classes.
struct Asked {
    Scratch scratch;
    std::string data = scratch / "data", pictures = scratch / "pictures", checkpoint;

    Asked() : checkpoint(scratch / "fp/checkpoint.safetensors") {
        write_idx_dataset(data, 32, 16);
        write_folder_dataset(pictures, 2, 3);
        done("pretrain" + tiny_flags(data, scratch / "fp") + kSizes + "--epochs 1 --no-aug");
    }
    Ended run(const std::string& arguments) const { return run_vvtq(arguments, scratch.path()); }
    std::string done(const std::string& arguments) const {
        const Ended ended = run(arguments);
        INFO(arguments << "\n" << ended.err);
        REQUIRE(ended.status == 0);
        return ended.out;
    }
};

/// The tensors under the names that the file has.
std::map<std::string, data::Bytes> tensors_of(const std::string& path) {
    const data::StateFile file(path);
    std::map<std::string, data::Bytes> tensors;
    for (const auto& [name, entry] : file.entries()) {
        tensors[entry.stored + " " + entry.dtype] = file.bytes(name);
    }
    return tensors;
}

}  // namespace

TEST_CASE(
    "predict tells class, probability and logits of pictures and folders, the same in every batch size") {
    const Asked asked;
    const std::string ask =
        "predict " + asked.checkpoint + " " + asked.pictures + "/val --json --logits --topk 3 --threads 1 ";
    const std::string all = asked.done(ask), ones = asked.done(ask + "-b 1");
    std::istringstream a(all), b(ones);
    int lines = 0;
    for (std::string line, other; std::getline(a, line) && std::getline(b, other); ++lines) {
        const auto of = nlohmann::json::parse(line), as = nlohmann::json::parse(other);
        INFO(line);
        CHECK(contains(of["path"].get<std::string>(), asked.pictures + "/val/"));
        CHECK(of["path"] == as["path"]);
        REQUIRE(of["logits"].size() == 10);
        REQUIRE(of["top"].size() == 3);
        double sum = 0, largest = of["logits"][0];
        for (const double logit : of["logits"]) largest = std::max(largest, logit);
        for (const double logit : of["logits"]) sum += std::exp(logit - largest);
        const size_t best = of["top"][0]["index"];
        CHECK(of["logits"][best] == largest);
        CHECK(std::abs(of["top"][0]["probability"].get<double>() - 1 / sum) < 1e-12);
        for (size_t i = 0; i < 10; ++i) {
            CHECK(std::abs(of["logits"][i].get<double>() - as["logits"][i].get<double>()) < 1e-5);
        }
    }
    CHECK(lines == 6);
    const Ended odd = asked.run(ask + "--wbits 4");
    CHECK(odd.status == 2);
    CHECK(contains(odd.err, "--wbits, --abits, --bits: have no effect on " + asked.checkpoint));
}

TEST_CASE("convert there and back keeps every name and byte, and the run can be resumed") {
    const Asked asked;
    const std::string pth = asked.scratch / "a.pth", back = asked.scratch / "b.safetensors";
    asked.done("convert " + asked.checkpoint + " " + pth);
    asked.done("convert " + pth + " " + back);
    CHECK(tensors_of(back) == tensors_of(asked.checkpoint));
    const std::string more =
        "pretrain --dataset fashion-mnist --threads 1 -j 1 --epochs 2 --data " + asked.data;
    asked.done(more + " --resume " + asked.checkpoint + " --save_checkpoint_path " + asked.scratch / "one");
    asked.done(more + " --resume " + back + " --save_checkpoint_path " + asked.scratch / "two");
    const std::string file = "/checkpoint.safetensors";
    CHECK(bytes_of(asked.scratch / "two" + file) == bytes_of(asked.scratch / "one" + file));

    const std::string wrapped = asked.scratch / "m.safetensors";
    asked.done("convert " + fixture_path("state_dict_module.pth") + " " + wrapped);
    CHECK(tensors_of(wrapped) == tensors_of(fixture_path("state_dict_module.pth")));
    CHECK(tensors_of(wrapped).count("module.fc.bias F32") == 1);
}
