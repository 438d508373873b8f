// Quantizers with straight-through gradients, specification sections 1 and 5.
#include "autograd/ops.h"

namespace vvtq::autograd {

using engine::CodeRange;
using engine::DType;
using engine::kernels;
using engine::Shape;

namespace {

const Shape kOne({1});

}  // namespace

Variable lsq(const Variable& x, const Variable& alpha, const Variable& beta, CodeRange range,
             const Tensor& g) {
    // x: any, alpha, beta, g: (1)
    VVTQ_CHECK(alpha.shape() == kOne && g.shape() == kOne && (!beta.defined() || beta.shape() == kOne),
               "alpha ", alpha.shape().str(), ", g ", g.shape().str());
    const Tensor offset = beta.defined() ? beta.value() : Tensor();
    const Tensor y = x.value().like();
    kernels(y.device()).lsq(x.value(), alpha.value(), offset, range, y);
    return record(
        "lsq", y, {x, alpha, beta},
        [x = x.value(), alpha = alpha.value(), offset, range, g](const Tensor& dy, Gradients& dx) {
            const Tensor gradient = x.like();
            const Tensor dalpha = alpha.like();
            const Tensor dbeta = offset.defined() ? offset.like() : Tensor();
            kernels(dy.device()).lsq_backward(dy, x, alpha, offset, range, g, gradient, dalpha, dbeta);
            dx.set(0, gradient);
            dx.set(1, dalpha);
            dx.set(2, dbeta);
        });
}

engine::LsqStep LsqParameters::step() const {
    if (!alpha.defined()) return {};
    return {alpha.value(), beta.defined() ? beta.value() : Tensor(), range, g};
}

Quantized quantize(const Variable& x, const LsqParameters& lsq) {
    const engine::LsqStep step = lsq.step();
    VVTQ_CHECK(step.defined() && step.alpha.shape() == kOne, "no step to quantize with");
    const Tensor q = x.value().like();
    kernels(q.device()).lsq_codes(x.value(), step.alpha, step.beta, step.range, q);
    const auto backward = [x = x.value(), step](const Tensor& dy, Gradients& dx) {
        const Tensor gradient = x.like();
        const Tensor dalpha = step.alpha.like();
        const Tensor dbeta = step.beta.defined() ? step.beta.like() : Tensor();
        kernels(dy.device())
            .lsq_backward(dy, x, step.alpha, step.beta, step.range, step.g, gradient, dalpha, dbeta);
        dx.set(0, gradient);
        dx.set(1, dalpha);
        dx.set(2, dbeta);
    };
    Quantized result(record("quantize", q, {x, lsq.alpha, lsq.beta}, backward));
    result.alpha = step.alpha;
    result.beta = step.beta;
    return result;
}

QuantizedWeights quantize_weights(const std::vector<WeightParameters>& weights, DType dtype,
                                  bool regularize) {
    VVTQ_CHECK(!weights.empty(), "no weights");
    const auto count = static_cast<int64_t>(weights.size());
    const engine::Device device = weights[0].w.value().device();
    const DType master = weights[0].w.value().dtype();
    constexpr int64_t kAlign = 64;  // elements, so that products find their operands aligned
    int64_t total = 0;
    std::vector<int64_t> begins;
    for (const WeightParameters& weight : weights) {
        begins.push_back(total);
        total += (weight.w.shape().numel() + kAlign - 1) / kAlign * kAlign;
    }
    const Tensor codes({total}, dtype,
                       device);  // neighbours stay neighbours: attention's three are one matrix
    const Tensor scales({count}, master, device), terms({count}, master, device);
    std::vector<engine::WeightItem> items;
    std::vector<Output> outputs;
    std::vector<Variable> inputs;
    QuantizedWeights result;
    std::vector<std::shared_ptr<bool>> times_alpha;
    for (size_t i = 0; i < weights.size(); ++i) {
        const WeightParameters& weight = weights[i];
        const Tensor& w = weight.w.value();
        const auto at = static_cast<int64_t>(i);
        const int64_t outs = w.shape()[0];
        const Tensor q = codes.slice(begins[i], begins[i] + w.numel()).reshape({outs, w.numel() / outs});
        engine::WeightItem item{w, weight.alpha.value(), weight.range, q, scales.slice(at, at + 1), {}, {}};
        if (regularize) {
            item.reg = terms.slice(at, at + 1);
            item.stats = Tensor({weight.range.count(), 3}, DType::f64, device);
            result.terms.push_back(item.reg);
        }
        items.push_back(item);
        outputs.emplace_back(q, master);
        inputs.push_back(weight.w);
        inputs.push_back(weight.alpha);
        times_alpha.push_back(std::make_shared<bool>(false));
    }
    kernels(device).quantize_weights(items);
    if (regularize) {
        const Tensor sum({1}, master, device);
        kernels(device).sum(terms, sum);
        outputs.emplace_back(sum);
    }
    const auto backward = [items, times_alpha, regularize](const std::vector<Tensor>& dys, Gradients& dx) {
        std::vector<engine::WeightGradientItem> gradients;
        const Tensor dalphas({static_cast<int64_t>(items.size())}, items[0].w.dtype(), items[0].w.device());
        for (size_t i = 0; i < items.size(); ++i) {
            const engine::WeightItem& item = items[i];
            const auto at = static_cast<int64_t>(i);
            gradients.push_back({item.w, item.alpha, item.range, item.g, item.stats, dys[i], *times_alpha[i],
                                 item.w.like(), dalphas.slice(at, at + 1)});
        }
        kernels(dalphas.device()).quantize_weights_backward(gradients, regularize ? dys.back() : Tensor());
        for (size_t i = 0; i < items.size(); ++i) {
            dx.set(2 * i, gradients[i].dw);
            dx.set(2 * i + 1, gradients[i].dalpha);
        }
    };
    const std::vector<Variable> recorded = record("quantize_weights", std::move(outputs), inputs, backward);
    for (size_t i = 0; i < weights.size(); ++i) {
        Quantized w(recorded[i]);
        w.alpha = items[i].alpha;
        w.gradient_times_alpha = times_alpha[i];
        result.weights.push_back(std::move(w));
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
    return record("binary", y, {x}, [x = value](const Tensor& dy, Gradients& dx) {
        const Tensor gradient = x.like();
        kernels(dy.device()).binary_backward(dy, x, gradient);
        dx.set(0, gradient);
    });
}

Variable bin_regularizer(const Variable& w, const Variable& alpha, CodeRange range, const Tensor& g) {
    // w: any, alpha, g: (1)
    VVTQ_CHECK(alpha.shape() == kOne && g.shape() == kOne, "alpha ", alpha.shape().str(), ", g ",
               g.shape().str());
    const Tensor& value = w.value();
    const Tensor loss(kOne, value.dtype(), value.device());
    const Tensor stats({range.count(), 3}, DType::f64, value.device());
    kernels(loss.device()).bin_regularizer(value, alpha.value(), range, loss, stats);
    return record(
        "bin_regularizer", loss, {w, alpha},
        [w = value, alpha = alpha.value(), range, stats, g](const Tensor& dy, Gradients& dx) {
            const Tensor dw = w.like();
            const Tensor dalpha = alpha.like();
            kernels(dy.device()).bin_regularizer_backward(dy, w, alpha, range, stats, g, dw, dalpha);
            dx.set(0, dw);
            dx.set(1, dalpha);
        });
}

}  // namespace vvtq::autograd
