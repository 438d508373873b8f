// A training step in parts: several processes (here threads with Gloo between them) and several shards give
// what one process gives (specification section 10).
#include <cmath>
#include <map>

#include "apps/commands/model_setup.h"
#include "apps/training/training_step.h"
#include "quant/calibrate.h"
#include "tests/rank_threads.h"
#include "tests/unit/quant_support.h"

using namespace vvtq;
using engine::Device;
using engine::DType;
using nn::Tensor;

namespace {

constexpr int64_t kBatch = 12, kSide = 16;
constexpr int kClasses = 5;

struct Setting {
    std::string name;
    nn::ModelConfig config;
    apps::QuantizerFlags quantizer;
};

nn::ModelConfig small(const std::string& name) {
    nn::ModelConfig config = nn::model_config(name);
    config.img_size = kSide;
    config.num_classes = kClasses;
    config.drop_path = 0.3;
    if (name.starts_with("deit")) {
        config.patch_size = 4;
        config.embed_dim = 12;
        config.depth = 2;
        config.num_heads = 3;
    } else {
        config.patch_size = 2;
        config.embed_dim = 8;
        config.depths = {2, 2};
        config.heads = {1, 2};
        config.window_size = 4;
    }
    return config;
}

std::vector<Setting> settings() {
    return {{"deit W3A3 reg", small("deit_nano_patch4_28_quant"), {3, 3, false, true, false}},
            {"deit head-wise", small("deit_nano_patch4_28_quant"), {4, 4, false, true, true}},
            {"deit float", small("deit_nano_patch4_28_quant"), {}},
            {"deit one bit", small("deit_nano_patch4_28_quant"), {1, 1, false, false, false}},
            {"swin W2A2 reg", small("swin_tiny_patch4_window7_224_quant"), {2, 2, false, true, false}},
            {"sret W4A4 reg", small("SReT_T_quant"), {4, 4, false, true, false}}};
}

/// Places `from` to `to` of the batch of a step.
data::Batch batch_of(int step, int64_t from, int64_t to) {
    const auto pixels = tests::uniform01("pixels" + std::to_string(step), kBatch * 3 * kSide * kSide);
    data::Batch batch;
    batch.size = to - from;
    batch.image_size = kSide;
    batch.classes = kClasses;
    for (int64_t i = from * 3 * kSide * kSide; i < to * 3 * kSide * kSide; ++i) {
        batch.pixels.push_back(static_cast<uint8_t>(256 * pixels[static_cast<size_t>(i)]));
    }
    for (int64_t i = from; i < to; ++i) {
        batch.targets.push_back(static_cast<int>(i * 7 % kClasses));
        batch.places.push_back(i);
    }
    return batch;
}

/// What training leaves: parameters, buffers and moments by name, and what the steps told.
struct End {
    std::map<std::string, std::vector<double>> state;
    std::vector<double> told;
    bool operator==(const End&) const = default;
};

End train(const Setting& setting, DType dtype, nn::DataParallelOptions parallel, int steps) {
    const int64_t size = parallel.processes == nullptr ? 1 : parallel.processes->size();
    const int64_t rank = parallel.processes == nullptr ? 0 : parallel.processes->rank();
    const auto model = nn::make_model(setting.config, dtype, 7);
    {
        apps::DeviceBatch first(Device::cpu, kBatch, kSide, kClasses, false);
        first.load(batch_of(0, 0, kBatch));
        apps::attach_quantizers(*model, setting.quantizer);
        quant::calibrate_weights(*model);
        quant::calibrate_activations(*model, first.pictures(dtype));
    }
    nn::Adamw optimizer(model->parameters(), nn::AdamwOptions{});
    apps::DeviceBatch place(Device::cpu, kBatch / size, kSide, kClasses, false);
    apps::TrainingStep training(*model, optimizer, place, {dtype, 0.1, true, false, parallel});
    model->train(true);
    End end;
    for (int i = 0; i < steps; ++i) {
        place.load(batch_of(i, rank * kBatch / size, (rank + 1) * kBatch / size));
        const bool regularize = setting.quantizer.reg && i % 2 == 1;
        training.submit({1e-3, regularize, regularize ? 0.05 : 0.0, 100U + static_cast<uint64_t>(i),
                         i == 3 && rank == size - 1});
        const apps::StepResult result = training.take();
        for (const double value : {result.loss, result.regularizer, static_cast<double>(result.top1),
                                   static_cast<double>(result.top5), static_cast<double>(result.found_inf),
                                   result.stop ? 1.0 : 0.0}) {
            end.told.push_back(value);
        }
    }
    const auto keep = [&](const std::string& name, const Tensor& x) { end.state[name] = x.to_vector(); };
    for (const nn::NamedParameter& p : model->parameters()) keep(p.name, p.parameter.value());
    if (rank == 0) {  // with shards the first process alone has the running statistics
        for (const auto& [name, buffer] : model->buffers()) keep(name, buffer);
    }
    for (const auto& [name, moment] : optimizer.state()) keep(name, moment);
    return end;
}

double difference(double a, double b) { return std::abs(a - b) / std::max(1.0, std::abs(b)); }

void check_equal(const End& end, const End& expected) {
    REQUIRE(end.state.size() == expected.state.size());
    for (const auto& [name, values] : end.state) {
        // A batch norm takes the bias in front of it away again. Its gradient is rounding alone, which AdamW
        // enlarges, and which the running mean follows: up to 8e-12 here.
        const bool before_norm = tests::contains(name, ".running_mean") ||
                                 (name.starts_with("patch_embed.conv") && tests::contains(name, ".bias"));
        const double most = before_norm ? 1e-9 : 1e-12;
        for (size_t i = 0; i < values.size(); ++i) {
            const double other = expected.state.at(name)[i];
            if (difference(values[i], other) < most) continue;
            INFO(name << '[' << i << "]: " << values[i] << ", off by " << (values[i] - other) * 1e12
                      << "e-12");
            CHECK(difference(values[i], other) < most);
        }
    }
    for (size_t i = 0; i < expected.told.size(); ++i) {
        CHECK(difference(end.told[i], expected.told[i]) < 1e-12);
    }
}

std::vector<End> train_processes(const Setting& setting, DType dtype, nn::DataParallelOptions parallel,
                                 int size, int steps) {
    std::vector<End> ends(static_cast<size_t>(size));
    const auto errors = tests::run_ranks(size, [&](engine::Communicator& c) {
        nn::DataParallelOptions own = parallel;
        own.processes = &c;
        ends[static_cast<size_t>(c.rank())] = train(setting, dtype, own, steps);
    });
    for (const std::string& error : errors) CHECK(error == "");
    return ends;
}

}  // namespace

TEST_CASE("processes with one shard compute what one process does", "[parallel]") {
    if (tests::gloo_missing()) return;
    for (const Setting& setting : settings()) {
        if (setting.quantizer.wbits == 1) continue;  // sums of signs are often exactly on the tie at 0
        const End alone = train(setting, DType::f64, {}, 5);
        for (const int size : {1, 2, 3}) {
            for (const int64_t buckets : {1, 5}) {
                INFO(setting.name << ", " << size << " processes, " << buckets << " buckets");
                const auto ends = train_processes(setting, DType::f64, {nullptr, 1, false, buckets}, size, 5);
                check_equal(ends[0], alone);
                for (const End& end : ends) CHECK(end.told == ends[0].told);
                if (size == 1) CHECK(ends[0] == alone);
            }
        }
    }
}

TEST_CASE("all processes have the same bits after 50 steps", "[parallel]") {
    if (tests::gloo_missing()) return;
    Setting setting = settings()[0];
    for (const bool bf16 : {false, true}) {
        const auto ends = train_processes(setting, DType::f32, {nullptr, 1, bf16, 2}, 3, 50);
        CHECK(ends[1].state == ends[0].state);
        CHECK(ends[2].state == ends[0].state);
        CHECK(std::isfinite(ends[0].told[49 * 6]));
    }
}

TEST_CASE("shards give the same bits on any number of processes", "[parallel]") {
    if (tests::gloo_missing()) return;
    for (const Setting& setting : settings()) {
        const End alone = train(setting, DType::f32, {nullptr, 4}, 5);
        CHECK(alone.told != train(setting, DType::f32, {}, 5).told);
        for (const int size : {1, 2, 4}) {
            INFO(setting.name << ", " << size << " processes");
            const auto ends = train_processes(setting, DType::f32, {nullptr, 4}, size, 5);
            CHECK(ends[0] == alone);
            for (const End& end : ends) CHECK(end.told == alone.told);
        }
    }
}
