#include "nn/layers.h"

#include "autograd/ops.h"

namespace vvtq::nn {

Linear::Linear(const engine::Shape& weight_shape, engine::DType dtype, Bits bits)
    : weight_(add_parameter("weight", Tensor::zeros(weight_shape, dtype))),
      bias_(add_parameter("bias", Tensor::zeros({weight_shape[0]}, dtype))),
      quant_weight_(weight_, bits) {
    VVTQ_CHECK(weight_shape.rank() >= 2 && weight_shape.numel() > 0, "weight ", weight_shape.str());
    add_module("", quant_weight_);
}

Variable Linear::forward(const Variable& x) {
    const autograd::Scope scope(name());
    Variable w = quant_weight_(weight_);
    const engine::Shape& shape = w.shape();
    if (shape.rank() != 2) w = autograd::reshape(w, {shape[0], shape.numel() / shape[0]});
    return autograd::linear(x, w, bias_);
}

LayerNorm::LayerNorm(int64_t width, double eps, engine::DType dtype)
    : weight_(add_parameter("weight", Tensor::full({width}, 1.0, dtype))),
      bias_(add_parameter("bias", Tensor::zeros({width}, dtype))),
      eps_(eps) {}

Variable LayerNorm::forward(const Variable& x) {
    const autograd::Scope scope(name());
    return autograd::layer_norm(x, weight_, bias_, eps_);
}

PatchEmbed::PatchEmbed(int64_t in_chans, int64_t patch_size, int64_t width, engine::DType dtype)
    : patch_size_(patch_size), proj_({width, in_chans, patch_size, patch_size}, dtype, Bits::always_8) {
    add_module("quant", quant_);
    add_module("proj", proj_);
}

Variable PatchEmbed::forward(const Variable& pictures) {
    const autograd::Scope scope(name());
    return proj_.forward(autograd::patchify(quant_(pictures), patch_size_));
}

Mlp::Mlp(int64_t width, int64_t hidden, engine::DType dtype)
    : fc1_({hidden, width}, dtype), fc2_({width, hidden}, dtype) {
    add_module("quant1", quant1_);
    add_module("fc1", fc1_);
    add_module("quant2", quant2_);
    add_module("fc2", fc2_);
}

Variable Mlp::forward(const Variable& x) {
    const autograd::Scope scope(name());
    return fc2_.forward(quant2_(autograd::gelu(fc1_.forward(quant1_(x)))));
}

}  // namespace vvtq::nn
