// swin: the hierarchical transformer with shifted windows (Liu et al. 2021), with quantizer slots.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "nn/block.h"
#include "nn/model.h"
#include "nn/windows.h"

namespace vvtq::nn {

/// Pictures (B, in_chans, S, S) -> tokens (B, (S/P)^2, width): patches, projection with 8-bit weight, norm.
/// `quant` is in the state files and quantizes nothing.
class SwinPatchEmbed : public Module {
  public:
    SwinPatchEmbed(const ModelConfig& config, engine::DType dtype);

    Variable forward(const Variable& pictures);

  private:
    int64_t patch_size_;
    QuantizerSlot quant_{Values::activation, Bits::always_8};
    Linear proj_;
    LayerNorm norm_;
};

/// (B, side^2, C) -> (B, (side/2)^2, 2 C): the four tokens of each 2 x 2 square side by side, norm, and
/// `reduction`, whose weight has 8 bits and whose input is not quantized.
class PatchMerging : public Module {
  public:
    PatchMerging(int64_t side, int64_t width, engine::DType dtype);

    Variable forward(const Residual& x);

  private:
    LayerNorm norm_;
    Linear reduction_;
    autograd::TokenOrder order_;
};

/// Blocks at one resolution, every other one with shifted windows, and the merging behind them.
class SwinStage : public Module {
  public:
    struct Sizes {
        int64_t side, width, heads, hidden, depth, window;
        bool merges;
    };
    SwinStage(const Sizes& sizes, engine::DType dtype);

    /// `first`: the first block's number in the model.
    Residual forward(Residual x, const StochasticDepth& drops, size_t first);
    size_t depth() const { return blocks_.size(); }

  private:
    TokenGroups windows_[2];  // as they are, and shifted
    std::vector<std::unique_ptr<Block>> blocks_;
    std::optional<PatchMerging> downsample_;
};

/// specification section 4: patches, stages, norm, mean over tokens, `quant`, `head`; from the mean on in the
/// dtype of the parameters. Stochastic depth grows from 0 to drop_path over the blocks.
class Swin : public Model {
  public:
    /// Throws Error(Fault::input) naming sizes that do not fit each other.
    Swin(const ModelConfig& config, engine::DType dtype);

  private:
    Variable compute(const Tensor& pictures, const Draws& draws) override;

    SwinPatchEmbed patch_embed_;
    std::vector<std::unique_ptr<SwinStage>> layers_;
    LayerNorm norm_;
    QuantizerSlot quant_{Values::activation, Bits::always_8};
    Linear head_;
    StochasticDepth stochastic_depth_;  // two branches a block
};

Family swin_family();

}  // namespace vvtq::nn
