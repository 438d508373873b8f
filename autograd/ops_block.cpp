// The passes of a transformer block, each one op: what lies between two products is one kernel, and backward
// keeps the inputs of kernels and computes codes anew.
#include <algorithm>

#include "autograd/linear.h"
#include "autograd/trace.h"

namespace vvtq::autograd {

using engine::AttentionProblem;
using engine::DType;
using engine::kernels;
using engine::master_of;
using engine::Shape;

NormedResidual residual_norm(const Variable& x, const Variable& f, const Tensor& keep, const Variable& gamma,
                             const Variable& beta, double eps, const QuantParams& quantizer) {
    // x, f: (..., C), gamma, beta: (C), keep: (B)
    const Tensor& value = x.value();
    const Shape channels({value.shape().cols()});
    VVTQ_CHECK(gamma.shape() == channels && beta.shape() == channels, "x ", value.shape().str(), ", gamma ",
               gamma.shape().str(), ", beta ", beta.shape().str());
    VVTQ_CHECK(!f.defined() || f.shape() == x.shape(), "x ", x.shape().str(), ", f ", f.shape().str());
    const Tensor y = f.defined() ? value.like() : value;
    const engine::QuantParams params = quantizer.values();
    const Tensor q(value.shape(), code_dtype(params, value.dtype(), value.device()), value.device());
    const auto norm = [gamma = gamma.value(), beta = beta.value(), eps, params](
                          const Tensor& of, const Tensor& branch, const Tensor& kept, const Tensor& sum,
                          const Tensor& codes) {
        const Tensor mu({of.shape().rows()}, master_of(of.dtype()), of.device());
        const Tensor inverse = mu.like();
        kernels(of.device())
            .residual_norm(of, branch, kept, gamma, beta, eps, params, sum, codes, mu, inverse);
        return std::pair(mu, inverse);
    };
    const auto [mu, inverse] =
        norm(value, f.defined() ? f.value() : Tensor(), keep, f.defined() ? y : Tensor(), q);

    const auto backward = [y, keep, gamma = gamma.value(), beta = beta.value(), mu = mu, inverse = inverse,
                           params, branch = f.defined()](const std::vector<Tensor>& dys, Gradients& dx) {
        // dys: of the codes' values, of y
        const auto& kernel = kernels(y.device());
        VVTQ_CHECK(dys[0].defined(), "a residual sum whose norm is not used: take `residual`");
        const Tensor dy = y.like();
        const Tensor df = branch && keep.defined() ? y.like() : Tensor();
        const Tensor dgamma = gamma.like(), dbeta = gamma.like();
        const Tensor dscale = params.defined() ? params.scale.like() : Tensor();
        kernel.residual_norm_backward(dys[0], dys[1], y, keep, gamma, beta, mu, inverse, params, dy, df,
                                      dgamma, dbeta, dscale);
        dx.set(0, dy);
        if (branch) dx.set(1, df.defined() ? df : dy);
        dx.set(2, dgamma);
        dx.set(3, dbeta);
        if (params.defined()) dx.set(4, dscale);
    };
    tell_trace([&] { return OpArguments{{"eps", eps}, {"quantizer", params}}; });
    const auto outs = record("residual_norm", {q, y}, {x, f, gamma, beta, quantizer.scale}, backward);
    NormedResidual result{outs[1], Quantized(outs[0])};
    result.n.scale = params.scale;
    if (kernels(value.device()).recompute) {
        result.n.recompute = [norm, y] {
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

Variable mlp(const Quantized& x, const Quantized& weight1, const Variable& bias1, const QuantParams& hidden,
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
    const engine::QuantParams params = hidden.values();
    Tensor z, q;  // (R, hidden)
    if (first.integer() && is_integer(code_dtype(params, engine::DType::f32, first.device()))) {
        q = first.forward_gelu(x.q.value(), params);
    } else {
        z = first.forward(x.q.value());
        q = Tensor(z.shape(), code_dtype(params, z.dtype(), z.device()), z.device());
        kernels(z.device()).gelu_quantize(z, params, q);
    }
    Quantized h{Variable(q)};
    h.scale = params.scale;
    h.offset = params.offset;
    const LinearProduct second(h, w2, bias2);
    std::vector<int64_t> sizes = x.q.shape().vec();
    sizes.back() = second.outputs();
    const Tensor y = second.forward(q).reshape(Shape(sizes));
    const auto backward = [first, second, params, z, width, codes = Saved(x), x_shape = x.q.shape()](
                              const Tensor& dy, Gradients& dx) {
        const auto& kernel = kernels(dy.device());
        const Tensor rows = as_rows(dy);
        const Tensor db2 = second.bias_gradient(rows);
        const Tensor dz = z.like();
        const Tensor db1({first.outputs()}, db2.dtype(), db2.device());
        {
            const Tensor codes_again = z.like();
            const Tensor dscale = params.defined() ? params.scale.like() : Tensor();
            const Tensor dbeta = params.offset.defined() ? params.offset.like() : Tensor();
            kernel.gelu_quantize_backward(second.input_gradient(rows), z, params, dz, codes_again, dscale,
                                          dbeta, db1);
            if (dx.wanted(3)) dx.set(3, dscale);
            if (dx.wanted(4)) dx.set(4, dbeta);
            if (dx.wanted(5)) {
                const Tensor dw2 = second.weight_gradient(rows, codes_again, db2);
                dx.set(5, second.inputs() == width ? dw2 : first_columns(dw2, width));
            }
        }
        dx.set(6, db2);
        if (dx.wanted(0)) dx.set(0, first.input_gradient(dz).reshape(x_shape));
        if (dx.wanted(1)) dx.set(1, first.weight_gradient(dz, codes.get(), db1).slice(0, width));
        dx.set(2, db1.slice(0, width));
    };
    tell_trace([&] { return OpArguments{{"hidden", params}}; });
    return record("mlp", y, {x.q, weight1.q, bias1, hidden.scale, hidden.offset, weight2.q, bias2}, backward);
}

namespace {

/// The weights of the three projections below one another, (3C, C), in the dtype of the products.
Tensor matrix_of(const Projections& projections, engine::DType dtype) {
    const Tensor& matrix = projections.matrix.codes;
    if (matrix.defined() && matrix.dtype() == dtype) return matrix;
    const Tensor parts[3] = {projections.q.w.q.value(), projections.k.w.q.value(), projections.v.w.q.value()};
    const int64_t rows = parts[0].shape()[0];
    const Tensor all({3 * rows, parts[0].shape()[1]}, dtype, parts[0].device());
    for (int64_t t = 0; t < 3; ++t) {
        kernels(all.device()).copy(parts[t].to(dtype), all.slice(t * rows, (t + 1) * rows));
    }
    return all;
}

/// Throws where shapes do not fit.
void check_attention(const Quantized& x, const Projections& projections, int64_t heads,
                     const ScoreTerms& terms, const TokenGrouping& groups) {
    const Shape& shape = x.q.shape();  // (B, N, C)
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
    VVTQ_CHECK(!x.offset.defined(), "attention's input has no offset");
    for (const Projection* projection : {&projections.q, &projections.k, &projections.v}) {
        VVTQ_CHECK(projection->w.q.shape() == Shape({shape[2], shape[2]}), "x ", shape.str(), ", w ",
                   projection->w.q.shape().str());
    }
    const Tensor& matrix = projections.matrix.codes;
    VVTQ_CHECK(!matrix.defined() || matrix.shape() == Shape({3 * shape[2], shape[2]}), "x ", shape.str(),
               ", matrix ", matrix.shape().str());
}

/// The inputs of `attention` in the order in which it records them. Arrays: of q, k, v; of
/// AttentionProblem::quantizers().
enum AttentionInput : size_t {
    kX,
    kWeight,
    kBias = kWeight + 3,
    kScale = kBias + 3,
    kScoreBias = kScale + 5
};

}  // namespace

Quantized attention(const Quantized& x, const Projections& projections, const QuantParams& probability,
                    const QuantParams& output, int64_t heads, double s, const ScoreTerms& terms,
                    const TokenGrouping& groups) {
    check_attention(x, projections, heads, terms, groups);
    const auto& [q, k, v, matrix] = projections;
    const Tensor& value = x.q.value();
    const Shape& shape = value.shape();
    const int64_t channels = shape[2];
    const auto value_of = [](const Variable& of) { return of.defined() ? of.value() : Tensor(); };
    const AttentionProblem problem{x.scale,
                                   {q.w.scale, k.w.scale, v.w.scale},
                                   {value_of(q.bias), value_of(k.bias), value_of(v.bias)},
                                   q.quantizer.values(),
                                   k.quantizer.values(),
                                   v.quantizer.values(),
                                   probability.values(),
                                   output.values(),
                                   heads,
                                   s,
                                   groups.count,
                                   groups.order.index,
                                   groups.order.inverse,
                                   value_of(terms.bias),
                                   terms.mask};
    const auto& kernel = kernels(value.device());
    const bool coded = problem.output.defined();
    const bool integer = is_integer(value) && matrix.packed.defined();
    const DType dtype = is_integer(value) ? DType::f32 : value.dtype();  // of what is not code
    const auto of_codes = [&](const engine::QuantParams& quantizer) {
        return code_dtype(quantizer, dtype, value.device());
    };
    const Tensor codes(shape, coded ? of_codes(problem.output) : dtype, value.device());
    Tensor w, z, o, softmax;
    if (integer && of_codes(problem.q) == DType::i8 && of_codes(problem.k) == DType::i8 &&
        of_codes(problem.v) == DType::i8 && is_integer(of_codes(problem.probability))) {
        kernel.attention_codes(value, matrix.packed, problem, codes);
    } else {
        z = Tensor({shape[0], shape[1], 3 * channels}, dtype, value.device());
        if (integer) {
            kernel.linear_codes(as_rows(value), matrix.packed, {}, {}, false, {}, as_rows(z));
        } else {
            w = matrix_of(projections, dtype);
            kernel.linear(as_rows(value.to(dtype)), w, {}, {}, as_rows(z));
        }
        o = coded ? Tensor(shape, dtype, value.device()) : codes;
        const Shape rows = {shape[0] * groups.count, heads, shape[1] / groups.count, 2};
        if (is_recording()) softmax = Tensor(rows, master_of(dtype), value.device());
        kernel.attention(z, problem, o, coded ? codes : Tensor(), softmax);
    }

    const auto backward = [problem, w, z, o, softmax, input = Saved(x), channels](const Tensor& dy,
                                                                                  Gradients& dx) {
        const auto& ops = kernels(dy.device());
        const Tensor dz = z.like();  // times the weights' scales
        const Tensor dbias({3 * channels}, master_of(dy.dtype()), dy.device());
        const Tensor dscales({5}, dbias.dtype(), dy.device());
        const Tensor dscore_bias = dx.wanted(kScoreBias) ? problem.score_bias.like() : Tensor();
        ops.attention_backward(dy, z, problem, o, softmax, dz, dbias, dscales, dscore_bias);
        const Tensor dz_rows = as_rows(dz);
        if (dx.wanted(kX)) {
            const Tensor gradient = dy.like();
            ops.linear_backward_input(dz_rows, w, {}, as_rows(gradient));
            dx.set(kX, gradient);
        }
        const Tensor dw({3 * channels, channels}, dbias.dtype(), dy.device());
        ops.linear_backward_weight(dz_rows, as_rows(input.get()), problem.input_scale, dw);
        const auto& scales = problem.weight_scale;
        if (scales[0].defined()) ops.divide_parts(dw, {scales[0], scales[1], scales[2]}, dw);
        for (size_t t = 0; t < 3; ++t) {
            const auto begin = static_cast<int64_t>(t) * channels;
            dx.set(kWeight + t, dw.slice(begin, begin + channels));
            dx.set(kBias + t, dbias.slice(begin, begin + channels));
        }
        for (size_t i = 0; i < 5; ++i) {
            dx.set(kScale + i, dscales.slice(static_cast<int64_t>(i), static_cast<int64_t>(i) + 1));
        }
        if (dscore_bias.defined()) dx.set(kScoreBias, dscore_bias);
    };
    tell_trace([&] { return OpArguments{{"problem", problem}}; });
    Quantized result(
        record("attention", codes,
               {x.q, q.w.q, k.w.q, v.w.q, q.bias, k.bias, v.bias, q.quantizer.scale, k.quantizer.scale,
                v.quantizer.scale, probability.scale, output.scale, terms.bias},
               backward));
    result.scale = problem.output.scale;
    if (kernel.recompute && coded) {
        result.recompute = [o, params = problem.output] {
            const Tensor codes_again = o.like();
            kernels(o.device()).lsq_codes(o, params, codes_again);
            return codes_again;
        };
    }
    return result;
}

}  // namespace vvtq::autograd
