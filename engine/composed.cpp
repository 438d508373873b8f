#include "engine/composed.h"
#include "engine/kernel_checks.h"

namespace vvtq::engine::composed {
namespace {

void codes_of(Arg x, const QuantParams& quantizer, Arg q) {
    if (quantizer.defined()) {
        kernels(x.device()).lsq_codes(x, quantizer, q);
    } else {
        kernels(x.device()).copy(x, q);
    }
}

/// An operand of a product: the codes of x and their step, or x itself without a quantizer.
struct Operand {
    Tensor q, scale;

    Operand() = default;
    Operand(Arg x, const QuantParams& quantizer) : q(x), scale(quantizer.scale) {
        if (!scale.defined()) return;
        q = x.like();
        kernels(x.device()).lsq_codes(x, quantizer, q);
    }
    /// Turns the codes into values.
    void to_values() const {
        if (scale.defined()) kernels(q.device()).scale_by(q, scale, q);
    }
};

/// y = a . b; the codes are multiplied, whose sums are exact in f32 below 2^24, and their steps come after.
void product(const BatchedShape& shape, const Operand& a, const Operand& b, Arg y) {
    const auto& kernel = kernels(y.device());
    kernel.batched_matmul(shape, a.q, b.q, y);
    if (a.scale.defined() && b.scale.defined()) {
        const Tensor both = a.scale.like();
        kernel.scale_by(a.scale, b.scale, both);
        kernel.scale_by(y, both, y);
    } else if (a.scale.defined() || b.scale.defined()) {
        kernel.scale_by(y, a.scale.defined() ? a.scale : b.scale, y);
    }
}

/// dx from dy; dscale, doffset as well, undefined ones are left out.
Tensor through_quantizer(Arg dy, Arg x, const QuantParams& quantizer, Arg dscale, Arg doffset = {}) {
    const auto& kernel = kernels(x.device());
    if (!quantizer.defined()) {
        if (dscale.defined()) kernel.fill(0.0, dscale);
        return dy;
    }
    const Tensor dx = x.like();
    kernel.lsq_backward(dy, x, quantizer, dx, dscale.defined() ? dscale : quantizer.scale.like(),
                        doffset.defined() || !quantizer.offset.defined() ? doffset : quantizer.offset.like());
    return dx;
}

/// Attention's products: tokens are (B, N, H D), scores (B, H, N, N), with a group of N tokens for each of B.
struct Sizes : AttentionSizes {
    using AttentionSizes::AttentionSizes;
    Tensor new_tokens(Arg z) const { return {{batch, tokens, channels()}, z.dtype(), z.device()}; }
    Tensor new_scores(Arg z) const { return {{batch, heads, tokens, tokens}, z.dtype(), z.device()}; }
    MatrixLayout of_tokens(bool transposed = false) const {
        return {tokens * channels(), width, channels(), transposed};
    }
    MatrixLayout of_scores(bool transposed = false) const {
        return {heads * tokens * tokens, tokens * tokens, tokens, transposed};
    }
    /// (N, N) = a (N, D) . b^T
    BatchedShape to_scores() const {
        return {batch, heads, tokens, tokens, width, of_tokens(), of_tokens(true), of_scores()};
    }
    /// (N, D) = a (N, N) or its transpose . b (N, D)
    BatchedShape to_tokens(bool transposed = false) const {
        return {batch, heads, tokens, width, tokens, of_scores(transposed), of_tokens(), of_tokens()};
    }
};

/// x (B, N, ...) with the tokens of a group one behind another, and y back in the order of x.
Tensor in_groups(Arg x, const AttentionProblem& problem) {
    if (!problem.order.defined()) return x;
    const Tensor y = x.like();
    kernels(x.device()).gather_tokens(x, problem.order, y);
    return y;
}
void out_of_groups(Arg y, const AttentionProblem& problem, Arg x) {
    kernels(x.device()).gather_tokens(y, problem.inverse, x);
}

/// What attention computes on the way to its output.
struct Forward {
    Tensor y[3];    // (B, N, C) q, k, v before their quantizers
    Operand of[3];  // behind them
    Tensor p;       // (B, H, N, N) softmax
    Operand pq;     // quantized

    Forward(Arg products, const AttentionProblem& problem, const Sizes& sizes) {
        const Tensor z = in_groups(products, problem);
        const auto& kernel = kernels(z.device());
        for (size_t t = 0; t < 3; ++t) {
            y[t] = sizes.new_tokens(z);
            kernel.take_columns(z, static_cast<int64_t>(t) * sizes.channels(), problem.input_scale,
                                problem.weight_scale[t], problem.bias[t], y[t]);
            of[t] = Operand(y[t], *problem.quantizers()[t]);
        }
        const Tensor scores = sizes.new_scores(z);
        product(sizes.to_scores(), of[0], of[1], scores);
        p = scores.like();
        if (problem.score_bias.defined() || problem.mask.defined()) {
            kernel.biased_softmax(scores, problem.scale, problem.score_bias, problem.mask, p);
        } else {
            kernel.softmax(scores, problem.scale, p);
        }
        pq = Operand(p, problem.probability);
    }
};

}  // namespace

void residual_norm(Arg x, Arg f, Arg keep, Arg gamma, Arg beta, double eps, const QuantParams& quantizer,
                   Arg y, Arg q, Arg mean, Arg rstd) {
    const auto& kernel = kernels(x.device());
    if (f.defined()) kernel.residual(x, f, keep, y);
    const Tensor n = quantizer.defined() ? x.like() : q;
    kernel.layer_norm(f.defined() ? y : x, gamma, beta, eps, n, mean, rstd);
    if (quantizer.defined()) codes_of(n, quantizer, q);
}

void residual_norm_backward(Arg dq, Arg dy, Arg y, Arg keep, Arg gamma, Arg beta, Arg mean, Arg rstd,
                            const QuantParams& quantizer, Arg dx, Arg df, Arg dgamma, Arg dbeta, Arg dscale) {
    const auto& kernel = kernels(y.device());
    Tensor dn = dq;
    if (quantizer.defined()) {
        const Tensor n = y.like();
        kernel.layer_norm_apply(y, mean, rstd, gamma, beta, n);
        dn = through_quantizer(dq, n, quantizer, dscale);
    }
    kernel.layer_norm_backward(dn, y, gamma, mean, rstd, dx, dgamma, dbeta);
    if (dy.defined()) kernel.accumulate_add(dy, dx);
    if (df.defined()) kernel.scale_samples(dx, keep, df);
}

void gelu_quantize(Arg z, const QuantParams& quantizer, Arg q) {
    const auto& kernel = kernels(z.device());
    const Tensor h = quantizer.defined() ? z.like() : q;
    kernel.gelu(z, h);
    if (quantizer.defined()) codes_of(h, quantizer, q);
}

void gelu_quantize_backward(Arg dq, Arg z, const QuantParams& quantizer, Arg dz, Arg q, Arg dscale,
                            Arg doffset, Arg dbias) {
    const auto& kernel = kernels(z.device());
    const Tensor h = quantizer.defined() ? z.like() : q;
    kernel.gelu(z, h);
    if (quantizer.defined()) codes_of(h, quantizer, q);
    kernel.gelu_backward(through_quantizer(dq, h, quantizer, dscale, doffset), z, dz);
    kernel.sum_rows(dz, dbias);
}

void attention(Arg z, const AttentionProblem& problem, Arg o, Arg codes, Arg softmax) {
    const Sizes sizes(z, problem);
    const auto& kernel = kernels(z.device());
    const Forward forward(z, problem, sizes);
    const Tensor grouped = problem.order.defined() ? o.like() : o;
    product(sizes.to_tokens(), forward.pq, forward.of[2], grouped);
    if (problem.order.defined()) out_of_groups(grouped, problem, o);
    if (codes.defined()) codes_of(o, problem.output, codes);
    if (softmax.defined()) kernel.fill(0.0, softmax);  // attention_backward takes the softmax anew
}

void attention_backward(Arg dy, Arg z, const AttentionProblem& problem, Arg o, Arg, Arg dz, Arg dbias,
                        Arg dscales, Arg dscore_bias) {
    const Sizes sizes(z, problem);
    const auto& kernel = kernels(z.device());
    const Forward forward(z, problem, sizes);
    for (const Operand* operand : {&forward.of[0], &forward.of[1], &forward.of[2], &forward.pq}) {
        operand->to_values();
    }
    const auto dscale = [&](int64_t i) { return dscales.slice(i, i + 1); };  // q, k, v, probability, output
    const Tensor d_out = in_groups(through_quantizer(dy, o, problem.output, dscale(4)), problem);

    const Tensor ds = sizes.new_scores(z);
    {
        const Tensor dpq = sizes.new_scores(z);
        kernel.batched_matmul(sizes.to_scores(), d_out, forward.of[2].q, dpq);
        const Tensor dp = through_quantizer(dpq, forward.p, problem.probability, dscale(3));
        kernel.softmax_backward(dp, forward.p, problem.scale, ds);
    }
    if (dscore_bias.defined()) {  // ds is of the scores before they are scaled
        kernel.sum_rows(ds, dscore_bias);
        kernel.scale(dscore_bias, 1.0 / problem.scale, dscore_bias);
    }
    Tensor d_value[3] = {sizes.new_tokens(z), sizes.new_tokens(z), sizes.new_tokens(z)};
    kernel.batched_matmul(sizes.to_tokens(), ds, forward.of[1].q, d_value[0]);
    kernel.batched_matmul(sizes.to_tokens(true), ds, forward.of[0].q, d_value[1]);
    kernel.batched_matmul(sizes.to_tokens(true), forward.pq.q, d_out, d_value[2]);

    const int64_t channels = sizes.channels();
    const Tensor dz_grouped = problem.order.defined() ? dz.like() : dz;
    for (int64_t t = 0; t < 3; ++t) {
        const Tensor d = through_quantizer(d_value[t], forward.y[t],
                                           *problem.quantizers()[static_cast<size_t>(t)], dscale(t));
        kernel.sum_rows(d, dbias.slice(t * channels, (t + 1) * channels));
        kernel.put_columns(d, problem.weight_scale[t], t * channels, dz_grouped);
    }
    if (problem.order.defined()) out_of_groups(dz_grouped, problem, dz);
}

}  // namespace vvtq::engine::composed
