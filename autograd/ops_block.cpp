// The passes of a transformer block, each one op: what lies between two products is one kernel, and backward
// keeps the inputs of kernels and computes codes anew.
#include <algorithm>

#include "autograd/linear.h"

namespace vvtq::autograd {

using engine::AttentionSteps;
using engine::kernels;
using engine::LsqStep;
using engine::master_of;
using engine::Shape;

namespace {}  // namespace

NormedResidual residual_norm(const Variable& x, const Variable& f, const Tensor& keep, const Variable& gamma,
                             const Variable& beta, double eps, const LsqParameters& lsq) {
    // x, f: (..., C), gamma, beta: (C), keep: (B)
    const Tensor& value = x.value();
    const Shape channels({value.shape().cols()});
    VVTQ_CHECK(gamma.shape() == channels && beta.shape() == channels, "x ", value.shape().str(), ", gamma ",
               gamma.shape().str(), ", beta ", beta.shape().str());
    VVTQ_CHECK(!f.defined() || f.shape() == x.shape(), "x ", x.shape().str(), ", f ", f.shape().str());
    const Tensor y = f.defined() ? value.like() : value;
    const Tensor q = value.like();
    const LsqStep step = lsq.step();
    const auto norm = [gamma = gamma.value(), beta = beta.value(), eps, step](
                          const Tensor& of, const Tensor& branch, const Tensor& kept, const Tensor& sum,
                          const Tensor& codes) {
        const Tensor mu({of.shape().rows()}, master_of(of.dtype()), of.device());
        const Tensor inverse = mu.like();
        kernels(of.device()).residual_norm(of, branch, kept, gamma, beta, eps, step, sum, codes, mu, inverse);
        return std::pair(mu, inverse);
    };
    const auto [mu, inverse] =
        norm(value, f.defined() ? f.value() : Tensor(), keep, f.defined() ? y : Tensor(), q);

    const auto backward = [y, keep, gamma = gamma.value(), beta = beta.value(), mu = mu, inverse = inverse,
                           step, branch = f.defined()](const std::vector<Tensor>& dys, Gradients& dx) {
        // dys: of the codes' values, of y
        const auto& kernel = kernels(y.device());
        VVTQ_CHECK(dys[0].defined(), "a residual sum whose norm is not used: take `residual`");
        const Tensor dy = y.like();
        const Tensor df = branch && keep.defined() ? y.like() : Tensor();
        const Tensor dgamma = gamma.like(), dbeta = gamma.like();
        const Tensor dalpha = step.defined() ? step.alpha.like() : Tensor();
        kernel.residual_norm_backward(dys[0], dys[1], y, keep, gamma, beta, mu, inverse, step, dy, df, dgamma,
                                      dbeta, dalpha);
        dx.set(0, dy);
        if (branch) dx.set(1, df.defined() ? df : dy);
        dx.set(2, dgamma);
        dx.set(3, dbeta);
        if (step.defined()) dx.set(4, dalpha);
    };
    const auto outs = record("residual_norm", {q, y}, {x, f, gamma, beta, lsq.alpha}, backward);
    NormedResidual result{outs[1], Quantized(outs[0])};
    result.n.alpha = step.alpha;
    if (kernels(value.device()).recompute) {
        result.n.again = [norm, y] {
            const Tensor codes = y.like();
            norm(y, {}, {}, {}, codes);
            return codes;
        };
    }
    return result;
}

namespace {

/// Columns of the hidden values in memory, whose rows are a multiple of Kernels::row_bytes. Those behind the
/// weights' own are 0, and so are their gradients.
int64_t padded(int64_t columns, const Tensor& like) {
    const auto element = static_cast<int64_t>(engine::size_of(like.dtype()));
    const int64_t pack = std::max<int64_t>(1, kernels(like.device()).row_bytes / element);
    return (columns + pack - 1) / pack * pack;
}
/// x (R, C), or (R), with zeros up to `shape`, where rows or columns are more.
Tensor widened(const Tensor& x, const Shape& shape) {
    const Tensor y(shape, x.dtype(), x.device());
    const auto& kernel = kernels(x.device());
    kernel.fill(0.0, y);
    if (shape.cols() == x.shape().cols() || shape.rank() == 1) {
        kernel.copy(x, y.slice(0, x.shape()[0]));
    } else {
        kernel.put_columns(x, {}, 0, y);
    }
    return y;
}
/// The first columns of y (R, W).
Tensor first_columns(const Tensor& y, int64_t columns) {
    const Tensor x({y.shape()[0], columns}, y.dtype(), y.device());
    kernels(y.device()).take_columns(y, 0, {}, {}, {}, x);
    return x;
}

}  // namespace

Variable mlp(const Quantized& x, const Quantized& weight1, const Variable& bias1, const LsqParameters& hidden,
             const Quantized& weight2, const Variable& bias2) {
    const engine::DType dtype = x.q.value().dtype();
    const int64_t width = weight1.q.shape()[0], columns = padded(width, x.q.value());
    VVTQ_CHECK(weight2.q.shape().cols() == width && (!bias1.defined() || bias1.shape() == Shape({width})),
               "weight1 ", weight1.q.shape().str(), ", weight2 ", weight2.q.shape().str());
    Quantized w1 = weight1, w2 = weight2;
    Variable b1 = bias1;
    if (columns != width) {
        w1.q = Variable(widened(weight1.q.value().to(dtype), {columns, weight1.q.shape()[1]}));
        w2.q = Variable(widened(weight2.q.value().to(dtype), {weight2.q.shape()[0], columns}));
        if (bias1.defined()) b1 = Variable(widened(bias1.value(), {columns}));
    }
    const LinearProduct first(x, w1, b1);
    const Tensor z = first.forward(x.q.value());  // (R, hidden)
    const LsqStep step = hidden.step();
    Tensor q = z.like();
    kernels(z.device()).gelu_quantize(z, step, q);
    Quantized h{Variable(q)};
    h.alpha = step.alpha;
    h.beta = step.beta;
    const LinearProduct second(h, w2, bias2);
    std::vector<int64_t> sizes = x.q.shape().vec();
    sizes.back() = second.outputs();
    const Tensor y = second.forward(q).reshape(Shape(sizes));
    const auto backward = [first, second, step, z, width, codes = Kept(x), x_shape = x.q.shape()](
                              const Tensor& dy, Gradients& dx) {
        const auto& kernel = kernels(dy.device());
        const Tensor rows = as_rows(dy);
        const Tensor db2 = second.bias_gradient(rows);
        const Tensor dz = z.like();
        const Tensor db1({first.outputs()}, db2.dtype(), db2.device());
        {
            const Tensor again = z.like();
            const Tensor dalpha = step.defined() ? step.alpha.like() : Tensor();
            const Tensor dbeta = step.beta.defined() ? step.beta.like() : Tensor();
            kernel.gelu_quantize_backward(second.input_gradient(rows), z, step, dz, again, dalpha, dbeta,
                                          db1);
            if (dx.wanted(3)) dx.set(3, dalpha);
            if (dx.wanted(4)) dx.set(4, dbeta);
            if (dx.wanted(5)) {
                const Tensor dw2 = second.weight_gradient(rows, again, db2);
                dx.set(5, second.inputs() == width ? dw2 : first_columns(dw2, width));
            }
        }
        dx.set(6, db2);
        if (dx.wanted(0)) dx.set(0, first.input_gradient(dz).reshape(x_shape));
        if (dx.wanted(1)) dx.set(1, first.weight_gradient(dz, codes.get(), db1).slice(0, width));
        dx.set(2, db1.slice(0, width));
    };
    return record("mlp", y, {x.q, weight1.q, bias1, hidden.alpha, hidden.beta, weight2.q, bias2}, backward);
}

namespace {

/// The three weights below one another, (3C, C), in the dtype of the products: their own memory where they
/// lie so.
Tensor joined(const Quantized& q, const Quantized& k, const Quantized& v, engine::DType dtype) {
    const Tensor parts[3] = {q.q.value(), k.q.value(), v.q.value()};
    const int64_t rows = parts[0].shape()[0], cols = parts[0].shape()[1];
    const auto* const start = static_cast<const char*>(parts[0].raw());
    const auto bytes = static_cast<std::ptrdiff_t>(parts[0].bytes());
    const bool adjacent = parts[0].dtype() == dtype && parts[0].shares_storage(parts[2]) &&
                          parts[1].raw() == start + bytes && parts[2].raw() == start + 2 * bytes;
    if (adjacent) return parts[0].extended({3 * rows, cols});
    const Tensor all({3 * rows, cols}, dtype, parts[0].device());
    for (int64_t t = 0; t < 3; ++t) {
        const Tensor to = all.slice(t * rows, (t + 1) * rows);
        if (parts[t].dtype() == dtype) {
            kernels(all.device()).copy(parts[t], to);
        } else {
            kernels(all.device()).cast(parts[t], to);
        }
    }
    return all;
}

}  // namespace

Quantized attention(const Quantized& x, const Projection& q, const Projection& k, const Projection& v,
                    const LsqParameters& probability, const LsqParameters& output, int64_t heads, double s,
                    const ScoreTerms& terms, const TokenGrouping& groups) {
    // x: (B, N, C)
    const Tensor& value = x.q.value();
    const Shape& shape = value.shape();
    VVTQ_CHECK(shape.rank() == 3 && heads > 0 && shape[2] % heads == 0, "x ", shape.str(), ", ", heads,
               " heads");
    VVTQ_CHECK(groups.count > 0 && shape[1] % groups.count == 0, "x ", shape.str(), " in ", groups.count,
               " groups");
    VVTQ_CHECK(!groups.order.index.defined() || (groups.order.index.shape() == Shape({shape[1]}) &&
                                                 groups.order.inverse.shape() == Shape({shape[1]})),
               "x ", shape.str(), ", order of ", groups.order.index.shape().str());
    const int64_t tokens = shape[1] / groups.count;
    VVTQ_CHECK(!terms.bias.defined() || terms.bias.shape() == Shape({heads, tokens, tokens}), "x ",
               shape.str(), ", bias ", terms.bias.shape().str());
    VVTQ_CHECK(!terms.mask.defined() || terms.mask.shape() == Shape({groups.count, tokens, tokens}), "x ",
               shape.str(), ", mask ", terms.mask.shape().str());
    VVTQ_CHECK(!x.beta.defined(), "attention's input has no offset");
    const int64_t channels = shape[2];
    AttentionSteps steps{x.alpha,
                         {},
                         {},
                         q.lsq.step(),
                         k.lsq.step(),
                         v.lsq.step(),
                         probability.step(),
                         output.step(),
                         heads,
                         s,
                         groups.count,
                         groups.order.index,
                         groups.order.inverse,
                         terms.bias.defined() ? terms.bias.value() : Tensor(),
                         terms.mask};
    const Projection* const projections[3] = {&q, &k, &v};
    for (size_t t = 0; t < 3; ++t) {
        const Projection& projection = *projections[t];
        VVTQ_CHECK(projection.w.q.shape() == Shape({channels, channels}), "x ", shape.str(), ", w ",
                   projection.w.q.shape().str());
        steps.weight_alpha[t] = projection.w.alpha;
        steps.bias[t] = projection.bias.defined() ? projection.bias.value() : Tensor();
        VVTQ_CHECK(!projection.w.alpha.defined() || projection.w.gradient_times_alpha ||
                       !projection.w.q.requires_grad(),
                   "the codes of a projection come from elsewhere than quantize_weights");
        if (projection.w.gradient_times_alpha) *projection.w.gradient_times_alpha = true;
    }
    const auto& kernel = kernels(value.device());
    const Tensor w = joined(q.w, k.w, v.w, value.dtype());
    const Tensor z({shape[0], shape[1], 3 * channels}, value.dtype(), value.device());
    kernel.linear(as_rows(value), w, {}, {}, as_rows(z));
    const Tensor o = value.like();
    const Tensor codes = steps.output.defined() ? value.like() : o;
    const Shape sums = {shape[0] * groups.count, heads, tokens};
    const Tensor lse = is_recording() ? Tensor(sums, master_of(value.dtype()), value.device()) : Tensor();
    kernel.attention(z, steps, o, steps.output.defined() ? codes : Tensor(), lse);

    const auto backward = [steps, w, z, o, lse, input = Kept(x), channels](const Tensor& dy, Gradients& dx) {
        const auto& ops = kernels(dy.device());
        const Tensor dz = z.like();
        const Tensor dbias({3 * channels}, master_of(dy.dtype()), dy.device());
        const Tensor dalphas({5}, dbias.dtype(), dy.device());
        const Tensor dterms = dx.wanted(12) ? steps.score_bias.like() : Tensor();
        ops.attention_backward(dy, z, steps, o, lse, dz, dbias, dalphas, dterms);
        const Tensor dz_rows = as_rows(dz);
        if (dx.wanted(0)) {
            const Tensor gradient = dy.like();
            ops.linear_backward_input(dz_rows, w, {}, as_rows(gradient));
            dx.set(0, gradient);
        }
        const Tensor dw({3 * channels, channels}, dbias.dtype(), dy.device());
        ops.linear_backward_weight(dz_rows, as_rows(input.get()), steps.input_alpha, dw);
        for (size_t t = 0; t < 3; ++t) {
            const auto begin = static_cast<int64_t>(t) * channels, end = begin + channels;
            if (dx.wanted(1 + 3 * t)) dx.set(1 + 3 * t, dw.slice(begin, end));
            if (dx.wanted(2 + 3 * t)) dx.set(2 + 3 * t, dbias.slice(begin, end));
            if (dx.wanted(3 + 3 * t))
                dx.set(3 + 3 * t, dalphas.slice(begin / channels, begin / channels + 1));
        }
        if (dx.wanted(10)) dx.set(10, dalphas.slice(3, 4));
        if (dx.wanted(11)) dx.set(11, dalphas.slice(4, 5));
        if (dx.wanted(12)) dx.set(12, dterms);
    };
    Quantized result(record("attention", codes,
                            {x.q, q.w.q, q.bias, q.lsq.alpha, k.w.q, k.bias, k.lsq.alpha, v.w.q, v.bias,
                             v.lsq.alpha, probability.alpha, output.alpha, terms.bias},
                            backward));
    result.alpha = steps.output.alpha;
    if (kernels(value.device()).recompute && steps.output.defined()) {
        result.again = [o, step = steps.output] {
            const Tensor q_again = o.like();
            kernels(o.device()).lsq_codes(o, step.alpha, {}, step.range, q_again);
            return q_again;
        };
    }
    return result;
}

}  // namespace vvtq::autograd
