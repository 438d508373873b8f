#include "nn/model.h"

#include <cmath>
#include <string_view>

#include "engine/random.h"
#include "nn/deit.h"

namespace vvtq::nn {

namespace {

constexpr std::string_view kQuantSuffix = "_quant";

const std::vector<ModelConfig>& published_models() {
    static const std::vector<ModelConfig> models = [] {
        ModelConfig tiny;
        tiny.name = "deit_tiny_patch16_224_quant";
        tiny.family = "deit";
        ModelConfig small = tiny;
        small.name = "deit_small_patch16_224_quant";
        small.embed_dim = 384;
        small.num_heads = 6;
        ModelConfig base = tiny;
        base.name = "deit_base_patch16_224_quant";
        base.embed_dim = 768;
        base.num_heads = 12;
        ModelConfig nano = tiny;
        nano.name = "deit_nano_patch4_28_quant";
        nano.img_size = 28;
        nano.patch_size = 4;
        nano.num_classes = 10;
        nano.embed_dim = 64;
        nano.depth = 4;
        nano.num_heads = 2;
        return std::vector<ModelConfig>{tiny, small, base, nano};
    }();
    return models;
}

/// FNV-1a: a number for a name.
uint64_t name_key(const std::string& name) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
    return hash;
}

double truncated_normal(engine::Random& random) {
    for (;;) {
        const double z = random.normal();
        if (std::abs(z) <= 2.0) return z;
    }
}

void draw_start_weights(Model& model, engine::DType dtype, uint64_t seed) {
    constexpr double kStd = 0.02;
    for (NamedParameter& p : model.parameters()) {
        const engine::Shape shape = p.parameter.shape();
        const bool drawn = shape.rank() >= 2;  // biases and LayerNorm have their start values already
        if (!drawn) continue;
        engine::Random random(engine::mix_key({seed, name_key(p.name)}));
        std::vector<double> values(static_cast<size_t>(shape.numel()));
        if (p.name == "patch_embed.proj.weight") {
            const double bound = 1.0 / std::sqrt(static_cast<double>(shape.numel() / shape[0]));
            for (double& value : values) value = random.uniform(-bound, bound);
        } else {
            for (double& value : values) value = kStd * truncated_normal(random);
        }
        p.parameter.set_value(Tensor::from(values, shape, dtype));
    }
}

}  // namespace

std::vector<std::string> model_names() {
    std::vector<std::string> names;
    for (const ModelConfig& config : published_models()) {
        names.push_back(config.name.substr(0, config.name.size() - kQuantSuffix.size()));
        names.push_back(config.name);
    }
    return names;
}

ModelConfig model_config(const std::string& name) {
    for (const ModelConfig& config : published_models()) {
        if (name == config.name || name + std::string(kQuantSuffix) == config.name) return config;
    }
    std::string known;
    for (const ModelConfig& config : published_models()) known += (known.empty() ? "" : ", ") + config.name;
    engine::input_error("--model ", name, " is unknown: choose one of ", known, ", with or without _quant");
}

std::unique_ptr<Model> make_model(const ModelConfig& config, engine::DType dtype, uint64_t seed) {
    VVTQ_CHECK(dtype == engine::DType::f32 || dtype == engine::DType::f64, "dtype ", name_of(dtype));
    VVTQ_CHECK(config.family == "deit", "model family \"", config.family, "\" is unknown");
    auto model = std::make_unique<Deit>(config, dtype);
    draw_start_weights(*model, dtype, seed);
    return model;
}

}  // namespace vvtq::nn
