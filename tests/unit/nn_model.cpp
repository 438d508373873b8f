// DeiT: sizes, names, start values, stochastic depth, and the errors of sizes that do not fit.
#include <cmath>
#include <map>
#include <set>

#include "nn/model.h"
#include "tests/catch.h"

namespace vvtq::nn {

namespace {

using engine::DType;

/// Numbers in all parameters, shared ones once.
int64_t count(const Module& module) {
    int64_t n = 0;
    std::set<const void*> known;
    for (const NamedParameter& p : module.parameters()) {
        if (known.insert(p.parameter.value().raw()).second) n += p.parameter.shape().numel();
    }
    return n;
}

ModelConfig small_config() {
    ModelConfig config = model_config("deit_nano_patch4_28");
    config.img_size = 8;
    config.embed_dim = 12;
    config.depth = 3;
    config.num_heads = 3;
    config.num_classes = 5;
    return config;
}

Tensor some_pictures(int64_t batch) {
    std::vector<double> values(static_cast<size_t>(batch * 3 * 8 * 8));
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(0.37 * static_cast<double>(i));
    return Tensor::from(values, {batch, 3, 8, 8}, DType::f64);
}

std::map<std::string, std::vector<double>> values_of(const Module& module) {
    std::map<std::string, std::vector<double>> values;
    for (const NamedParameter& p : module.parameters()) values[p.name] = p.parameter.value().to_vector();
    return values;
}

/// The message of the error that `act` throws, which must be of the given fault.
template <typename Act>
std::string message_of(engine::Fault fault, Act act) {
    try {
        act();
    } catch (const engine::Error& error) {
        CHECK(error.fault() == fault);
        return error.what();
    }
    FAIL("no error");
    return "";
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("published models have the published sizes") {
    CHECK(count(*make_model(model_config("deit_tiny_patch16_224_quant"), DType::f32, 0)) == 5'717'416);
    CHECK(count(*make_model(model_config("swin_tiny_patch4_window7_224"), DType::f32, 0)) == 28'288'354);
    CHECK(count(*make_model(model_config("SReT_T"), DType::f32, 0)) == 4'755'979);
    const ModelConfig small = model_config("deit_small_patch16_224"),
                      base = model_config("deit_base_patch16_224");
    CHECK((small.embed_dim == 384 && small.num_heads == 6 && small.depth == 12));
    CHECK((base.embed_dim == 768 && base.num_heads == 12 && base.depth == 12));
}

TEST_CASE("names of models: with and without _quant are the same") {
    for (const std::string& name : model_names()) CHECK(model_config(name).name.ends_with("_quant"));
    CHECK(model_config("deit_base_patch16_224").name == "deit_base_patch16_224_quant");
    const std::string message = message_of(engine::Fault::input, [] { model_config("resnet50"); });
    CHECK(contains(message, "`model` resnet50"));
    CHECK(contains(message, "deit_tiny_patch16_224_quant"));
}

TEST_CASE("parameters have the published names and shapes") {
    const auto model = make_model(model_config("deit_nano_patch4_28_quant"), DType::f32, 0);
    std::map<std::string, std::string> shapes;
    for (const NamedParameter& p : model->parameters()) shapes[p.name] = p.parameter.shape().str();
    CHECK(shapes["cls_token"] == "(1, 1, 64)");
    CHECK(shapes["pos_embed"] == "(1, 50, 64)");
    CHECK(shapes["patch_embed.proj.weight"] == "(64, 3, 4, 4)");
    CHECK(shapes["blocks.3.attn.proj_q.weight"] == "(64, 64)");
    CHECK(shapes["blocks.0.mlp.fc1.weight"] == "(256, 64)");
    CHECK(shapes["head.bias"] == "(10)");
    CHECK(shapes.count("blocks.4.norm1.weight") == 0);
}

TEST_CASE("start values depend on seed and name alone") {
    ModelConfig config = small_config();
    const auto first = values_of(*make_model(config, DType::f64, 7));
    CHECK(first == values_of(*make_model(config, DType::f64, 7)));
    auto other = values_of(*make_model(config, DType::f64, 8));
    CHECK(first.at("head.weight") != other.at("head.weight"));
    config.depth = 2;
    config.num_classes = 4;
    auto shallow = values_of(*make_model(config, DType::f64, 7));
    CHECK(first.at("blocks.1.mlp.fc2.weight") == shallow.at("blocks.1.mlp.fc2.weight"));
    CHECK(first.at("cls_token") != first.at("pos_embed"));
}

TEST_CASE("start values have the right spread") {
    const auto values = values_of(*make_model(model_config("deit_nano_patch4_28"), DType::f64, 1));
    const std::vector<double>& w = values.at("blocks.0.mlp.fc1.weight");
    double sum = 0, squares = 0, largest = 0;
    for (const double v : w) {
        sum += v;
        squares += v * v;
        largest = std::max(largest, std::abs(v));
    }
    const auto n = static_cast<double>(w.size());
    // cut at two standard deviations: 0.02 * 0.8796 remains; 16384 draws leave 0.6 % of error
    CHECK(std::sqrt(squares / n) == Approx(0.02 * 0.8796).epsilon(0.03));
    CHECK(std::abs(sum / n) < 4 * 0.02 / std::sqrt(n));
    CHECK(largest <= 0.04);
    for (const double v : values.at("blocks.0.mlp.fc1.bias")) REQUIRE(v == 0.0);
    for (const double v : values.at("norm.weight")) REQUIRE(v == 1.0);
}

TEST_CASE("sizes that do not fit are refused by the field's name") {
    const auto refused = [](const std::string& field, auto change) {
        ModelConfig config = small_config();
        change(config);
        const std::string message =
            message_of(engine::Fault::input, [&] { make_model(config, DType::f32, 0); });
        INFO(message);
        CHECK(contains(message, field));
    };
    refused("`patch_size` 3", [](ModelConfig& c) { c.patch_size = 3; });
    refused("`patch_size` 0", [](ModelConfig& c) { c.patch_size = 0; });
    refused("`img_size` -8", [](ModelConfig& c) { c.img_size = -8; });
    refused("`num_heads` 5", [](ModelConfig& c) { c.num_heads = 5; });
    refused("`embed_dim` 0", [](ModelConfig& c) { c.embed_dim = 0; });
    refused("`depth` 0", [](ModelConfig& c) { c.depth = 0; });
    refused("`num_classes` 0", [](ModelConfig& c) { c.num_classes = 0; });
    refused("`drop_path` 1", [](ModelConfig& c) { c.drop_path = 1; });
    refused("`drop_path` nan", [](ModelConfig& c) { c.drop_path = std::nan(""); });
    refused("`mlp_ratio` nan", [](ModelConfig& c) { c.mlp_ratio = std::nan(""); });
}

TEST_CASE("pictures of another size are refused") {
    const auto model = make_model(small_config(), DType::f64, 0);
    CHECK_THROWS_AS(model->forward(Tensor::zeros({1, 3, 8, 12}, DType::f64)), engine::Error);
    CHECK_THROWS_AS(model->forward(Tensor::zeros({1, 1, 8, 8}, DType::f64)), engine::Error);
}

TEST_CASE("every parameter of a full-precision model gets a gradient") {
    const auto model = make_model(small_config(), DType::f64, 3);
    model->forward(some_pictures(2), random_key(0)).backward(Tensor::full({2, 5}, 0.3, DType::f64));
    for (const NamedParameter& p : model->parameters()) {
        INFO(p.name);
        CHECK(p.parameter.grad().defined());
    }
}

TEST_CASE("the op and the layer whose output is not finite are named") {
    const std::vector<std::pair<std::string, std::string>> named = {
        {"cls_token", "prepend_token:"},
        {"patch_embed.proj.bias", "linear in patch_embed.proj:"},
        {"blocks.0.norm1.bias", "residual_norm in blocks.0.norm1:"},
        {"blocks.1.attn.proj_k.bias", "attention in blocks.1.attn:"},
        {"blocks.1.attn.proj.bias", "linear in blocks.1.attn.proj:"},
        {"blocks.2.mlp.fc1.weight", "mlp in blocks.2.mlp:"},
        {"norm.weight", "residual_norm in norm:"},
        {"head.weight", "linear in head:"}};
    for (const auto& [bad, place] : named) {
        const auto model = make_model(small_config(), DType::f64, 3);
        for (NamedParameter& p : model->parameters()) {
            if (p.name == bad) {
                p.parameter.set_value(Tensor::full(p.parameter.shape(), std::nan(""), DType::f64));
            }
        }
        const autograd::FiniteCheck check;
        const std::string message =
            message_of(engine::Fault::run, [&] { model->forward(some_pictures(1), random_key(0)); });
        INFO(bad << " -> " << message);
        CHECK(message.rfind(place, 0) == 0);
        CHECK(autograd::Scope::current().empty());
    }
}

TEST_CASE("stochastic depth: drawn per picture from the key, in training only") {
    ModelConfig config = small_config();
    config.drop_path = 0.6;
    const auto model = make_model(config, DType::f64, 3);
    const Tensor pictures = some_pictures(4);
    const auto logits = [&](uint64_t key) {
        return model->forward(pictures, random_key(key)).value().to_vector();
    };

    CHECK(logits(1) == logits(1));
    CHECK(logits(1) != logits(2));
    const std::vector<double> alone = model->forward(pictures.slice(0, 1), random_key(1)).value().to_vector();
    const std::vector<double> together = logits(1);
    for (size_t c = 0; c < alone.size(); ++c) CHECK(together[c] == Approx(alone[c]).epsilon(1e-12));

    model->train(false);
    CHECK(logits(1) == logits(2));
    config.drop_path = 0;
    const auto plain = make_model(config, DType::f64, 3);
    CHECK(logits(1) == plain->forward(pictures).value().to_vector());
}

}  // namespace vvtq::nn
