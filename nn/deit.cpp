#include "nn/deit.h"

#include "autograd/ops.h"
#include "engine/kernels.h"

namespace vvtq::nn {

namespace {

constexpr double kNormEps = 1e-6;

int64_t hidden_width(const ModelConfig& config) {
    return static_cast<int64_t>(static_cast<double>(config.embed_dim) * config.mlp_ratio);
}

/// The config itself, so that it can be checked before the first member is built.
const ModelConfig& checked(const ModelConfig& c) {
    if (c.img_size < 1 || c.img_size > 4096) {
        engine::input_error("--img-size ", c.img_size, ": give a picture size from 1 to 4096");
    }
    if (c.patch_size < 1 || c.img_size % c.patch_size != 0) {
        engine::input_error("--patch-size ", c.patch_size, " does not tile --img-size ", c.img_size,
                            ": choose a divisor of the picture size");
    }
    if (c.in_chans < 1 || c.in_chans > 1024)
        engine::input_error("a picture cannot have ", c.in_chans, " channels");
    if (c.num_classes < 1 || c.num_classes > 1'000'000) {
        engine::input_error("--num_classes ", c.num_classes, ": give at least 1 class and at most 1000000");
    }
    if (c.embed_dim < 1 || c.embed_dim > 16384) {
        engine::input_error("--embed-dim ", c.embed_dim, ": give a width from 1 to 16384");
    }
    if (c.num_heads < 1 || c.embed_dim % c.num_heads != 0) {
        engine::input_error("--num-heads ", c.num_heads, " does not divide --embed-dim ", c.embed_dim,
                            ": choose a divisor of the width");
    }
    if (c.depth < 1 || c.depth > 1000) engine::input_error("--depth ", c.depth, ": give 1 to 1000 blocks");
    if (!(c.mlp_ratio > 0 && c.mlp_ratio <= 64) || hidden_width(c) < 1) {
        engine::input_error("MLP ratio ", c.mlp_ratio, ": give a ratio above 0, at most 64");
    }
    if (!(c.drop_path >= 0 && c.drop_path < 1)) {
        engine::input_error("--drop-path ", c.drop_path, ": give a rate from 0 to below 1");
    }
    return c;
}

int64_t patches(const ModelConfig& config) {
    const int64_t side = config.img_size / config.patch_size;
    return side * side;
}

}  // namespace

DeitBlock::DeitBlock(const ModelConfig& config, engine::DType dtype)
    : norm1_(config.embed_dim, kNormEps, dtype),
      attn_(config.embed_dim, config.num_heads, dtype),
      norm2_(config.embed_dim, kNormEps, dtype),
      mlp_(config.embed_dim, hidden_width(config), dtype) {
    add_module("norm1", norm1_);
    add_module("attn", attn_);
    add_module("norm2", norm2_);
    add_module("mlp", mlp_);
}

Residual DeitBlock::forward(const Residual& x, const Tensor (&keep)[2]) {
    const autograd::Scope scope(name());
    const auto first = norm1_.forward(x, attn_, attn_.quant_input());
    const Residual middle{first.y, attn_.forward(first.n), keep[0]};
    const auto second = norm2_.forward(middle, mlp_, mlp_.quant1());
    return {second.y, mlp_.forward(second.n), keep[1]};
}

Deit::Deit(const ModelConfig& config, engine::DType dtype)
    : Model(checked(config)),
      cls_token_(add_parameter("cls_token", Tensor::zeros({1, 1, config.embed_dim}, dtype))),
      pos_embed_(
          add_parameter("pos_embed", Tensor::zeros({1, patches(config) + 1, config.embed_dim}, dtype))),
      patch_embed_(config.in_chans, config.patch_size, config.embed_dim, dtype),
      norm_(config.embed_dim, kNormEps, dtype),
      head_({config.num_classes, config.embed_dim}, dtype, Bits::always_8) {
    add_module("patch_embed", patch_embed_);
    for (int64_t i = 0; i < config.depth; ++i) {
        blocks_.push_back(std::make_unique<DeitBlock>(config, dtype));
        add_module("blocks." + std::to_string(i), *blocks_.back());
    }
    add_module("norm", norm_);
    add_module("quant", quant_);
    add_module("head", head_);
}

double Deit::drop_rate(size_t i) const {
    if (blocks_.size() == 1) return 0.0;
    return config().drop_path * static_cast<double>(i) / static_cast<double>(blocks_.size() - 1);
}

Tensor Deit::keep(const Tensor& pictures, const Tensor& random_key) {
    if (!training() || config().drop_path == 0 || blocks_.size() == 1) return {};
    VVTQ_CHECK(random_key.defined(), "stochastic depth needs a random key");
    const auto rows = static_cast<int64_t>(2 * blocks_.size());
    if (!drop_rates_.defined() || drop_rates_.device() != pictures.device()) {
        std::vector<double> rates;
        for (size_t i = 0; i < blocks_.size(); ++i) rates.insert(rates.end(), 2, drop_rate(i));
        drop_rates_ = Tensor::from(rates, {rows}, engine::DType::f64, pictures.device());
    }
    const Tensor factors({rows, pictures.shape()[0]}, engine::master_of(pictures.dtype()), pictures.device());
    engine::kernels(factors.device()).stochastic_depth(random_key, drop_rates_, factors);
    return factors;
}

Variable Deit::compute(const Tensor& pictures, const Tensor& random_key) {
    const ModelConfig& c = config();
    const engine::Shape& shape = pictures.shape();  // (B, in_chans, S, S)
    VVTQ_CHECK(
        shape.rank() == 4 && shape[1] == c.in_chans && shape[2] == c.img_size && shape[3] == c.img_size,
        "pictures ", shape.str(), ", model of (B, ", c.in_chans, ", ", c.img_size, ", ", c.img_size, ")");
    const Tensor factors = keep(pictures, random_key);
    const Variable tokens = autograd::prepend_token(cls_token_, patch_embed_.forward(Variable(pictures)));
    Residual x{autograd::add_broadcast(tokens, pos_embed_), {}, {}};
    for (size_t i = 0; i < blocks_.size(); ++i) {
        Tensor branches[2];
        for (int64_t branch = 0; branch < 2 && factors.defined() && drop_rate(i) > 0; ++branch) {
            const int64_t row = 2 * static_cast<int64_t>(i) + branch;
            branches[branch] = factors.slice(row, row + 1).reshape({shape[0]});
        }
        x = blocks_[i]->forward(x, branches);
    }
    // from here on the class token alone counts
    const Variable token =
        autograd::residual(autograd::select_token(x.x, 0), autograd::select_token(x.branch, 0), x.keep);
    const Variable exact = autograd::cast(token, cls_token_.value().dtype());
    return head_.forward(norm_.forward({exact, {}, {}}, *this, quant_).n);
}

}  // namespace vvtq::nn
