// block: the transformer block of DeiT and Swin, and stochastic depth.
#pragma once

#include <vector>

#include "nn/attention.h"

namespace vvtq::nn {

/// Sizes of a block. `bias_entries` as in Attention.
struct BlockSizes {
    int64_t width, heads, hidden;
    double eps;
    int64_t bias_entries = 0;
};

/// x += keep attn(norm1 x); x += keep mlp(norm2 x).
class Block : public Module {
  public:
    Block(const BlockSizes& sizes, engine::DType dtype);

    /// x (B, N, C). `keep`: the factors of the two branches, each (B) or undefined.
    Residual forward(const Residual& x, const Tensor (&keep)[2], const TokenGroups& groups = {});

  private:
    LayerNorm norm1_;
    Attention attn_;
    LayerNorm norm2_;
    Mlp mlp_;
};

/// Stochastic depth: in training a branch is left out of a picture with its rate, and divided by the rest
/// where it stays.
class StochasticDepth {
  public:
    /// The rate of each branch, from 0 to below 1.
    explicit StochasticDepth(std::vector<double> rates) : rates_(std::move(rates)) {}

    /// Draws the factors of a batch like `pictures`. Without `training`, or where every rate is 0, all
    /// branches stay and no key is needed.
    void draw(bool training, const Tensor& pictures, const Draws& draws);
    /// Factors (B) of the latest draw; undefined where the branch always stays.
    Tensor keep(size_t branch) const;

  private:
    std::vector<double> rates_;
    Tensor device_rates_;  // (branches) f64
    Tensor factors_;       // (branches, B)
};

}  // namespace vvtq::nn
