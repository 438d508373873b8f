// weight_pass: all weights of a model quantized in one pass, with their bin regularizer where it is asked
// for.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "nn/model.h"
#include "nn/quantizer.h"

namespace vvtq::quant {

/// Quantizes every weight whose quantizer gives its parameters (nn::Quantizer::params); the others are
/// quantized by their layers, one by one.
class WeightPass : public nn::WeightPass {
  public:
    /// `model` must have its quantizers and outlive this.
    explicit WeightPass(nn::Module& model);

    void prepare(engine::DType dtype, bool collect) override;
    void release() override;
    std::vector<nn::Variable> collected() const override { return leaves_; }
    void backward(const nn::Variable& term) override;

    /// From now on `prepare` gives the slot these codes, in row-major order, and the weight has no floats any
    /// more. For inference on the CPU with integer products alone, so do it for all weights; each quantizer
    /// is one that gives its parameters.
    void keep_codes(nn::QuantizerSlot& slot, const std::vector<int8_t>& codes);

    /// Whether `prepare` computes the bin regularizer too.
    void regularize(bool on) { regularize_ = on; }
    /// Whether a `prepare` found no weight to quantize, or would: the regularizer is 0.
    bool has_no_weights() const { return slots_.empty() || (prepared_once_ && layers_.empty()); }
    /// Of the latest `prepare`: the sum (1), and the term of each layer by its path; undefined and empty
    /// without.
    const nn::Variable& regularizer() const { return regularizer_; }
    const std::vector<nn::Tensor>& terms() const { return terms_; }
    const std::vector<std::string>& layers() const { return layers_; }

  private:
    /// The part of `prepare` for codes that are kept.
    void give_kept_codes();

    std::vector<nn::Quantizer*> quantizers_;               // of weights and activations
    std::vector<nn::QuantizerSlot*> slots_;                // of weights with a quantizer
    std::vector<std::string> paths_;                       // of the slots
    std::vector<int64_t> bins_;                            // codes of their quantizers
    std::map<const nn::QuantizerSlot*, nn::Tensor> kept_;  // codes (O, K) of i8
    std::vector<nn::QuantizerSlot*> prepared_;             // by the latest `prepare`
    std::vector<std::string> layers_;                      // paths of those
    std::vector<nn::Variable> codes_, leaves_;  // on the tape, and the leaves that stand in for them
    bool regularize_ = false, prepared_once_ = false;
    nn::Variable regularizer_;
    std::vector<nn::Tensor> terms_;
};

/// That of a model with quantizers; else null.
WeightPass* weight_pass_of(const nn::Model& model);

}  // namespace vvtq::quant
