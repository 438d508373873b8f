// deit: the data-efficient image transformer (Touvron et al. 2021), with quantizer slots.
#pragma once

#include <memory>
#include <vector>

#include "nn/attention.h"
#include "nn/model.h"

namespace vvtq::nn {

/// x += keep attn(norm1 x); x += keep mlp(norm2 x).
class DeitBlock : public Module {
  public:
    DeitBlock(const ModelConfig& config, engine::DType dtype);

    /// x (B, N, C). `keep`: the factors of the two branches, each (B) or undefined.
    Residual forward(const Residual& x, const Tensor (&keep)[2]);

  private:
    LayerNorm norm1_;
    Attention attn_;
    LayerNorm norm2_;
    Mlp mlp_;
};

/// specification section 4: patches, class token, position embedding, blocks, norm, and on the class token
/// alone `quant` and `head`, which compute in the dtype of the parameters. Stochastic depth: in training a
/// branch of block i is left out of a picture with probability drop_path i / (depth - 1), and divided by the
/// rest where it stays.
class Deit : public Model {
  public:
    /// Throws Error(Fault::input) naming the flags of sizes that do not fit.
    Deit(const ModelConfig& config, engine::DType dtype);

  private:
    Variable compute(const Tensor& pictures, const Tensor& random_key) override;
    /// The probability of leaving out a branch of block i.
    double drop_rate(size_t i) const;
    /// Factors (2 depth, B) of all branches; undefined where every branch stays.
    Tensor keep(const Tensor& pictures, const Tensor& random_key);

    Variable& cls_token_;  // (1, 1, C)
    Variable& pos_embed_;  // (1, N + 1, C)
    PatchEmbed patch_embed_;
    std::vector<std::unique_ptr<DeitBlock>> blocks_;
    LayerNorm norm_;
    QuantizerSlot quant_{Values::activation, Bits::always_8};
    Linear head_;
    Tensor drop_rates_;  // (2 depth) f64
};

}  // namespace vvtq::nn
