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

Family family(const std::string& name, bool distilled, std::vector<ModelConfig> presets) {
    std::vector<Field> fields = common_fields();
    fields.push_back({"depth", &ModelConfig::depth, {1, 1000}, "blocks of a DeiT"});
    fields.push_back({"num_heads", &ModelConfig::num_heads, {1, 16384}, "of each stage, or one number"});
    return {name, std::move(presets), fields,
            [distilled](const ModelConfig& config, engine::DType dtype) {
                return std::make_unique<Deit>(config, dtype, distilled);
            },
            [distilled](const std::string& parameter) {
                const PositionGrid grid{.before = distilled ? 2 : 1, .antialias = true};
                return parameter == "pos_embed" ? std::optional(grid) : std::nullopt;
            }};
}

}  // namespace

Family deit_family() {
    ModelConfig nano = preset("deit_nano_patch4_28_quant", 64, 2);
    nano.img_size = 28;
    nano.patch_size = 4;
    nano.num_classes = 10;
    nano.depth = 4;
    return family(
        "deit", false,
        {preset("deit_tiny_patch16_224_quant", 192, 3), preset("deit_small_patch16_224_quant", 384, 6),
         preset("deit_base_patch16_224_quant", 768, 12), nano});
}

Family distilled_deit_family() {
    Family distilled = family("deit_distilled", true,
                              {preset("deit_tiny_distilled_patch16_224_quant", 192, 3),
                               preset("deit_small_distilled_patch16_224_quant", 384, 6),
                               preset("deit_base_distilled_patch16_224_quant", 768, 12)});
    distilled.not_trained = "the loss of its second token needs a teacher in the step";
    return distilled;
}

Deit::Deit(const ModelConfig& config, engine::DType dtype, bool distilled)
    : Model(checked(config)),
      cls_token_(add_parameter("cls_token", Tensor::zeros({1, 1, config.embed_dim}, dtype))),
      pos_embed_(add_parameter(
          "pos_embed", Tensor::zeros({1, patches(config) + (distilled ? 2 : 1), config.embed_dim}, dtype))),
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
    if (!distilled) return;
    dist_token_ = &add_parameter("dist_token", Tensor::zeros({1, 1, config.embed_dim}, dtype));
    head_dist_.emplace(engine::Shape{config.num_classes, config.embed_dim}, dtype, Bits::always_8);
    add_module("head_dist", *head_dist_);
}

Variable Deit::classify(const Residual& x, int64_t index, Linear& head) {
    const Variable token = autograd::residual(autograd::select_token(x.x, index),
                                              autograd::select_token(x.branch, index), x.keep);
    const Variable exact = autograd::cast(token, cls_token_.value().dtype());
    return head.forward(norm_.forward({exact, {}, {}}, *this, quant_).n);
}

Variable Deit::compute(const Tensor& pictures, const Draws& draws) {
    check_shape(pictures, config());
    stochastic_depth_.draw(training(), pictures, draws);
    Variable tokens = patch_embed_.forward(Variable(pictures));
    if (dist_token_ != nullptr) tokens = autograd::prepend_token(*dist_token_, tokens);
    tokens = autograd::prepend_token(cls_token_, tokens);
    Residual x{autograd::add_broadcast(tokens, pos_embed_), {}, {}};
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const Tensor branches[2] = {stochastic_depth_.keep(2 * i), stochastic_depth_.keep(2 * i + 1)};
        x = blocks_[i]->forward(x, branches);
    }
    // from here on these tokens alone count
    const Variable logits = classify(x, 0, head_);
    if (!head_dist_) return logits;
    return autograd::scale(autograd::add(logits, classify(x, 1, *head_dist_)), 0.5);
}

}  // namespace vvtq::nn
