// Guards and steps that are left out, each with a fault that was planted.
#include "apps/training/guards.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/commands/model_setup.h"
#include "apps/training/training_step.h"
#include "data/safetensors.h"
#include "quant/attach.h"
#include "quant/calibrate.h"
#include "quant/lsq.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"
#include "tests/unit/quant_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::Device;
using engine::DType;

namespace {

/// A small model of 3 bits in f64 with a batch of 4 pictures, and a log.
struct Bench {
    Scratch scratch;
    apps::RunLog log{scratch / "run.log"};
    apps::DeviceBatch batch{Device::cpu, 4, 8, 5, false};
    std::unique_ptr<nn::Model> model;
    std::unique_ptr<nn::Adamw> optimizer;

    explicit Bench(int bits = 3, bool heads = false) {
        nn::ModelConfig config = nn::model_config("deit_nano_patch4_28_quant");
        config.img_size = 8;
        config.embed_dim = 12;
        config.depth = 2;
        config.num_heads = 3;
        config.num_classes = 5;
        model = nn::make_model(config, DType::f64, 7);
        for (nn::NamedParameter& p : model->parameters()) {  // so that activations are not all alike
            if (p.parameter.shape().rank() < 2) continue;
            engine::kernels(Device::cpu).scale(p.parameter.value(), 20, p.parameter.value());
        }
        data::Batch pictures;
        pictures.size = 4;
        pictures.image_size = 8;
        pictures.classes = 5;
        pictures.targets = {0, 3, 4, 1};
        for (const double u : uniform01("pixels", 4 * 3 * 8 * 8)) {
            pictures.pixels.push_back(static_cast<uint8_t>(256 * u));
        }
        batch.load(pictures);
        if (bits > 0) {
            apps::attach_quantizers(*model, {bits, bits, false, false, heads});
            quant::calibrate_weights(*model);
            quant::calibrate_activations(*model, batch.pictures(DType::f64));
        }
        optimizer = std::make_unique<nn::Adamw>(model->parameters(), nn::AdamwOptions{});
    }
    quant::Lsq& lsq(const std::string& path, nn::Values values) const {
        for (const auto& [name, slot] : quant::slots(*model)) {
            const bool weight = slot->values() == nn::Values::weight;
            if (name != path || weight != (values == nn::Values::weight)) continue;
            return dynamic_cast<quant::Lsq&>(*slot->get());
        }
        throw std::runtime_error(path);
    }
    void fill(const std::string& name, double value) const {
        for (nn::NamedParameter& p : model->parameters()) {
            if (p.name == name) engine::kernels(Device::cpu).fill(value, p.parameter.value());
        }
    }
    std::vector<double> parameters() const {
        std::vector<double> all;
        for (const nn::NamedParameter& p : model->parameters()) {
            for (const double value : p.parameter.value().to_vector()) all.push_back(value);
        }
        return all;
    }
    /// The lines of the log so far, and the objects of metrics.jsonl.
    std::vector<std::string> lines(const std::string& file) const {
        std::vector<std::string> found;
        std::istringstream in(text_of(scratch / file));
        for (std::string line; std::getline(in, line);) found.push_back(line);
        return found;
    }
};

}  // namespace

TEST_CASE("guards: a healthy model gives no warning") {
    for (const int bits : {-1, 1, 3, 8}) {
        INFO(bits << " bits");
        const Bench bench(bits);
        apps::Guards guards(*bench.model, const_cast<apps::RunLog&>(bench.log));
        const std::vector<double> before = bench.parameters();
        guards.inspect(1, bench.batch.pictures(DType::f64));
        CHECK(bench.lines("run.log").empty());
        CHECK(bench.parameters() == before);
    }
}

TEST_CASE("guards: a step at its floor is named once, with layer, step and value") {
    Bench bench;
    bench.lsq("blocks.1.attn.quant_k", nn::Values::activation).set_step(0);
    bench.lsq("blocks.0.mlp.fc1", nn::Values::weight).set_step(1e-5);
    apps::Guards guards(*bench.model, bench.log);
    for (const int64_t step : {7, 8}) guards.inspect(step, bench.batch.pictures(DType::f64));
    std::vector<std::string> lines = bench.lines("run.log"), objects = bench.lines("metrics.jsonl");
    for (std::vector<std::string>* all : {&lines, &objects}) {  // other quantizers may be dead then
        std::erase_if(*all, [](const auto& line) { return contains(line, "dead"); });
    }
    REQUIRE(lines.size() == 2);
    CHECK(lines[0].starts_with(
        "=> warning: step 7: the weights of blocks.0.mlp.fc1 have a quantizer step at its floor, 0.0001"));
    CHECK(lines[1].starts_with(
        "=> warning: step 7: blocks.1.attn.quant_k has a quantizer step at its floor, 0.0001"));
    const auto object = nlohmann::json::parse(objects.at(1));
    CHECK(object.at("kind") == "warning");
    CHECK(object.at("what") == "step_at_floor");
    CHECK(object.at("layer") == "blocks.1.attn.quant_k");
    CHECK(object.at("step") == 7);
    CHECK(object.at("value") == 1e-4);
}

TEST_CASE("guards: a quantizer with one code for everything is named, in each place of a block") {
    const std::pair<const char*, nn::Values> places[] = {
        {"blocks.0.attn.quant_input", nn::Values::activation},
        {"blocks.0.attn.quant_q", nn::Values::activation},
        {"blocks.1.attn.quant_attn", nn::Values::probability},
        {"blocks.1.attn.quant_output", nn::Values::activation},
        {"blocks.1.mlp.quant1", nn::Values::activation},
        {"blocks.0.mlp.quant2", nn::Values::activated},
        {"blocks.0.attn.proj_v", nn::Values::weight},
        {"head", nn::Values::weight}};
    for (const bool heads : {false, true}) {
        for (const auto& [path, values] : places) {
            INFO(path << ", a step for each head: " << heads);
            Bench bench(3, heads);
            bench.lsq(path, values).set_step(1e6, values == nn::Values::activated ? 0.25 : 0.0);
            apps::Guards guards(*bench.model, bench.log);
            for (const int64_t step : {3, 4}) guards.inspect(step, bench.batch.pictures(DType::f64));
            const auto lines = bench.lines("run.log");
            const std::string expected = engine::concat(
                "=> warning: step 3: all ", values == nn::Values::weight ? "weights" : "values", " of ", path,
                " have one code, which stands for ", values == nn::Values::activated ? "0.25" : "0");
            int named = 0;
            for (const std::string& line : lines) named += line.starts_with(expected) ? 1 : 0;
            CHECK(named == 1);
        }
    }
}

TEST_CASE("guards: a loss far above its mean of late is named once an epoch") {
    Bench bench(-1);
    apps::Guards guards(*bench.model, bench.log);
    apps::RunningMeans means;
    for (int64_t step = 1; step <= 40; ++step) {
        const double noise = 0.3 * std::sin(static_cast<double>(step));
        guards.see_loss(0, step, step == 5 ? 9.0 : 2.0 + noise, means);  // in the first steps all may happen
    }
    CHECK(bench.lines("run.log").empty());
    for (const int64_t step : {41, 42}) guards.see_loss(0, step, 9.5, means);
    guards.see_loss(1, 43, 9.5, means);
    const auto lines = bench.lines("run.log");
    REQUIRE(lines.size() == 2);
    CHECK(lines[0].starts_with("=> warning: step 41: the loss is 9.5, its mean of late 2."));
    CHECK(lines[1].starts_with("=> warning: step 43: the loss is 9.5, "));
    CHECK(means.usual_steps == 43);
}

TEST_CASE("guards: a gradient that is not finite beside a finite loss is named, and changes nothing") {
    for (const bool overflows : {false, true}) {  // or only its square does
        Bench bench(-1);
        bench.model->train(false);
        bench.fill("blocks.1.mlp.fc1.weight", 0);
        bench.fill("blocks.1.mlp.fc1.bias", 0);
        bench.fill("blocks.1.mlp.fc2.weight", 1e308);
        if (overflows) bench.fill("norm.weight", 1e40);
        const std::vector<double> before = bench.parameters();
        apps::TrainingStep steps(*bench.model, *bench.optimizer, bench.batch, {DType::f64, 0.0, true});
        const apps::StepRates rates{.lr = 1e-3};
        steps.submit(rates);
        const apps::StepResult bad = steps.take();
        CHECK(std::isfinite(bad.loss));
        REQUIRE(bad.found_inf == 4);
        CHECK(bench.parameters() == before);
        const std::string reason = steps.reason(rates, bad).text;
        INFO(reason);
        CHECK(reason.starts_with(engine::concat("the gradient of blocks.1.mlp.fc1.bias is ",
                                                overflows ? "not finite (" : "too large (")));
        CHECK(bench.parameters() == before);
        CHECK(contains(message_of(engine::Fault::run, [&] { steps.explain(rates, bad); }), "`lr`"));
    }
}

TEST_CASE("guards: a step that is left out leaves everything as it was, and later ones are taken") {
    Bench bench(-1), other(-1);
    bench.model->train(false);
    other.model->train(false);
    const apps::StepOptions options{DType::f64, 0.0, true, true};
    apps::TrainingStep steps(*bench.model, *bench.optimizer, bench.batch, options);
    apps::TrainingStep expected(*other.model, *other.optimizer, other.batch, options);
    const auto take = [](apps::TrainingStep& step) {
        step.submit({.lr = 1e-3});
        return step.take();
    };
    CHECK(take(steps).loss == take(expected).loss);
    const double bias = 0.125;
    for (Bench* each : {&bench, &other}) each->fill("blocks.0.mlp.fc2.bias", bias);
    bench.fill("blocks.0.mlp.fc2.bias", 1e308);
    const apps::StepResult bad = take(steps);
    CHECK(bad.found_inf != 0);
    CHECK_FALSE(steps.reason({.lr = 1e-3}, bad).text.empty());
    bench.fill("blocks.0.mlp.fc2.bias", bias);
    other.optimizer->schedule(1e-3);  // the step counts
    CHECK(take(steps).found_inf == 0);
    CHECK(take(expected).found_inf == 0);
    CHECK(bench.parameters() == other.parameters());
}

TEST_CASE("guards: after 100 steps in a row that were left out the run ends") {
    Bench bench(-1);
    apps::Guards guards(*bench.model, bench.log);
    for (int64_t step = 1; step < 100; ++step) {
        guards.see_skipped(step,
                           engine::concat("the loss is not finite: mlp in a: ", step, " of 200 values"));
    }
    guards.see_applied();
    guards.see_skipped(100, "the loss is not finite: mlp in b: 3 of 200 values");
    CHECK(guards.skipped() == 100);
    CHECK(bench.lines("run.log").size() == 2);  // of a and of b
    for (int i = 0; i < 98; ++i) guards.see_skipped(101 + i, "the loss");
    CHECK(contains(message_of(engine::Fault::run, [&] { guards.see_skipped(199, "the loss"); }),
                   "100 steps in a row were not finite, the last because the loss"));
}

namespace {

/// A data set in which few pictures are bars, the others gray, and a model that overflows on bars.
struct Overflowing {
    Scratch scratch;
    std::string model = scratch / "model.safetensors";

    Overflowing() {
        write_idx_dataset(scratch / "data", 64, 16);
        for (const char* name : {"train", "t10k"}) {
            const std::string path = scratch / ("data/" + std::string(name) + "-images-idx3-ubyte");
            data::Bytes bytes = bytes_of(path);
            constexpr size_t kHeader = 16, kPicture = 28 * 28;
            for (size_t i = 0; kHeader + (i + 1) * kPicture <= bytes.size(); ++i) {
                const bool bars = std::string(name) == "train" && (i == 20 || i == 21);
                for (size_t p = 0; p < kPicture && !bars; ++p) bytes[kHeader + i * kPicture + p] = 114;
            }
            write_bytes(path, bytes);
        }
        REQUIRE(run_vvtq(train("first", "--epochs 1 --lr 0"), scratch.path()).status == 0);
        const auto file = data::SafeTensors::open(checkpoint("first"));
        std::vector<data::TensorBytes> tensors;
        std::vector<float> weights = file.read<float>("patch_embed.proj.weight");
        std::fill(weights.begin(), weights.end(), 2.5e36F);
        for (const auto& [name, entry] : file.entries()) {
            if (name.starts_with("optimizer.")) continue;
            const bool changed = name == "patch_embed.proj.weight";
            const std::span<const uint8_t> raw(reinterpret_cast<const uint8_t*>(weights.data()),
                                               weights.size() * sizeof(float));
            tensors.push_back({name, entry.dtype, entry.shape, changed ? raw : file.bytes(name)});
        }
        data::write_safetensors(model, tensors, {});
    }
    std::string checkpoint(const std::string& dir) const {
        return scratch / (dir + "/checkpoint.safetensors");
    }
    std::string train(const std::string& dir, const std::string& more) const {
        return "pretrain" + tiny_flags(scratch / "data", scratch / dir) +
               "--patch-size 7 --embed-dim 16 --depth 1 --no-aug -b 4 -j 2 --seed 1 " + more;
    }
};

}  // namespace

TEST_CASE("on-nan: a run stops at a step that is not finite, or leaves it out and goes on") {
    const Overflowing o;
    const std::string more = "--epochs 3 --finetune " + o.model + " ";
    const Ended stopped = run_vvtq(o.train("stop", more), o.scratch.path());
    INFO(stopped.err);
    CHECK(stopped.status == 1);
    CHECK(contains(stopped.err, "the loss is not finite (nan): "));
    CHECK(contains(stopped.err, " in patch_embed"));

    const Ended whole = run_vvtq(o.train("whole", more + "--on-nan skip"), o.scratch.path());
    INFO(whole.err);
    REQUIRE(whole.status == 0);
    const size_t first = whole.out.find(": left out: the loss is not finite (nan): ");
    REQUIRE(first != std::string::npos);
    CHECK(whole.out.find(": left out: ", first + 1) == std::string::npos);
    CHECK(contains(whole.out, "=> steps left out so far because they were not finite: "));
    CHECK(contains(whole.out, "Epoch: [2][15/16]"));
    CHECK_FALSE(contains(whole.out, "Loss nan"));
    // It may be stopped and resumed anywhere.
    for (const std::string steps : {"5", "24", "40"}) {
        const std::string dir = "parts" + steps;
        const std::string parts = more + "--on-nan skip --max-steps ";
        REQUIRE(run_vvtq(o.train(dir, parts + steps), o.scratch.path()).status == 0);
        REQUIRE(run_vvtq(o.train(dir, parts + "0 --resume auto"), o.scratch.path()).status == 0);
        CHECK(bytes_of(o.checkpoint(dir)) == bytes_of(o.checkpoint("whole")));
    }
    CHECK(run_vvtq(o.train("x", more + "--on-nan perhaps"), o.scratch.path()).status == 2);
}
