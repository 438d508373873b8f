// Quantizers with straight-through gradients, specification sections 1 and 5.
#include "autograd/integer_codes.h"
#include "autograd/trace.h"

namespace vvtq::autograd {

using engine::DType;
using engine::kernels;
using engine::Shape;

namespace {

/// The gradients of x, scale and offset from dy, in this order.
Backward lsq_gradients(const Tensor& x, const engine::QuantParams& params) {
    return [x, params](const Tensor& dy, Gradients& dx) {
        const Tensor gradient = x.like(), dscale = params.scale.like();
        const Tensor doffset = params.offset.defined() ? params.offset.like() : Tensor();
        kernels(dy.device()).lsq_backward(dy, x, params, gradient, dscale, doffset);
        dx.set(0, gradient);
        dx.set(1, dscale);
        dx.set(2, doffset);
    };
}

}  // namespace

engine::QuantParams QuantParams::values() const {
    if (!scale.defined()) return {};
    return {scale.value(), offset.defined() ? offset.value() : Tensor(), range, grad_scale, inner};
}

Variable lsq(const Variable& x, const QuantParams& quantizer) {
    const Tensor y = x.value().like();
    const engine::QuantParams params = quantizer.values();
    kernels(y.device()).lsq(x.value(), params, y);
    tell_trace([&] { return OpArguments{{"quantizer", params}}; });
    return record("lsq", y, {x, quantizer.scale, quantizer.offset}, lsq_gradients(x.value(), params));
}

Quantized quantize(const Variable& x, const QuantParams& quantizer) {
    const engine::QuantParams params = quantizer.values();
    VVTQ_CHECK(params.defined() && params.groups() == 1, "no step to quantize with, or several");
    const Tensor& value = x.value();
    const Tensor q(value.shape(), code_dtype(params, value.dtype(), value.device()), value.device());
    kernels(q.device()).lsq_codes(value, params, q);
    tell_trace([&] { return OpArguments{{"quantizer", params}}; });
    Quantized result(
        record("quantize", q, {x, quantizer.scale, quantizer.offset}, lsq_gradients(x.value(), params)));
    result.scale = params.scale;
    result.offset = params.offset;
    return result;
}

namespace {

/// Where the codes of each weight begin in one tensor, and the size of all. A matrix begins aligned; the
/// weights of one matrix have no gap between them.
std::pair<std::vector<int64_t>, int64_t> places_of(const std::vector<WeightParameters>& weights) {
    constexpr int64_t kAlign = 64;  // elements, so that products find their operands aligned
    std::vector<int64_t> begins;
    int64_t end = 0;
    for (const WeightParameters& weight : weights) {
        begins.push_back(weight.follows_previous ? end : (end + kAlign - 1) / kAlign * kAlign);
        end = begins.back() + weight.w.shape().numel();
    }
    return {begins, end};
}

}  // namespace

QuantizedWeights quantize_weights(const std::vector<WeightParameters>& weights, DType dtype,
                                  bool regularize) {
    VVTQ_CHECK(!weights.empty() && !weights[0].follows_previous, "no weights, or none before the first");
    const auto count = static_cast<int64_t>(weights.size());
    const engine::Device device = weights[0].w.value().device();
    const DType master = weights[0].w.value().dtype();
    const auto [begins, total] = places_of(weights);
    bool integer = true;
    for (const WeightParameters& weight : weights) {
        integer = integer && code_dtype(weight.quantizer.values(), dtype, device) == DType::i8;
    }
    const Tensor codes({total}, integer ? DType::i8 : dtype, device);
    const Tensor grad_scales({count}, master, device), terms({count}, master, device);
    std::vector<engine::WeightItem> items;
    std::vector<Output> outputs;
    std::vector<Variable> inputs;
    QuantizedWeights result;
    for (size_t i = 0; i < weights.size(); ++i) {
        const WeightParameters& weight = weights[i];
        const Tensor& w = weight.w.value();
        const auto at = static_cast<int64_t>(i);
        const int64_t outs = w.shape()[0], columns = w.numel() / outs;
        int64_t end = begins[i] + w.numel();
        for (size_t j = i + 1; j < weights.size() && weights[j].follows_previous; ++j) {
            end = begins[j] + weights[j].w.shape().numel();
        }
        result.matrices.push_back(
            {codes.slice(begins[i], end).reshape({(end - begins[i]) / columns, columns}), {}});
        engine::WeightItem item{
            w, weight.quantizer.values(), result.matrices[i].codes.slice(0, outs), {}, {}};
        item.params.grad_scale = grad_scales.slice(at, at + 1);
        if (regularize) {
            item.reg = terms.slice(at, at + 1);
            item.stats = Tensor({weight.bins, 3}, DType::f64, device);
            result.terms.push_back(item.reg);
        }
        items.push_back(item);
        outputs.emplace_back(item.codes, master);
        inputs.push_back(weight.w);
        inputs.push_back(weight.quantizer.scale);
    }
    kernels(device).quantize_weights(items);
    if (regularize) {
        const Tensor sum({1}, master, device);
        kernels(device).sum(terms, sum);
        outputs.emplace_back(sum);
    }
    const auto backward = [items, regularize](const std::vector<Tensor>& dys, Gradients& dx) {
        std::vector<engine::WeightGradientItem> gradients;
        const Tensor dscales({static_cast<int64_t>(items.size())}, items[0].w.dtype(), items[0].w.device());
        for (size_t i = 0; i < items.size(); ++i) {
            const engine::WeightItem& item = items[i];
            const auto at = static_cast<int64_t>(i);
            gradients.push_back(
                {item.w, item.params, item.stats, dys[i], item.w.like(), dscales.slice(at, at + 1)});
        }
        kernels(dscales.device()).quantize_weights_backward(gradients, regularize ? dys.back() : Tensor());
        for (size_t i = 0; i < items.size(); ++i) {
            dx.set(2 * i, gradients[i].dw);
            dx.set(2 * i + 1, gradients[i].dscale);
        }
    };
    tell_trace([&] {
        std::vector<engine::QuantParams> quantizers;
        for (const engine::WeightItem& item : items) quantizers.push_back(item.params);
        return OpArguments{{"quantizers", quantizers}};
    });
    const std::vector<Variable> recorded = record("quantize_weights", std::move(outputs), inputs, backward);
    for (size_t i = 0; i < weights.size(); ++i) {
        result.weights.emplace_back(recorded[i]);
        result.weights[i].scale = items[i].params.scale;
        if (!integer || weights[i].follows_previous) continue;
        WeightMatrix& matrix = result.matrices[i];
        matrix.packed = packed_codes(matrix.codes);
        if (matrix.codes.numel() == items[i].w.numel()) result.weights[i].packed = matrix.packed;
    }
    if (regularize) result.regularizer = recorded.back();
    return result;
}

Variable binary(const Variable& x, const Shape& scale_shape) {
    // x: (B, R, D), scale: (B) or (B, D)
    const Shape& shape = x.shape();
    VVTQ_CHECK(
        shape.rank() == 3 && (scale_shape == Shape({shape[0]}) || scale_shape == Shape({shape[0], shape[2]})),
        "x ", shape.str(), ", scale ", scale_shape.str());
    const Tensor& value = x.value();
    const auto& kernel = kernels(value.device());
    const Tensor s(scale_shape, engine::master_of(value.dtype()), value.device());
    kernel.binary_scale(value, s);
    const Tensor y = value.like();
    kernel.binary(value, s, y);
    tell_trace([&] { return OpArguments{{"scale_shape", scale_shape}}; });
    return record("binary", y, {x}, [x = value](const Tensor& dy, Gradients& dx) {
        const Tensor gradient = x.like();
        kernels(dy.device()).binary_backward(dy, x, gradient);
        dx.set(0, gradient);
    });
}

}  // namespace vvtq::autograd
