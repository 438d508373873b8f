#include "nn/deit.h"

#include "autograd/ops.h"
#include "engine/random.h"

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

DeitBlock::DeitBlock(const ModelConfig& config, int64_t index, double drop_path, engine::DType dtype)
    : index_(index),
      drop_path_(drop_path),
      norm1_(config.embed_dim, kNormEps, dtype),
      attn_(config.embed_dim, config.num_heads, dtype),
      norm2_(config.embed_dim, kNormEps, dtype),
      mlp_(config.embed_dim, hidden_width(config), dtype) {
    add_module("norm1", norm1_);
    add_module("attn", attn_);
    add_module("norm2", norm2_);
    add_module("mlp", mlp_);
}

Tensor DeitBlock::keep(const Tensor& x, uint64_t branch, uint64_t random_key) const {
    if (!training() || drop_path_ == 0) return {};
    std::vector<double> factors(static_cast<size_t>(x.shape()[0]));
    for (size_t b = 0; b < factors.size(); ++b) {
        engine::Random random(engine::mix_key({random_key, static_cast<uint64_t>(index_), branch, b}));
        factors[b] = random.uniform() < drop_path_ ? 0.0 : 1.0 / (1.0 - drop_path_);
    }
    return Tensor::from(factors, {x.shape()[0]}, x.dtype(), x.device());
}

Variable DeitBlock::forward(const Variable& x, uint64_t random_key) {
    const autograd::Scope scope(name());
    const Variable y =
        autograd::residual(x, attn_.forward(norm1_.forward(x)), keep(x.value(), 0, random_key));
    return autograd::residual(y, mlp_.forward(norm2_.forward(y)), keep(y.value(), 1, random_key));
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
        const double rate = config.depth == 1 ? 0.0
                                              : config.drop_path * static_cast<double>(i) /
                                                    static_cast<double>(config.depth - 1);
        blocks_.push_back(std::make_unique<DeitBlock>(config, i, rate, dtype));
        add_module("blocks." + std::to_string(i), *blocks_.back());
    }
    add_module("norm", norm_);
    add_module("quant", quant_);
    add_module("head", head_);
}

Variable Deit::forward(const Tensor& pictures, uint64_t random_key) {
    const ModelConfig& c = config();
    const engine::Shape& shape = pictures.shape();  // (B, in_chans, S, S)
    VVTQ_CHECK(
        shape.rank() == 4 && shape[1] == c.in_chans && shape[2] == c.img_size && shape[3] == c.img_size,
        "pictures ", shape.str(), ", model of (B, ", c.in_chans, ", ", c.img_size, ", ", c.img_size, ")");
    Variable x = autograd::prepend_token(cls_token_, patch_embed_.forward(Variable(pictures)));
    x = autograd::add_broadcast(x, pos_embed_);
    for (const auto& block : blocks_) x = block->forward(x, random_key);
    x = norm_.forward(autograd::select_token(x, 0));  // row by row, so the other tokens need none
    return head_.forward(quant_(x));
}

}  // namespace vvtq::nn
