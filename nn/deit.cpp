#include "nn/deit.h"

#include "autograd/ops.h"
#include "nn/model_sizes.h"

namespace vvtq::nn {

namespace {

constexpr double kNormEps = 1e-6;

/// The config itself, so that it can be checked before the first member is built.
const ModelConfig& checked(const ModelConfig& c) {
    check_pictures(c);
    if (c.patch_size < 1 || c.img_size % c.patch_size != 0) {
        engine::input_error("--patch-size ", c.patch_size, " does not tile --img-size ", c.img_size,
                            ": choose a divisor of the picture size");
    }
    if (c.num_heads < 1 || c.embed_dim % c.num_heads != 0) {
        engine::input_error("--num-heads ", c.num_heads, " does not divide --embed-dim ", c.embed_dim,
                            ": choose a divisor of the width");
    }
    if (c.depth < 1 || c.depth > 1000) engine::input_error("--depth ", c.depth, ": give 1 to 1000 blocks");
    return c;
}

int64_t patches(const ModelConfig& config) {
    const int64_t side = config.img_size / config.patch_size;
    return side * side;
}

}  // namespace

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
