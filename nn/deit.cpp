#include "nn/deit.h"

#include "autograd/ops.h"
#include "nn/model_sizes.h"

namespace vvtq::nn {

namespace {

constexpr double kNormEps = 1e-6;

/// The config itself, so that it can be checked before the first member is built.
const ModelConfig& checked(const ModelConfig& c) {
    check_common(c);
    if (c.embed_dim % c.num_heads != 0) {
        engine::input_error("`num_heads` ", c.num_heads, " does not divide `embed_dim` ", c.embed_dim,
                            ": choose a divisor of the width");
    }
    return c;
}

int64_t patches(const ModelConfig& config) {
    const int64_t side = config.img_size / config.patch_size;
    return side * side;
}

ModelConfig preset(const std::string& name, int64_t width, int64_t heads) {
    ModelConfig config;
    config.name = name;
    config.embed_dim = width;
    config.num_heads = heads;
    return config;
}

}  // namespace

Family deit_family() {
    ModelConfig nano = preset("deit_nano_patch4_28_quant", 64, 2);
    nano.img_size = 28;
    nano.patch_size = 4;
    nano.num_classes = 10;
    nano.depth = 4;
    std::vector<Field> fields = common_fields();
    fields.push_back({"depth", &ModelConfig::depth, {1, 1000}, "blocks of a DeiT"});
    fields.push_back({"num_heads", &ModelConfig::num_heads, {1, 16384}, "of each stage, or one number"});
    return {
        "deit",
        {preset("deit_tiny_patch16_224_quant", 192, 3), preset("deit_small_patch16_224_quant", 384, 6),
         preset("deit_base_patch16_224_quant", 768, 12), nano},
        fields,
        [](const ModelConfig& config, engine::DType dtype) { return std::make_unique<Deit>(config, dtype); }};
}

Deit::Deit(const ModelConfig& config, engine::DType dtype)
    : Model(checked(config)),
      cls_token_(add_parameter("cls_token", Tensor::zeros({1, 1, config.embed_dim}, dtype))),
      pos_embed_(
          add_parameter("pos_embed", Tensor::zeros({1, patches(config) + 1, config.embed_dim}, dtype))),
      patch_embed_(config.in_chans, config.patch_size, config.embed_dim, dtype),
      norm_(config.embed_dim, kNormEps, dtype),
      head_({config.num_classes, config.embed_dim}, dtype, Bits::always_8),
      stochastic_depth_(rising_rates(config.drop_path, config.depth)) {
    add_module("patch_embed", patch_embed_);
    for (int64_t i = 0; i < config.depth; ++i) {
        blocks_.push_back(
            std::make_unique<Block>(BlockSizes{config.embed_dim, config.num_heads,
                                               hidden_width(config.embed_dim, config.mlp_ratio), kNormEps},
                                    dtype));
        add_module("blocks." + std::to_string(i), *blocks_.back());
    }
    add_module("norm", norm_);
    add_module("quant", quant_);
    add_module("head", head_);
}

Variable Deit::compute(const Tensor& pictures, const Tensor& random_key) {
    check_shape(pictures, config());
    stochastic_depth_.draw(training(), pictures, random_key);
    const Variable tokens = autograd::prepend_token(cls_token_, patch_embed_.forward(Variable(pictures)));
    Residual x{autograd::add_broadcast(tokens, pos_embed_), {}, {}};
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const Tensor branches[2] = {stochastic_depth_.keep(2 * i), stochastic_depth_.keep(2 * i + 1)};
        x = blocks_[i]->forward(x, branches);
    }
    // from here on the class token alone counts
    const Variable token =
        autograd::residual(autograd::select_token(x.x, 0), autograd::select_token(x.branch, 0), x.keep);
    const Variable exact = autograd::cast(token, cls_token_.value().dtype());
    return head_.forward(norm_.forward({exact, {}, {}}, *this, quant_).n);
}

}  // namespace vvtq::nn
