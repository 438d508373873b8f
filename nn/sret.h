// sret: the sliced recursive transformer (Shen et al. 2022), with quantizer slots.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "nn/block.h"
#include "nn/convolution.h"
#include "nn/model.h"

namespace vvtq::nn {

/// A learned scalar k (1), under the name `bias`.
class Coefficient : public Module {
  public:
    explicit Coefficient(engine::DType dtype)
        : value_(add_parameter("bias", Tensor::full({1}, 1.0, dtype))) {}
    const Variable& value() const { return value_; }

  private:
    Variable& value_;
};

/// x = k1 x + k2 keep attn(norm1 x); x = k3 x + k4 keep mlp(norm2 x).
class SretBlock : public Module {
  public:
    SretBlock(int64_t width, int64_t heads, int64_t hidden, engine::DType dtype);

    /// x (B, N, C). `keep`: the factors of the two branches, each (B) or undefined.
    Variable forward(const Variable& x, const Tensor (&keep)[2], const TokenGroups& groups);

  private:
    LayerNorm norm1_;
    Attention attn_;
    LayerNorm norm2_;
    Mlp mlp_;
    Coefficient coefficients_[4];
};

/// The non-projection layer between two uses of a block: x = k1 x + k2 mlp(norm1 x).
class SretMlpLayer : public Module {
  public:
    SretMlpLayer(int64_t width, int64_t hidden, engine::DType dtype);

    Variable forward(const Variable& x);

  private:
    LayerNorm norm1_;
    Mlp mlp_;
    Coefficient coefficients_[2];
};

/// Three 3 x 3 convolutions (in_chans -> C/2 -> C -> C), each behind an 8-bit quantizer and with batch
/// normalization and ReLU; as many of them have stride 2 as patch_size has factors of 2.
class SretStem : public Module {
  public:
    SretStem(const ModelConfig& config, engine::DType dtype);

    /// Pictures (B, in_chans, S, S) -> tokens (B, (S / patch_size)^2, C).
    Variable forward(const Variable& pictures);

  private:
    struct Layer {
        Layer(int64_t in, int64_t out, engine::DType dtype) : conv(in, out, dtype), bn(out, dtype) {}
        QuantizerSlot quant{Values::activation, Bits::always_8};
        Convolution conv;
        BatchNormRelu bn;
    };
    int64_t img_size_, in_chans_, halvings_;
    std::vector<std::unique_ptr<Layer>> layers_;
    std::vector<int64_t> widths_;  // of each layer's output
};

/// Blocks at one resolution. Each is used twice in a row, the first time with its tokens in `slices[0]`
/// groups, the second time in `slices[1]`, for which they are permuted where that is more than one. Behind
/// every use is a layer without projections.
class SretStage : public Module {
  public:
    struct Sizes {
        int64_t width, heads, hidden, np_hidden, depth;  // depth: uses
        int64_t slices[2];
    };
    SretStage(const Sizes& sizes, engine::DType dtype);

    /// `order` gives the permutation of use i of the model; `first`: the number of the stage's first use.
    using Orders = std::function<autograd::TokenOrder(size_t use, int64_t tokens)>;
    Variable forward(Variable x, const StochasticDepth& drops, const Orders& order, size_t first);
    size_t depth() const { return 2 * blocks_.size(); }

  private:
    int64_t slices_[2];
    std::vector<std::unique_ptr<SretBlock>> blocks_;
    std::vector<std::unique_ptr<SretMlpLayer>> layers_;
};

/// Between stages: quantizer and grouped convolution with stride 2, both of 8 bits.
class SretPool : public Module {
  public:
    SretPool(int64_t width, engine::DType dtype);

    /// (B, side^2, C) -> (B, ceil(side / 2)^2, 2 C).
    Variable forward(const Variable& x, int64_t side);

  private:
    QuantizerSlot quant_{Values::activation, Bits::always_8};
    GroupedConvolution conv_;
};

/// specification section 4: stem, position embedding, stages with poolings between them, mean over
/// positions, norm, `quant`, `head`; from the mean on in the dtype of the parameters. Permutations are drawn
/// from the step's key in training, and from a fixed one in evaluation and without a key.
class Sret : public Model {
  public:
    /// Throws Error(Fault::input) naming sizes that do not fit each other.
    Sret(const ModelConfig& config, engine::DType dtype);

    /// Takes these permutations of n tokens instead of drawn ones, in every use.
    void fix_permutations(std::function<std::vector<int64_t>(int64_t n)> permutation) {
        permutation_ = std::move(permutation);
    }

  private:
    Variable compute(const Tensor& pictures, const Draws& draws) override;
    autograd::TokenOrder order(size_t use, int64_t tokens, const Tensor& key) const;

    Variable& pos_embed_;  // (1, C, side, side)
    SretStem patch_embed_;
    std::vector<std::unique_ptr<SretStage>> transformers_;
    std::vector<std::unique_ptr<SretPool>> pools_;
    LayerNorm norm_;
    QuantizerSlot quant_{Values::activation, Bits::always_8};
    Linear head_;
    StochasticDepth stochastic_depth_;  // two branches a use
    Tensor fixed_key_;                  // (1) i64
    std::function<std::vector<int64_t>(int64_t)> permutation_;
};

Family sret_family();

}  // namespace vvtq::nn
