#include "nn/model.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string_view>

#include "engine/random.h"
#include "nn/deit.h"
#include "nn/sret.h"
#include "nn/swin.h"

namespace vvtq::nn {

namespace {

constexpr std::string_view kQuantSuffix = "_quant";

std::vector<ModelConfig> staged_models() {
    ModelConfig swin;
    swin.name = "swin_tiny_patch4_window7_224_quant";
    swin.family = "swin";
    swin.patch_size = 4;
    swin.embed_dim = 96;
    swin.depths = {2, 2, 6, 2};
    swin.heads = {3, 6, 12, 24};
    ModelConfig small = swin;
    small.name = "swin_small_patch4_window7_224_quant";
    small.depths = {2, 2, 18, 2};
    ModelConfig base = small;
    base.name = "swin_base_patch4_window7_224_quant";
    base.embed_dim = 128;
    base.heads = {4, 8, 16, 32};

    ModelConfig sret;
    sret.name = "SReT_T_quant";
    sret.family = "sret";
    sret.patch_size = 8;
    sret.embed_dim = 64;
    sret.depths = {4, 10, 6};
    sret.heads = {2, 4, 8};
    sret.mlp_ratio = 3.6;
    ModelConfig larger = sret;
    larger.name = "SReT_LT_quant";
    larger.mlp_ratio = 4.0;
    ModelConfig sret_small = sret;
    sret_small.name = "SReT_S_quant";
    sret_small.embed_dim = 126;
    sret_small.heads = {3, 6, 12};
    sret_small.mlp_ratio = 3.0;
    sret_small.np_ratio = 2.0;
    return {swin, small, base, sret, larger, sret_small};
}

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
        std::vector<ModelConfig> all{tiny, small, base, nano};
        for (ModelConfig& model : staged_models()) all.push_back(std::move(model));
        return all;
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
    std::set<const void*> known;  // a parameter that is used twice is drawn under its first name
    for (NamedParameter& p : model.parameters()) {
        const engine::Shape shape = p.parameter.shape();
        const bool drawn = shape.rank() >= 2;  // biases and norms have their start values already
        if (!drawn || known.count(p.parameter.value().raw()) != 0) continue;
        engine::Random random(engine::mix_key({seed, name_key(p.name)}));
        std::vector<double> values(static_cast<size_t>(shape.numel()));
        const bool convolution = shape.rank() == 4 && p.name.ends_with(".weight");
        if (convolution) {
            const double bound = 1.0 / std::sqrt(static_cast<double>(shape.numel() / shape[0]));
            for (double& value : values) value = random.uniform(-bound, bound);
        } else {
            for (double& value : values) value = kStd * truncated_normal(random);
        }
        p.parameter.set_value(Tensor::from(values, shape, dtype));
        known.insert(p.parameter.value().raw());
    }
}

/// Refuses models that no machine here could hold, before anything is allocated. In double: no overflow.
void check_size(const ModelConfig& c) {
    constexpr int64_t kLargest = 1'000'000;
    constexpr double kLargestRatio = 64;
    const int64_t blocks =
        c.depths.empty() ? c.depth : std::accumulate(c.depths.begin(), c.depths.end(), int64_t{0});
    if (c.patch_size < 1 || !(c.mlp_ratio <= kLargestRatio) || c.depths.size() > 8 ||
        std::max({c.in_chans, c.num_classes, c.embed_dim, blocks}) > kLargest) {
        return;  // a size that is bad by itself: the model refuses it before it allocates
    }
    constexpr double kMostParameters = 1 << 30;
    constexpr double kMostPatches = 1 << 14;  // attention holds their square
    const int64_t widest = c.depths.empty() ? c.embed_dim : c.embed_dim << (c.depths.size() - 1);
    const auto width = static_cast<double>(widest), patch = static_cast<double>(c.patch_size);
    const double side = static_cast<double>(c.img_size) / patch;
    const double patches = side * side;
    const double parameters = static_cast<double>(blocks) * (4 + 2 * c.mlp_ratio) * width * width +
                              width * (patches + static_cast<double>(c.in_chans) * patch * patch +
                                       static_cast<double>(c.num_classes));
    if (!(patches <= kMostPatches)) {
        engine::input_error("--img-size ", c.img_size, " at --patch-size ", c.patch_size, " gives more than ",
                            kMostPatches, " patches: use larger patches or smaller pictures");
    }
    if (!(parameters <= kMostParameters)) {
        engine::input_error("--embed-dim ", c.embed_dim, " at --depth", c.depths.empty() ? " " : "s of ",
                            blocks, " and --num_classes ", c.num_classes,
                            " gives more than 2^30 parameters: use a smaller model");
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
    check_size(config);
    std::unique_ptr<Model> model;
    if (config.family == "swin") {
        model = std::make_unique<Swin>(config, dtype);
    } else if (config.family == "sret") {
        model = std::make_unique<Sret>(config, dtype);
    } else {
        VVTQ_CHECK(config.family == "deit", "model family \"", config.family, "\" is unknown");
        model = std::make_unique<Deit>(config, dtype);
    }
    draw_start_weights(*model, dtype, seed);
    return model;
}

}  // namespace vvtq::nn
