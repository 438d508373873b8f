#include "nn/model.h"

#include <algorithm>
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

/// Refuses models that no machine here could hold, before anything is allocated. In double: no overflow.
void check_size(const ModelConfig& c) {
    constexpr int64_t kLargest = 1'000'000;
    constexpr double kLargestRatio = 64;
    if (c.patch_size < 1 || !(c.mlp_ratio <= kLargestRatio) ||
        std::max({c.in_chans, c.num_classes, c.embed_dim, c.depth}) > kLargest) {
        return;  // a size that is bad by itself: the model refuses it before it allocates
    }
    constexpr double kMostParameters = 1 << 30;
    constexpr double kMostPatches = 1 << 14;  // attention holds their square
    const auto width = static_cast<double>(c.embed_dim), patch = static_cast<double>(c.patch_size);
    const double side = static_cast<double>(c.img_size) / patch;
    const double patches = side * side;
    const double parameters = static_cast<double>(c.depth) * (4 + 2 * c.mlp_ratio) * width * width +
                              width * (patches + static_cast<double>(c.in_chans) * patch * patch +
                                       static_cast<double>(c.num_classes));
    if (!(patches <= kMostPatches)) {
        engine::input_error("--img-size ", c.img_size, " at --patch-size ", c.patch_size, " gives more than ",
                            kMostPatches, " patches: use larger patches or smaller pictures");
    }
    if (!(parameters <= kMostParameters)) {
        engine::input_error("--embed-dim ", c.embed_dim, " at --depth ", c.depth, " and --num_classes ",
                            c.num_classes, " gives more than 2^30 parameters: use a smaller model");
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

namespace {

/// Weights are quantized while it lives, which an error may end.
class Prepared {
  public:
    Prepared(WeightPass& pass, engine::DType dtype) : pass_(pass) { pass.prepare(dtype); }
    ~Prepared() { pass_.release(); }
    Prepared(const Prepared&) = delete;
    Prepared& operator=(const Prepared&) = delete;

  private:
    WeightPass& pass_;
};

}  // namespace

Variable Model::forward(const Tensor& pictures, const Tensor& random_key) {
    if (weight_pass_ == nullptr) return compute(pictures, random_key);
    const Prepared prepared(*weight_pass_, pictures.dtype());
    return compute(pictures, random_key);
}

Tensor random_key(uint64_t key, engine::Device device) {
    const Tensor host({1}, engine::DType::i64);
    *host.data<int64_t>() = static_cast<int64_t>(key);
    return host.to(device);
}

std::unique_ptr<Model> make_model(const ModelConfig& config, engine::DType dtype, uint64_t seed) {
    VVTQ_CHECK(dtype == engine::DType::f32 || dtype == engine::DType::f64, "dtype ", name_of(dtype));
    VVTQ_CHECK(config.family == "deit", "model family \"", config.family, "\" is unknown");
    check_size(config);
    auto model = std::make_unique<Deit>(config, dtype);
    draw_start_weights(*model, dtype, seed);
    return model;
}

}  // namespace vvtq::nn
