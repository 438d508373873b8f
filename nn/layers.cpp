#include "nn/layers.h"

#include "autograd/ops.h"

namespace vvtq::nn {

Linear::Linear(const engine::Shape& weight_shape, engine::DType dtype, Bits bits, bool biased)
    : weight_(add_parameter("weight", Tensor(weight_shape, dtype))),
      bias_(biased ? add_parameter("bias", Tensor::zeros({weight_shape[0]}, dtype)) : Variable()),
      quant_weight_(weight_, bits) {
    VVTQ_CHECK(weight_shape.rank() >= 2 && weight_shape.numel() > 0, "weight ", weight_shape.str());
    add_module("", quant_weight_);
}

Variable Linear::forward(const Quantized& x) {
    const autograd::Scope scope(name());
    return autograd::linear(x, quant_weight_.quantized_weight(), bias_);
}

Quantized Linear::weight() {
    const autograd::Scope scope(name());
    return quant_weight_.quantized_weight();
}

LayerNorm::LayerNorm(int64_t width, double eps, engine::DType dtype)
    : weight_(add_parameter("weight", Tensor::full({width}, 1.0, dtype))),
      bias_(add_parameter("bias", Tensor::zeros({width}, dtype))),
      eps_(eps) {}

Variable LayerNorm::forward(const Variable& x) {
    const autograd::Scope scope(name());
    return autograd::layer_norm(x, weight_, bias_, eps_);
}

autograd::NormedResidual LayerNorm::forward(const Residual& stream, const Module& owner,
                                            QuantizerSlot& slot) {
    if (const auto params = slot.fusable_params(stream.x.shape().numel())) {
        const autograd::Scope scope(name());
        return autograd::residual_norm(stream.x, stream.branch, stream.keep, weight_, bias_, eps_, *params);
    }
    const Variable y =
        stream.branch.defined() ? autograd::residual(stream.x, stream.branch, stream.keep) : stream.x;
    const Variable n = forward(y);
    const autograd::Scope scope(owner.name());
    return {y, slot.quantized(n)};
}

autograd::NormedResidual LayerNorm::forward(const Residual& stream) {
    const autograd::Scope scope(name());
    return autograd::residual_norm(stream.x, stream.branch, stream.keep, weight_, bias_, eps_, {});
}

PatchEmbed::PatchEmbed(int64_t in_chans, int64_t patch_size, int64_t width, engine::DType dtype)
    : patch_size_(patch_size), proj_({width, in_chans, patch_size, patch_size}, dtype, Bits::always_8) {
    add_module("quant", quant_);
    add_module("proj", proj_);
}

Variable PatchEmbed::forward(const Variable& pictures) {
    const autograd::Scope scope(name());
    Quantized patches = quant_.quantized(pictures);
    patches.q = autograd::patchify(patches.q, patch_size_);
    return proj_.forward(patches);
}

Mlp::Mlp(int64_t width, int64_t hidden, engine::DType dtype)
    : fc1_({hidden, width}, dtype), fc2_({width, hidden}, dtype) {
    add_module("quant1", quant1_);
    add_module("fc1", fc1_);
    add_module("quant2", quant2_);
    add_module("fc2", fc2_);
}

Variable Mlp::forward(const Quantized& x) {
    const autograd::Scope scope(name());
    const int64_t rows = x.q.shape().rows();
    if (const auto hidden = quant2_.fusable_params(rows * fc1_.bias().shape().numel())) {
        return autograd::mlp(x, fc1_.weight(), fc1_.bias(), *hidden, fc2_.weight(), fc2_.bias());
    }
    return fc2_.forward(quant2_.quantized(autograd::gelu(fc1_.forward(x))));
}

}  // namespace vvtq::nn
