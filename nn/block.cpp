#include "nn/block.h"

#include <algorithm>

#include "engine/kernels.h"

namespace vvtq::nn {

Block::Block(const BlockSizes& sizes, engine::DType dtype)
    : norm1_(sizes.width, sizes.eps, dtype),
      attn_(sizes.width, sizes.heads, dtype, sizes.bias_entries),
      norm2_(sizes.width, sizes.eps, dtype),
      mlp_(sizes.width, sizes.hidden, dtype) {
    attn_.allow_head_wise();
    add_module("norm1", norm1_);
    add_module("attn", attn_);
    add_module("norm2", norm2_);
    add_module("mlp", mlp_);
}

Residual Block::forward(const Residual& x, const Tensor (&keep)[2], const TokenGroups& groups) {
    const autograd::Scope scope(name());
    const auto first = norm1_.forward(x, attn_, attn_.quant_input());
    const Residual middle{first.y, attn_.forward(first.n, groups), keep[0]};
    const auto second = norm2_.forward(middle, mlp_, mlp_.quant1());
    return {second.y, mlp_.forward(second.n), keep[1]};
}

void StochasticDepth::draw(bool training, const Tensor& pictures, const Draws& draws) {
    factors_ = {};
    const bool drops = std::any_of(rates_.begin(), rates_.end(), [](double rate) { return rate > 0; });
    if (!training || !drops) return;
    VVTQ_CHECK(draws.key.defined(), "stochastic depth needs a random key");
    const auto rows = static_cast<int64_t>(rates_.size());
    if (!device_rates_.defined() || device_rates_.device() != pictures.device()) {
        device_rates_ = Tensor::from(rates_, {rows}, engine::DType::f64, pictures.device());
    }
    factors_ = Tensor({rows, pictures.shape()[0]}, engine::master_of(pictures.dtype()), pictures.device());
    engine::kernels(factors_.device()).stochastic_depth(draws.key, device_rates_, draws.places, factors_);
}

Tensor StochasticDepth::keep(size_t branch) const {
    if (!factors_.defined() || rates_.at(branch) == 0) return {};
    const auto row = static_cast<int64_t>(branch);
    return factors_.slice(row, row + 1).reshape({factors_.shape()[1]});
}

}  // namespace vvtq::nn
