// deit: the data-efficient image transformer (Touvron et al. 2021), with quantizer slots.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "nn/block.h"
#include "nn/model.h"

namespace vvtq::nn {

/// specification section 4: patches, class token, position embedding, blocks, norm, and on the class token
/// alone `quant` and `head`, which compute in the dtype of the parameters. Stochastic depth: in training a
/// branch of block i is left out of a picture with probability drop_path i / (depth - 1), and divided by the
/// rest where it stays.
///
/// A distilled model has a second token, `dist_token`, with a classifier of its own, `head_dist`, behind the
/// same quantizer; its logits are the mean of both.
class Deit : public Model {
  public:
    /// Throws Error(Fault::input) naming sizes that do not fit each other.
    Deit(const ModelConfig& config, engine::DType dtype, bool distilled);

  private:
    Variable compute(const Tensor& pictures, const Draws& draws) override;
    /// The logits of token `index` behind the last block.
    Variable classify(const Residual& x, int64_t index, Linear& head);

    Variable& cls_token_;             // (1, 1, C)
    Variable& pos_embed_;             // (1, N + 1, C), distilled (1, N + 2, C)
    Variable* dist_token_ = nullptr;  // (1, 1, C) of distilled models
    PatchEmbed patch_embed_;
    std::vector<std::unique_ptr<Block>> blocks_;
    LayerNorm norm_;
    QuantizerSlot quant_{Values::activation, Bits::always_8};
    Linear head_;
    std::optional<Linear> head_dist_;
    StochasticDepth stochastic_depth_;  // two branches a block
};

Family deit_family();
/// deit_{tiny,small,base}_distilled_patch16_224_quant.
Family distilled_deit_family();

}  // namespace vvtq::nn
