// binary: quantizers of one bit (specification section 1). Their scale is computed from each tensor, so they
// have no parameter and no start value.
#pragma once

#include "quant/registry.h"

namespace vvtq::quant {

/// y = s sign(x), sign(0) = 0, dx = dy where |x| <= 1; no gradient passes through s, a mean of |x|:
///   weight                                        over the whole tensor
///   x (B, ..., C)                                 over all of a sample: s (B)
///   x (B, N, heads D), head h at columns hD..(h+1)D   over tokens and heads: s (B, D)
///   x (B, heads, N, M)                            over heads and rows: s (B, M)
class Binary : public nn::Quantizer {
  public:
    /// Of the options `weight` and `heads` count.
    explicit Binary(const QuantizerOptions& options) : options_(options) {}

    /// x of one of the shapes above -> the same shape.
    nn::Variable operator()(const nn::Variable& x) override;
    nn::QuantizerDescription describe() const override;

  private:
    QuantizerOptions options_;
};

}  // namespace vvtq::quant
