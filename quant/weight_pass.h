// weight_pass: all weights of a model quantized in one pass, with their bin regularizer where it is asked
// for.
#pragma once

#include <string>
#include <vector>

#include "nn/model.h"
#include "quant/lsq.h"

namespace vvtq::quant {

/// Quantizes every weight that has an LSQ quantizer, and raises all steps of the model that training has
/// brought below engine::kLeastStep.
class WeightPass : public nn::WeightPass {
  public:
    /// `model` must have its quantizers and outlive this.
    explicit WeightPass(nn::Module& model);

    void prepare(engine::DType dtype) override;
    void release() override;

    /// Whether `prepare` computes the bin regularizer too.
    void regularize(bool on) { regularize_ = on; }
    /// Of the latest `prepare`: the sum (1), and the term of each layer by its path; undefined and empty
    /// without.
    const nn::Variable& regularizer() const { return regularizer_; }
    const std::vector<nn::Tensor>& terms() const { return terms_; }
    const std::vector<std::string>& layers() const { return layers_; }

  private:
    struct Weight {
        nn::QuantizerSlot* slot;
        Lsq* quantizer;
    };
    std::vector<Weight> weights_;
    std::vector<std::string> layers_;
    std::vector<Lsq*> quantizers_;  // of weights and activations
    bool regularize_ = false;
    nn::Variable regularizer_;
    std::vector<nn::Tensor> terms_;
};

}  // namespace vvtq::quant
