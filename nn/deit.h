// deit: the data-efficient image transformer (Touvron et al. 2021), with quantizer slots.
#pragma once

#include <memory>
#include <vector>

#include "nn/block.h"
#include "nn/model.h"

namespace vvtq::nn {

/// specification section 4: patches, class token, position embedding, blocks, norm, and on the class token
/// alone `quant` and `head`, which compute in the dtype of the parameters. Stochastic depth: in training a
/// branch of block i is left out of a picture with probability drop_path i / (depth - 1), and divided by the
/// rest where it stays.
class Deit : public Model {
  public:
    /// Throws Error(Fault::input) naming sizes that do not fit each other.
    Deit(const ModelConfig& config, engine::DType dtype);

  private:
    Variable compute(const Tensor& pictures, const Tensor& random_key) override;
    Variable& cls_token_;  // (1, 1, C)
    Variable& pos_embed_;  // (1, N + 1, C)
    PatchEmbed patch_embed_;
    std::vector<std::unique_ptr<Block>> blocks_;
    LayerNorm norm_;
    QuantizerSlot quant_{Values::activation, Bits::always_8};
    Linear head_;
    StochasticDepth stochastic_depth_;  // two branches a block
};

Family deit_family();

}  // namespace vvtq::nn
