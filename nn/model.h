// model: what every vision model here offers, and the table of published names.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nn/module.h"

namespace vvtq::nn {

/// Sizes of a model. `model_config(name)` gives the published ones; flags change single fields.
struct ModelConfig {
    std::string name;    // published name, with _quant
    std::string family;  // "deit", "swin" or "sret"
    int64_t img_size = 224;
    int64_t patch_size = 16;  // of sret: how much smaller the stem makes a picture
    int64_t in_chans = 3;
    int64_t num_classes = 1000;
    int64_t embed_dim = 192;             // of the first stage
    int64_t depth = 12;                  // deit
    int64_t num_heads = 3;               // deit
    std::vector<int64_t> depths, heads;  // of each stage, which are as wide as embed_dim 2^s: swin, sret
    int64_t window_size = 7;             // swin, in tokens
    double np_ratio = 1.0;               // sret: MLP ratio of the layers without projections
    double mlp_ratio = 4.0;
    double drop_path = 0.0;  // stochastic depth rate of the last block
};

/// Published names with and without the suffix `_quant`: deit_{tiny,small,base}_patch16_224[_quant],
/// swin_{tiny,small,base}_patch4_window7_224[_quant], SReT_{T,LT,S}[_quant], and deit_nano_patch4_28[_quant]
/// for small pictures. Throws Error(Fault::input) listing the known names.
ModelConfig model_config(const std::string& name);
std::vector<std::string> model_names();

/// Quantizes all weights of a model at once, at the start of a forward pass; quant/attach gives a model one.
class WeightPass {
  public:
    virtual ~WeightPass() = default;
    /// Fills the weights' slots (QuantizerSlot::prepare) with codes of `dtype`.
    virtual void prepare(engine::DType dtype) = 0;
    /// Forgets them.
    virtual void release() = 0;
};

/// pictures (B, in_chans, S, S), normalized -> logits (B, num_classes) of the parameters' dtype. The
/// pictures' dtype is the one it computes in: that of the parameters, or bf16 beside f32 parameters.
class Model : public Module {
  public:
    explicit Model(const ModelConfig& config) : config_(config) {}
    /// `random_key` (1) i64 decides stochastic depth; needed in training mode only.
    Variable forward(const Tensor& pictures, const Tensor& random_key = {});
    const ModelConfig& config() const { return config_; }
    void set_weight_pass(std::unique_ptr<WeightPass> pass) { weight_pass_ = std::move(pass); }
    WeightPass* weight_pass() const { return weight_pass_.get(); }

  private:
    virtual Variable compute(const Tensor& pictures, const Tensor& random_key) = 0;

    ModelConfig config_;
    std::unique_ptr<WeightPass> weight_pass_;
};

/// A key for `forward`.
Tensor random_key(uint64_t key, engine::Device device = engine::Device::cpu);

/// Builds the model and draws its start weights from `seed`: normal with std 0.02, cut at two std;
/// convolutions uniform within 1 / sqrt(fan_in); biases 0, norm weights and SReT's coefficients 1. A
/// parameter's values depend on seed, name and size alone. Sizes that do not fit (a picture that patches do
/// not tile, a width that heads do not divide) throw Error(Fault::input) naming the flags. dtype f32 or f64.
std::unique_ptr<Model> make_model(const ModelConfig& config, engine::DType dtype, uint64_t seed);

}  // namespace vvtq::nn
