// stand_in: another quantizer in a slot for a while, to see what a model does with it.
#pragma once

#include <memory>
#include <vector>

#include "nn/quantizer.h"

namespace vvtq::quant {

/// y = x. Ops do not quantize in its place, so its slot sees its tensor.
class Float : public nn::Quantizer {
  public:
    nn::Variable operator()(const nn::Variable& x) override { return x; }
    nn::QuantizerDescription describe() const override { return {"float", 32, {}, {}, {}}; }
};

/// An LSQ quantizer of the slot's kind with one step, and an offset where the slot's values have one, of the
/// least mean-squared error on `values`: the latent weight, or activations of some pictures. A step of
/// `values` that are all zero is the least one.
std::unique_ptr<nn::Quantizer> fitted_quantizer(const nn::QuantizerSlot& slot, int bits,
                                                const nn::Tensor& values);

/// While it lives, `quantizer` stands in the slot.
class StandIn {
  public:
    StandIn(nn::QuantizerSlot& slot, nn::Quantizer& quantizer) : slot_(slot) { slot.stand_in(&quantizer); }
    StandIn(const StandIn&) = delete;
    StandIn& operator=(const StandIn&) = delete;
    ~StandIn() { slot_.stand_in(nullptr); }

  private:
    nn::QuantizerSlot& slot_;
};

}  // namespace vvtq::quant
