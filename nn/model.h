// model: what every vision model here offers, and how one is made from its sizes.
#pragma once

#include <memory>

#include "nn/family.h"
#include "nn/module.h"

namespace vvtq::nn {

/// Quantizes all weights of a model at once; quant/attach gives a model one.
class WeightPass {
  public:
    virtual ~WeightPass() = default;
    /// Fills the weights' slots (QuantizerSlot::prepare) with codes of `dtype`. With `collect` the codes are
    /// leaves that collect their gradients, for any number of forward passes, until `backward`.
    virtual void prepare(engine::DType dtype, bool collect) = 0;
    /// Forgets them.
    virtual void release() = 0;
    /// Those leaves.
    virtual std::vector<Variable> collected() const = 0;
    /// Goes on from the gradients that they collected to those of weights and steps. `term`: a scalar
    /// computed from the regularizer, to be differentiated too; may be undefined.
    virtual void backward(const Variable& term) = 0;
};

/// pictures (B, in_chans, S, S), normalized -> logits (B, num_classes) of the parameters' dtype. The
/// pictures' dtype is the one it computes in: that of the parameters, or bf16 beside f32 parameters.
class Model : public Module {
  public:
    explicit Model(const ModelConfig& config) : config_(config) {}
    Variable forward(const Tensor& pictures, const Draws& draws = {});
    const ModelConfig& config() const { return config_; }
    void set_weight_pass(std::unique_ptr<WeightPass> pass) { weight_pass_ = std::move(pass); }
    WeightPass* weight_pass() const { return weight_pass_.get(); }

  private:
    friend class PreparedWeights;
    virtual Variable compute(const Tensor& pictures, const Draws& draws) = 0;

    ModelConfig config_;
    std::unique_ptr<WeightPass> weight_pass_;
    bool prepared_ = false;  // a PreparedWeights lives
};

/// While it lives, the weights of `model` are quantized, once for all its forward passes. Those passes leave
/// the gradients of the codes here, and `backward` turns their sum into gradients of the parameters. A model
/// without a weight pass has none of it.
class PreparedWeights {
  public:
    PreparedWeights(Model& model, engine::DType dtype);
    ~PreparedWeights();
    PreparedWeights(const PreparedWeights&) = delete;
    PreparedWeights& operator=(const PreparedWeights&) = delete;

    /// The codes, leaves of the tape.
    const std::vector<Variable>& codes() const { return codes_; }
    /// `term` as in WeightPass::backward. Once.
    void backward(const Variable& term);

  private:
    Model& model_;
    std::vector<Variable> codes_;
};

/// A key for `forward`.
Tensor random_key(uint64_t key, engine::Device device = engine::Device::cpu);

/// The model without memory: its parameters and buffers have names, shapes and dtypes alone. Throws
/// Error(Fault::input) naming the fields where a size is out of its bounds, sizes do not fit each other, or
/// the model has more than 2^30 parameters.
std::unique_ptr<Model> make_shapes(const ModelConfig& config, engine::DType dtype);

/// Builds the model and draws its start weights from `seed`: normal with std 0.02, cut at two std;
/// convolutions uniform within 1 / sqrt(fan_in); biases 0, norm weights and SReT's coefficients 1. A
/// parameter's values depend on seed, name and size alone. Throws as make_shapes does, before anything is
/// allocated. dtype f32 or f64.
std::unique_ptr<Model> make_model(const ModelConfig& config, engine::DType dtype, uint64_t seed);
/// The same without start weights, whose values are undefined until a file gives them.
std::unique_ptr<Model> make_model(const ModelConfig& config, engine::DType dtype);

}  // namespace vvtq::nn
