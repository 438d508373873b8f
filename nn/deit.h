// deit: the data-efficient image transformer (Touvron et al. 2021), with quantizer slots.
#pragma once

#include <memory>
#include <vector>

#include "nn/attention.h"
#include "nn/model.h"

namespace vvtq::nn {

/// x += keep attn(norm1 x); x += keep mlp(norm2 x). `drop_path` is the probability of leaving a branch out
/// for a picture; branches that stay are divided by 1 - drop_path. In evaluation every branch stays as it is.
class DeitBlock : public Module {
  public:
    DeitBlock(const ModelConfig& config, int64_t index, double drop_path, engine::DType dtype);

    /// x (B, N, C) -> (B, N, C).
    Variable forward(const Variable& x, uint64_t random_key);

  private:
    /// The factors (B) of one branch; undefined where every branch stays.
    Tensor keep(const Tensor& x, uint64_t branch, uint64_t random_key) const;

    int64_t index_;
    double drop_path_;
    LayerNorm norm1_;
    Attention attn_;
    LayerNorm norm2_;
    Mlp mlp_;
};

/// specification section 4: patches, class token, position embedding, blocks, norm, and on the class token
/// alone `quant` and `head`.
class Deit : public Model {
  public:
    /// Throws Error(Fault::input) naming the flags of sizes that do not fit.
    Deit(const ModelConfig& config, engine::DType dtype);

    Variable forward(const Tensor& pictures, uint64_t random_key) override;

  private:
    Variable& cls_token_;  // (1, 1, C)
    Variable& pos_embed_;  // (1, N + 1, C)
    PatchEmbed patch_embed_;
    std::vector<std::unique_ptr<DeitBlock>> blocks_;
    LayerNorm norm_;
    QuantizerSlot quant_{Values::activation, Bits::always_8};
    Linear head_;
};

}  // namespace vvtq::nn
