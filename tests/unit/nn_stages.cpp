// Swin and SReT: windows, sizes that do not fit, shared blocks, running statistics, and that they train.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "apps/training/checkpoint.h"
#include "nn/losses.h"
#include "nn/optimizer.h"
#include "nn/sret.h"
#include "nn/windows.h"
#include "quant/attach.h"
#include "quant/calibrate.h"
#include "tests/unit/quant_support.h"

namespace vvtq::nn {

namespace {

using engine::DType;
using tests::contains;
using tests::filled;
using tests::message_of;

/// 16 x 16 pictures: 64 tokens, then 16, then 4, in windows of 4 x 4.
ModelConfig small_swin() {
    ModelConfig config = model_config("swin_tiny_patch4_window7_224");
    config.img_size = 16;
    config.patch_size = 2;
    config.embed_dim = 8;
    config.depths = {2, 2, 2};
    config.heads = {1, 2, 4};
    config.window_size = 4;
    config.num_classes = 5;
    return config;
}

ModelConfig small_sret() {
    ModelConfig config = model_config("SReT_T");
    config.img_size = 16;
    config.patch_size = 2;
    config.embed_dim = 8;
    config.depths = {4, 2, 2};
    config.heads = {1, 2, 4};
    config.num_classes = 5;
    return config;
}

std::vector<ModelConfig> small_models() { return {small_swin(), small_sret()}; }

Tensor pictures(int64_t batch, DType dtype = DType::f64) {
    return filled("stages", {batch, 3, 16, 16}, 1.5, dtype);
}

}  // namespace

TEST_CASE("windows: every token once, shifted ones see their neighbours alone") {
    const TokenGroups plain = windows_of(8, 4, 0, DType::f64), shifted = windows_of(8, 4, 2, DType::f64);
    CHECK(plain.count == 4);
    CHECK_FALSE(plain.mask.defined());
    CHECK(plain.order.index.data<int32_t>()[4] == 8);   // the second row of the first window
    CHECK(plain.order.index.data<int32_t>()[16] == 4);  // the second window
    CHECK(shifted.order.index.data<int32_t>()[0] == 2 * 8 + 2);
    // the last window holds four corners of the picture, 4 tokens each
    const std::vector<double> mask = shifted.mask.to_vector();
    int together = 0;
    for (size_t i = 3 * 256; i < 4 * 256; ++i) together += mask[i] == 0.0;
    CHECK(together == 4 * 16);
    for (size_t i = 0; i < 256; ++i) REQUIRE(mask[i] == 0.0);
    CHECK(plain.bias_index.data<int32_t>()[0] == 3 * 7 + 3);
    CHECK(plain.bias_index.data<int32_t>()[15] == 0);  // from the last token to the first
    CHECK_FALSE(windows_of(4, 4, 0, DType::f64).order.index.defined());
}

TEST_CASE("merging takes (even, even), (odd, even), (even, odd), (odd, odd)") {
    const autograd::TokenOrder order = merge_order(4);
    const std::vector<int32_t> first(order.index.data<int32_t>(), order.index.data<int32_t>() + 8);
    CHECK(first == std::vector<int32_t>{0, 4, 1, 5, 2, 6, 3, 7});
}

TEST_CASE("stages: sizes that do not fit are refused by the field's name") {
    const auto refused = [](ModelConfig config, const std::string& field, auto change) {
        change(config);
        const std::string message =
            message_of(engine::Fault::input, [&] { make_model(config, DType::f32, 0); });
        INFO(message);
        CHECK(contains(message, field));
    };
    refused(small_swin(), "`img_size` 20", [](ModelConfig& c) { c.img_size = 20; });
    refused(small_swin(), "`window_size` 3", [](ModelConfig& c) { c.window_size = 3; });
    refused(small_swin(), "`window_size` 0", [](ModelConfig& c) { c.window_size = 0; });
    refused(small_swin(), "`patch_size` 3", [](ModelConfig& c) { c.patch_size = 3; });
    refused(small_swin(), "`num_heads` 3", [](ModelConfig& c) { c.heads[0] = 3; });
    refused(small_swin(), "`num_heads` has 2", [](ModelConfig& c) { c.heads.pop_back(); });
    refused(small_swin(), "`depths` 0", [](ModelConfig& c) { c.depths[1] = 0; });
    refused(small_sret(), "`depths` 3", [](ModelConfig& c) { c.depths[0] = 3; });
    refused(small_sret(), "`patch_size` 16", [](ModelConfig& c) { c.patch_size = 16; });
    refused(small_sret(), "`img_size` 6", [](ModelConfig& c) { c.img_size = 6; });
    refused(small_sret(), "`embed_dim` 7", [](ModelConfig& c) { c.embed_dim = 7; });
    refused(small_sret(), "`drop_path` nan", [](ModelConfig& c) { c.drop_path = std::nan(""); });
    CHECK_THROWS_AS(make_model(small_swin(), DType::f64, 0)->forward(filled("p", {1, 3, 16, 8}, 1.0)),
                    engine::Error);
}

TEST_CASE("stages: every parameter of a full-precision model gets a gradient") {
    for (const ModelConfig& config : small_models()) {
        const auto model = make_model(config, DType::f64, 3);
        model->forward(pictures(2), random_key(0)).backward(Tensor::full({2, 5}, 0.3, DType::f64));
        for (const NamedParameter& p : model->parameters()) {
            INFO(p.name);
            CHECK(p.parameter.grad().defined());
        }
    }
}

TEST_CASE("stages: models train at every width, one bit and head-wise steps included") {
    for (const ModelConfig& config : small_models()) {
        for (const int bits : {1, 2, 4}) {
            for (const bool head_wise : {false, true}) {
                const auto model = make_model(config, DType::f32, 3);
                quant::attach(*model, {.weights = bits, .activations = bits, .head_wise = head_wise});
                quant::calibrate_weights(*model);
                quant::calibrate_activations(*model, pictures(2, DType::f32));
                Adamw optimizer(model->parameters(), {});
                const Variable loss =
                    nn::soft_cross_entropy(model->forward(pictures(2, DType::f32), random_key(1)),
                                           Tensor::full({2, 5}, 0.2, DType::f32));
                loss.backward();
                optimizer.step(1e-3);
                INFO(config.name << " at " << bits << " bits");
                CHECK(std::isfinite(loss.value().item()));
                size_t by_head = 0;
                for (const NamedParameter& p : model->parameters()) {
                    for (const double value : p.parameter.value().to_vector()) REQUIRE(std::isfinite(value));
                    by_head += p.name.find(".attn.") != std::string::npos && p.name.ends_with(".alpha") &&
                               p.parameter.shape().numel() > 1;
                }
                const bool expected = head_wise && bits > 1 && config.name.starts_with("swin");
                CHECK(by_head == (expected ? 9 * 4 : 0));  // stages with more than one head
            }
        }
    }
}

TEST_CASE("stages: stochastic depth and permutations are drawn from the key, in training only") {
    for (ModelConfig config : small_models()) {
        config.drop_path = 0.6;
        const auto model = make_model(config, DType::f64, 3);
        // larger weights, so that branches and permutations count
        for (NamedParameter& p : model->parameters()) {
            if (p.parameter.shape().rank() < 2) continue;
            p.parameter.set_value(filled(p.name, p.parameter.shape(), 0.5));
        }
        const auto logits = [&](uint64_t key) {
            return model->forward(pictures(4), random_key(key)).value().to_vector();
        };
        INFO(config.name);
        CHECK(logits(1) == logits(1));
        CHECK(logits(1) != logits(2));
        model->train(false);
        CHECK(logits(1) == logits(2));
    }
    const auto sret = make_model(small_sret(), DType::f64, 3);  // no stochastic depth: permutations alone
    for (NamedParameter& p : sret->parameters()) {
        if (p.parameter.shape().rank() < 2) continue;
        p.parameter.set_value(filled(p.name, p.parameter.shape(), 0.5));
    }
    const auto logits = [&](uint64_t key) {
        return sret->forward(pictures(2), random_key(key)).value().to_vector();
    };
    CHECK(logits(1) != logits(2));
    CHECK(logits(1) == logits(1));
}

TEST_CASE("batch normalization remembers what training saw, and uses it in evaluation") {
    const auto model = make_model(small_sret(), DType::f64, 3);
    const auto buffers = [&] {
        std::map<std::string, std::vector<double>> values;
        for (const auto& [name, buffer] : model->buffers()) values[name] = buffer.to_vector();
        return values;
    };
    CHECK(buffers().size() == 9);
    CHECK(buffers().at("patch_embed.bn2.num_batches_tracked") == std::vector<double>{0});
    model->train(false);
    const auto before = buffers();
    const std::vector<double> fresh = model->forward(pictures(2)).value().to_vector();
    CHECK(buffers() == before);
    model->train(true);
    model->forward(pictures(2), random_key(0));
    CHECK(buffers().at("patch_embed.bn2.num_batches_tracked") == std::vector<double>{1});
    CHECK(buffers().at("patch_embed.bn1.running_mean") != before.at("patch_embed.bn1.running_mean"));
    model->train(false);
    CHECK(model->forward(pictures(2)).value().to_vector() != fresh);
}

TEST_CASE("a shared block is trained once, saved under both names, and loads from either") {
    const auto model = make_model(small_sret(), DType::f32, 3);
    const std::string first = "transformers.0.blocks.0.mlp.fc1.weight";
    const std::string second = "transformers.0.blocks.2.mlp.fc1.weight";
    std::map<std::string, const void*> places;
    for (const NamedParameter& p : model->parameters()) places[p.name] = p.parameter.value().raw();
    CHECK(places.at(first) == places.at(second));
    CHECK(places.at("transformers.0.blocks.1.mlp.fc1.weight") !=
          places.at("transformers.0.blocks.3.mlp.fc1.weight"));
    const Adamw optimizer(model->parameters(), {});
    const auto state = optimizer.state();
    const auto moments = [&](const std::string& name) {
        return std::count_if(state.begin(), state.end(),
                             [&](const auto& moment) { return moment.first == name + ".exp_avg"; });
    };
    CHECK(moments(first) == 1);
    CHECK(moments(second) == 0);

    model->forward(pictures(2, DType::f32), random_key(0));  // moves the running statistics
    const auto folder = std::filesystem::temp_directory_path() / "vvtq-shared-blocks";
    std::filesystem::create_directories(folder);
    const std::string path = (folder / "shared.safetensors").string();
    apps::CheckpointInfo info;
    info.command = "pretrain";
    info.model = model->config();
    apps::save_checkpoint(path, info, *model, optimizer);
    const data::SafeTensors file = data::SafeTensors::open(path);
    CHECK(file.contains(first));
    CHECK(file.contains(second));
    CHECK(file.contains("patch_embed.bn3.running_var"));
    const auto values = [](const Model& of) {
        std::map<std::string, std::vector<double>> all;
        for (const NamedParameter& p : of.parameters()) all[p.name] = p.parameter.value().to_vector();
        for (const auto& [name, buffer] : of.buffers()) all[name] = buffer.to_vector();
        return all;
    };
    const auto check_loads = [&](const std::string& from) {
        const auto other = make_model(small_sret(), DType::f32, 4);
        CHECK(values(*other) != values(*model));
        apps::Checkpoint(from, "--finetune").load_parameters(*other);
        CHECK(values(*other) == values(*model));
    };
    check_loads(path);
    for (const bool keep_first : {true, false}) {  // a file that has each shared tensor once
        std::vector<data::TensorBytes> tensors;
        std::map<std::string, std::vector<float>> held;
        for (const auto& [name, entry] : file.entries()) {
            const bool repeated = name.find(keep_first ? "blocks.2." : "blocks.0.") != std::string::npos;
            if (name.starts_with("optimizer.") || (repeated && name.starts_with("transformers."))) continue;
            held[name] = file.read<float>(name);
            tensors.push_back(
                {name,
                 "F32",
                 entry.shape,
                 {reinterpret_cast<const uint8_t*>(held[name].data()), held[name].size() * sizeof(float)}});
        }
        const std::string once = (folder / "once.safetensors").string();
        data::write_safetensors(once, tensors, {});
        check_loads(once);
    }
    std::filesystem::remove_all(folder);
}

}  // namespace vvtq::nn
