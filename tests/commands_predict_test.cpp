// `vvtq predict` and `vvtq convert`.
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "apps/commands/model_setup.h"
#include "apps/training/checkpoint.h"
#include "engine/random.h"
#include "tests/model_files.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::DType;

namespace fs = std::filesystem;

namespace {

/// Noise of 3 x width x height, as a binary PPM.
data::Bytes write_noise(const std::string& path, int width, int height, uint64_t seed) {
    engine::Random noise(seed);
    data::Bytes pixels(static_cast<size_t>(3 * width * height));
    for (uint8_t& value : pixels) value = static_cast<uint8_t>(noise.below(256));
    const std::string head = "P6\n" + std::to_string(width) + " " + std::to_string(height) + "\n255\n";
    data::Bytes file(head.begin(), head.end());
    file.insert(file.end(), pixels.begin(), pixels.end());
    write_bytes(path, file);
    return pixels;
}

using State = std::map<std::string, std::tuple<std::string, std::vector<int64_t>, data::Bytes>>;

State state_of(const std::string& path) {
    const data::StateFile file(path);
    State state;
    for (const auto& [name, entry] : file.entries()) {
        state[name] = {entry.dtype, entry.shape, file.bytes(name)};
    }
    return state;
}

std::string accuracy(const std::string& out) {
    const size_t at = out.rfind(" * Acc@1");
    REQUIRE(at != std::string::npos);
    return out.substr(at);
}

double difference(const std::vector<double>& a, const std::vector<double>& b) {
    REQUIRE(a.size() == b.size());
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
    return most;
}

}  // namespace

TEST_CASE("predict tells classes and probabilities, as text and as JSON") {
    const Files files;
    const std::string folder = files.data + "/val/class1";
    const std::string one = files.predict(files.q, files.picture);
    CHECK(one.starts_with(files.picture + ": class"));
    CHECK(one.ends_with("%\n"));
    const auto many = lines_of(files.predict(files.q, files.picture + " " + folder));
    REQUIRE(many.size() == 9);
    CHECK(many[0] + "\n" == one);
    for (size_t i = 0; i < 8; ++i) {
        CHECK(many[i + 1].starts_with(folder + "/" + std::to_string(i) + ".bmp: class"));
    }
    CHECK(files.predict(files.q, "-b 3 " + files.picture + " " + folder) ==
          files.predict(files.q, files.picture + " " + folder));

    const auto line =
        nlohmann::ordered_json::parse(files.predict(files.q, "--json --topk 9 " + files.picture));
    std::vector<std::string> keys;
    for (const auto& [key, value] : line.items()) keys.push_back(key);
    CHECK(keys == std::vector<std::string>{"path", "top"});
    CHECK(line["path"] == files.picture);
    REQUIRE(line["top"].size() == 3);  // all classes
    const std::vector<double> logits = files.logits(files.q, files.picture);
    double sum = 0, before = 1, total = 0;
    for (const double logit : logits) total += std::exp(logit);
    std::set<size_t> seen;
    for (const auto& entry : line["top"]) {
        REQUIRE(entry.size() == 3);
        const size_t index = entry.at("index");
        const double probability = entry.at("probability");
        seen.insert(index);
        CHECK(entry.at("class") == "class" + std::to_string(index));
        CHECK(std::abs(probability - std::exp(logits.at(index)) / total) < 1e-12);
        CHECK(probability <= before);
        before = probability;
        sum += probability;
    }
    CHECK(seen.size() == 3);
    CHECK(std::abs(sum - 1) < 1e-12);
    const auto with_logits =
        nlohmann::ordered_json::parse(files.predict(files.q, "--json --logits " + files.picture));
    keys.clear();
    for (const auto& [key, value] : with_logits.items()) keys.push_back(key);
    CHECK(keys == std::vector<std::string>{"path", "top", "logits"});
    CHECK(with_logits["top"].size() == 1);

    // names of a file, and a checkpoint without names
    const size_t best = line["top"][0]["index"];
    std::ofstream(files.scratch / "names") << "red boot\nblue boot\r\ngreen boot\n\n";
    const std::string names[] = {"red boot", "blue boot", "green boot"};
    CHECK(has(files.predict(files.q, "--class-names " + files.scratch / "names " + files.picture),
              ": " + names[best] + " "));
    const std::string bare = files.foreign(files.q, "bare.safetensors", [](auto&) {}) + kModel;
    CHECK(
        has(files.predict(bare, "--wbits 3 --abits 4 " + files.picture), ": " + std::to_string(best) + " "));
    const auto unnamed =
        nlohmann::json::parse(files.predict(bare, "--wbits 3 --abits 4 --json " + files.picture));
    CHECK(unnamed["top"][0]["class"].is_null());
}

TEST_CASE("predict computes what the checkpoint's model computes") {
    const Files files;
    const std::string path = files.scratch / "noise.ppm", wide = files.scratch / "wide.ppm";
    const data::Bytes pixels = write_noise(path, 28, 28, 5);
    write_noise(wide, 60, 40, 6);
    const double mean[] = {.485, .456, .406}, std[] = {.229, .224, .225};
    std::vector<double> planes(pixels.size());
    for (size_t i = 0; i < pixels.size(); ++i) {
        const size_t channel = i % 3;
        planes[channel * 28 * 28 + i / 3] = (pixels[i] / 255.0 - mean[channel]) / std[channel];
    }
    const auto picture = nn::Tensor::from(planes, {1, 3, 28, 28}, DType::f64);
    for (const std::string& file : {files.fp, files.q}) {
        INFO(file);
        const apps::Checkpoint checkpoint(file, "CKPT");
        const auto model = nn::make_model(checkpoint.model_config().value(), DType::f64, 99);
        if (file == files.q) apps::attach_quantizers(*model, {3, 4, false, false, false});
        checkpoint.load_parameters(*model);
        model->train(false);
        const autograd::NoGrad off_tape;
        const std::vector<double> expected = model->forward(picture).value().to_vector();
        CHECK(difference(files.logits(file, "--whole --precision fp64 " + path), expected) < 1e-12);
        // a rounding tie of a quantizer may fall to the other side in f32
        CHECK(difference(files.logits(file, "--whole " + path), expected) < (file == files.q ? 0.1 : 1e-5));
    }
    const auto in = [&](const std::string& precision) {
        return files.logits(files.q, "--whole --precision " + precision + " " + path);
    };
    CHECK(in("int8") == in("fp32"));
    CHECK(in("auto") == in("int8"));
    const std::string pth = files.scratch / "q.pth";
    files.done("convert " + files.q + " " + pth);
    CHECK(files.predict(pth, "--json --logits " + wide) == files.predict(files.q, "--json --logits " + wide));
    // the crop of the run's own evaluation: the central 7/8 for folders, whole pictures for Fashion-MNIST
    const std::vector<double> central = files.logits(files.q, "--center-crop " + wide);
    CHECK(files.logits(files.q, wide) == central);
    CHECK(files.logits(files.q, "--whole " + wide) != central);
    write_idx_dataset(files.scratch / "idx", 32, 16);
    files.done("pretrain --epochs 1" + tiny_flags(files.scratch / "idx", files.scratch / "whole") + kModel);
    const std::string whole = files.scratch / "whole/checkpoint.safetensors";
    CHECK(files.logits(whole, wide) == files.logits(whole, "--whole " + wide));
    CHECK(files.logits(whole, wide) != files.logits(whole, "--center-crop " + wide));
}

TEST_CASE("predict refuses what it cannot read by name, or leaves bad pictures out") {
    const Files files;
    const std::string bad = files.data + "/val/class1/3.bmp", predict = "predict " + files.q + " ";
    fs::resize_file(bad, fs::file_size(bad) / 2);
    files.refused(predict + files.data + "/val", {bad});
    const Ended skipped = run_vvtq(predict + files.data + "/val --on-bad-image skip", files.scratch.path());
    CHECK(skipped.status == 0);
    CHECK(lines_of(skipped.out).size() == 23);
    CHECK_FALSE(has(skipped.out, bad));
    CHECK(has(skipped.err, "left out 1 picture"));
    CHECK(has(skipped.err, bad));

    const Ended none = run_vvtq(predict + bad + " --on-bad-image skip", files.scratch.path());
    CHECK(none.status == 2);
    CHECK(has(none.err, "no picture could be decoded"));

    std::ofstream(files.scratch / "two") << "a\nb\n";
    files.refused(predict + files.picture + " --class-names " + files.scratch / "two",
                  {"--class-names", files.scratch / "two", "2 names", "3 classes"});
    files.refused(predict + files.picture + " --class-names " + files.scratch / "none",
                  {files.scratch / "none", "--class-names"});
    files.refused(predict + files.scratch / "none.png", {"none.png"});
    fs::create_directory(files.scratch / "empty");
    files.refused(predict + files.scratch / "empty", {files.scratch / "empty", "no pictures"});
    files.refused("predict " + files.scratch / "none.pth " + files.picture, {"none.pth"});
    files.refused("predict " + files.q, {"vvtq predict CKPT IMAGE"});
    files.refused(predict + files.picture + " --logits", {"--logits", "--json"});
    files.refused(predict + files.picture + " --topk 0", {"--topk"});
    files.refused(predict + files.picture + " --whole --center-crop", {"--whole", "--center-crop"});
    files.refused(predict + files.picture + " --wbits 2", {"--wbits", files.q});
    files.refused(
        "predict " + files.foreign(files.fp, "bare.safetensors", [](auto&) {}) + " " + files.picture,
        {"--model"});
}

TEST_CASE("convert keeps every tensor there and back, and a run goes on from either file") {
    const Files files;
    const std::string pth = files.scratch / "q.pth", back = files.scratch / "back.safetensors";
    files.done("convert " + files.q + " " + pth);
    files.done("convert " + pth + " " + back);
    const State state = state_of(files.q);
    CHECK(state.count("optimizer.head.weight.exp_avg_sq") == 1);
    CHECK(state_of(pth) == state);
    CHECK(state_of(back) == state);
    CHECK(data::SafeTensors::open(back).metadata() == data::SafeTensors::open(files.q).metadata());
    files.done("convert --drop-optimizer " + files.q + " " + back);
    const State dropped = state_of(back);
    CHECK(dropped.size() * 3 == state.size());  // two moments each
    for (const auto& [name, tensor] : dropped) CHECK(tensor == state.at(name));

    const std::string more = "train --epochs 2 --threads 1 --data " + files.data + " --resume ";
    files.done(more + files.q + " --save_checkpoint_path " + files.scratch / "on");
    files.done(more + pth + " --save_checkpoint_path " + files.scratch / "on_pth");
    const auto end = bytes_of(files.scratch / "on/checkpoint.safetensors");
    CHECK(bytes_of(files.scratch / "on_pth/checkpoint.safetensors") == end);
    CHECK(end != bytes_of(files.q));

    files.refused("convert " + files.q + " " + files.scratch / "x.bin", {"x.bin", ".safetensors", ".pth"});
    files.refused("convert " + files.q + " " + files.scratch / "none/x.pth", {"none/x.pth"});
    files.refused("convert " + files.scratch / "none.pth " + files.scratch / "x.pth", {"none.pth"});
    files.refused("convert " + files.q + " " + files.scratch / "x.pth --img-size 35",
                  {"--img-size", "--model"});
    files.refused("convert " + files.q, {"vvtq convert IN OUT"});
    for (const std::string& whole : {files.q, pth}) {
        const std::string cut = files.scratch / ("cut" + fs::path(whole).extension().string());
        fs::copy_file(whole, cut);
        fs::resize_file(cut, fs::file_size(cut) * 3 / 4);
        files.refused("convert " + cut + " " + files.scratch / "x.pth", {cut});
    }
    data::Bytes flipped = bytes_of(files.q);
    flipped[flipped.size() - 100] ^= 1;
    write_bytes(files.scratch / "flipped.safetensors", flipped);
    files.refused("convert " + files.scratch / "flipped.safetensors " + files.scratch / "x.pth",
                  {"flipped.safetensors"});
    CHECK_FALSE(fs::exists(files.scratch / "x.pth"));
}

TEST_CASE("the published layout: steps for each width, evaluated as the checkpoint it comes from") {
    const Files files;
    const std::string pth = files.published(files.q), back = files.scratch / "back.safetensors";
    const std::vector<double> step = values_of(files.q, kStep);
    REQUIRE(step.size() == 1);
    CHECK(values_of(pth, kStep) == std::vector<double>(7, step[0]));
    std::vector<double> moment(7, 0.0);
    moment[1] = values_of(files.q, std::string("optimizer.") + kStep + ".exp_avg").at(0);  // of 3 bits
    CHECK(values_of(pth, std::string("optimizer.") + kStep + ".exp_avg") == moment);
    CHECK(values_of(pth, "blocks.0.attn.proj_q.nbits") == std::vector<double>{3});
    CHECK(values_of(pth, "blocks.0.attn.proj_q.init_state") == std::vector<double>{1});
    CHECK(values_of(pth, "blocks.0.attn.quant_q.nbits") == std::vector<double>{4});
    CHECK(values_of(pth, "head.nbits") == std::vector<double>{8});
    files.done("convert " + pth + " " + back + kModel);
    CHECK(state_of(back) == state_of(files.q));

    const std::string evaluate = "train --evaluate --device cpu --data " + files.data + " --resume ";
    const std::string ours = files.done(evaluate + files.q), theirs = files.done(evaluate + pth + kModel);
    CHECK(accuracy(theirs) == accuracy(ours));
    CHECK(has(theirs, "W3A4"));
    CHECK(has(theirs, "blocks.0.attn.proj_q.alpha: the step for 3 bits"));
    CHECK(files.logits(pth, kModel + files.picture) == files.logits(files.q, files.picture));
    const Ended other = run_vvtq("predict --wbits 2 " + pth + kModel + files.picture, files.scratch.path());
    CHECK(other.status == 0);
    CHECK(has(other.err, "=> warning: blocks.0.attn.proj_q was trained with 3 bits and has 2 here"));
    // gone on with as a model
    CHECK(has(files.done("train --resume " + pth + files.run("on")),
              "resumed as a model: moments and schedule"));

    files.done("convert " + pth + " " + files.scratch / "copy.safetensors");
    const float zero = 0, five = 5;
    const auto changed = [&](const std::string& tensor, const float& value) {
        return files.foreign(files.scratch / "copy.safetensors", "changed.safetensors", [&](auto& tensors) {
            for (auto& t : tensors) {
                if (t.name == tensor) t.data = {reinterpret_cast<const uint8_t*>(&value), sizeof value};
            }
        });
    };
    const std::string never = changed("blocks.0.mlp.fc1.init_state", zero);
    files.refused("predict " + never + kModel + files.picture, {never, "blocks.0.mlp.fc1", "never started"});
    files.refused("train --wbits 3 --abits 4 --keep-steps --finetune " + never + files.run("x"),
                  {never, "blocks.0.mlp.fc1", "never started"});
    const std::string mixed = changed("blocks.0.mlp.fc1.nbits", five);
    files.refused("predict " + mixed + kModel + files.picture,
                  {mixed, "blocks.0.mlp.fc1 has 5 bits", "--wbits and --abits"});
}
