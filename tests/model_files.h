// model_files: small models of a data set, with and without quantizers, for tests of commands that read them.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "data/safetensors.h"
#include "data/state_file.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

namespace vvtq::tests {

inline constexpr const char* kModel = " --model deit_nano_patch4_28 --patch-size 7 --embed-dim 16 --depth 1 ";
inline constexpr const char* kStep = "blocks.0.attn.proj_q.alpha";

inline std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

inline bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

/// Three classes of pictures, a model of them in floats and one of W3A4.
struct Files {
    Scratch scratch;
    std::string data = scratch / "data", fp = scratch / "fp/checkpoint.safetensors",
                q = scratch / "q/checkpoint.safetensors", picture = data + "/val/class1/0.bmp";

    Files() {
        write_folder_dataset(data, 3, 8);
        done("pretrain --no-aug" + run("fp"));
        done("train --wbits 3 --abits 4 --finetune " + fp + run("q"));
    }
    std::string run(const std::string& name) const {
        return " --data " + data + " -b 8 --warmup-epochs 0 --epochs 1 -p 1 --threads 1 -j 1 --device cpu" +
               kModel + "--save_checkpoint_path " + scratch / name + " ";
    }
    std::string done(const std::string& arguments) const {
        const Ended ended = run_vvtq(arguments, scratch.path());
        INFO(arguments << "\n" << ended.err);
        REQUIRE(ended.status == 0);
        return ended.out;
    }
    void refused(const std::string& arguments, const std::vector<std::string>& words) const {
        const Ended ended = run_vvtq(arguments, scratch.path());
        INFO(arguments << "\n" << ended.err);
        CHECK(ended.status == 2);
        CHECK(lines_of(ended.err).size() == 1);
        for (const std::string& word : words) {
            INFO(word);
            CHECK(has(ended.err, word));
        }
    }
    std::string predict(const std::string& checkpoint, const std::string& rest) const {
        return done("predict --device cpu " + checkpoint + " " + rest);
    }
    std::vector<double> logits(const std::string& checkpoint, const std::string& rest) const {
        const auto line = nlohmann::json::parse(predict(checkpoint, "--json --logits " + rest));
        return line.at("logits").get<std::vector<double>>();
    }
    /// `from` in the published layout.
    std::string published(const std::string& from) const {
        done("convert " + from + " " + scratch / "published.pth" + kModel);
        return scratch / "published.pth";
    }
    /// The model's tensors in `from` without metadata and moments, as another program has them.
    using Change = std::function<void(std::vector<data::TensorBytes>&)>;
    std::string foreign(const std::string& from, const std::string& name, const Change& change) const {
        const auto file = data::SafeTensors::open(from);
        std::vector<data::TensorBytes> tensors;
        for (const auto& [tensor, entry] : file.entries()) {
            if (tensor.starts_with("optimizer.")) continue;
            tensors.push_back({tensor, entry.dtype, entry.shape, file.bytes(tensor)});
        }
        change(tensors);
        data::write_safetensors(scratch / name, tensors, {});
        return scratch / name;
    }
};

inline std::vector<double> values_of(const std::string& path, const std::string& name) {
    return data::StateFile(path).read<double>(name);
}

}  // namespace vvtq::tests
