#include "nn/convolution.h"

#include "nn/token_order.h"

namespace vvtq::nn {

namespace {

constexpr int64_t kTaps = 9;

autograd::TokenOrder channels_last(int64_t channels) {
    std::vector<int64_t> index;
    for (int64_t i = 0; i < kTaps * channels; ++i) index.push_back(i % channels * kTaps + i / channels);
    return order_of(index);
}

}  // namespace

Convolution::Convolution(int64_t in, int64_t out, engine::DType dtype)
    : product_({out, in, 3, 3}, dtype, Bits::always_8), channels_last_(channels_last(in)) {
    add_module("", product_);
}

Variable Convolution::forward(const Quantized& x, const engine::Convolution& shape) {
    const autograd::Scope scope(name());
    channels_last_ = on_device(channels_last_, x.q.value().device());
    Quantized w = product_.weight();
    const int64_t outputs = w.q.shape()[0], columns = w.q.shape().numel() / outputs;
    w = autograd::gather_tokens(autograd::reshape(w, {outputs, columns, 1}), channels_last_);
    return autograd::linear(autograd::unfold(x, shape), autograd::reshape(w, {outputs, columns}),
                            product_.bias());
}

GroupedConvolution::GroupedConvolution(int64_t in, engine::DType dtype)
    : weight_({2 * in, 1, 3, 3}, dtype, Bits::always_8) {
    add_module("", weight_);
}

Variable GroupedConvolution::forward(const Quantized& x, const engine::Convolution& shape) {
    const autograd::Scope scope(name());
    return autograd::grouped_convolution(x, shape, weight_.weight(), weight_.bias());
}

BatchNormRelu::BatchNormRelu(int64_t width, engine::DType dtype)
    : weight_(add_parameter("weight", Tensor::full({width}, 1.0, dtype))),
      bias_(add_parameter("bias", Tensor::zeros({width}, dtype))),
      running_mean_(add_buffer("running_mean", Tensor::zeros({width}, dtype))),
      running_var_(add_buffer("running_var", Tensor::full({width}, 1.0, dtype))),
      batches_(add_buffer("num_batches_tracked", Tensor::zeros({1}, dtype))) {}

Variable BatchNormRelu::forward(const Variable& x) {
    constexpr double kEps = 1e-5;
    const autograd::Scope scope(name());
    return autograd::batch_norm_relu(x, weight_, bias_, kEps, {running_mean_, running_var_, batches_},
                                     training(), nullptr);
}

}  // namespace vvtq::nn
