#include "engine/composed.h"

namespace vvtq::engine::composed {
namespace {

/// y = q a + o, or x itself without a step.
Tensor quantized(Arg x, const LsqStep& step) {
    if (!step.defined()) return x;
    const Tensor y = x.like();
    kernels(x.device()).lsq(x, step.alpha, step.beta, step.range, y);
    return y;
}

void codes_of(Arg x, const LsqStep& step, Arg q) {
    if (step.defined()) {
        kernels(x.device()).lsq_codes(x, step.alpha, step.beta, step.range, q);
    } else {
        kernels(x.device()).copy(x, q);
    }
}

/// dx from dy; dalpha, dbeta as well, undefined ones are left out.
Tensor through_quantizer(Arg dy, Arg x, const LsqStep& step, Arg dalpha, Arg dbeta = {}) {
    const auto& kernel = kernels(x.device());
    if (!step.defined()) {
        if (dalpha.defined()) kernel.fill(0.0, dalpha);
        return dy;
    }
    const Tensor dx = x.like();
    kernel.lsq_backward(dy, x, step.alpha, step.beta, step.range, step.g, dx,
                        dalpha.defined() ? dalpha : step.alpha.like(),
                        dbeta.defined() || !step.beta.defined() ? dbeta : step.beta.like());
    return dx;
}

/// Sizes of attention, and its products' layouts: tokens are (B, N, H D), scores (B, H, N, N), with a group
/// of N tokens for each of B.
struct Sizes {
    int64_t batch, heads, tokens, width;

    explicit Sizes(Arg z, const AttentionSteps& steps) : heads(steps.heads) {
        const Shape& shape = z.shape();
        VVTQ_CHECK(shape.rank() == 3 && heads > 0 && shape[2] % (3 * heads) == 0, "z ", shape.str(), ", ",
                   heads, " heads");
        VVTQ_CHECK(steps.groups > 0 && shape[1] % steps.groups == 0, "z ", shape.str(), " in ", steps.groups,
                   " groups");
        batch = shape[0] * steps.groups;
        tokens = shape[1] / steps.groups;
        width = shape[2] / (3 * heads);
    }
    int64_t channels() const { return heads * width; }
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
Tensor in_groups(Arg x, const AttentionSteps& steps) {
    if (!steps.order.defined()) return x;
    const Tensor y = x.like();
    kernels(x.device()).gather_tokens(x, steps.order, y);
    return y;
}
void out_of_groups(Arg y, const AttentionSteps& steps, Arg x) {
    kernels(x.device()).gather_tokens(y, steps.inverse, x);
}

/// What attention computes on the way to its output.
struct Forward {
    Tensor y[3];      // (B, N, C) q, k, v before their quantizers
    Tensor value[3];  // behind them
    Tensor p, pq;     // (B, H, N, N) softmax, quantized

    Forward(Arg products, const AttentionSteps& steps, const Sizes& sizes) {
        const Tensor z = in_groups(products, steps);
        const auto& kernel = kernels(z.device());
        const LsqStep* const quantizers[3] = {&steps.q, &steps.k, &steps.v};
        for (int t = 0; t < 3; ++t) {
            y[t] = sizes.new_tokens(z);
            kernel.take_columns(z, t * sizes.channels(), steps.input_alpha, steps.weight_alpha[t],
                                steps.bias[t], y[t]);
            value[t] = quantized(y[t], *quantizers[t]);
        }
        const Tensor scores = sizes.new_scores(z);
        kernel.batched_matmul(sizes.to_scores(), value[0], value[1], scores);
        p = scores.like();
        if (steps.score_bias.defined() || steps.mask.defined()) {
            kernel.biased_softmax(scores, steps.scale, steps.score_bias, steps.mask, p);
        } else {
            kernel.softmax(scores, steps.scale, p);
        }
        pq = quantized(p, steps.probability);
    }
};

}  // namespace

void residual_norm(Arg x, Arg f, Arg keep, Arg gamma, Arg beta, double eps, const LsqStep& step, Arg y, Arg q,
                   Arg mean, Arg rstd) {
    const auto& kernel = kernels(x.device());
    if (f.defined()) kernel.residual(x, f, keep, y);
    const Tensor n = step.defined() ? x.like() : q;
    kernel.layer_norm(f.defined() ? y : x, gamma, beta, eps, n, mean, rstd);
    if (step.defined()) codes_of(n, step, q);
}

void residual_norm_backward(Arg dq, Arg dy, Arg y, Arg keep, Arg gamma, Arg beta, Arg mean, Arg rstd,
                            const LsqStep& step, Arg dx, Arg df, Arg dgamma, Arg dbeta, Arg dalpha) {
    const auto& kernel = kernels(y.device());
    Tensor dn = dq;
    if (step.defined()) {
        const Tensor n = y.like();
        kernel.layer_norm_apply(y, mean, rstd, gamma, beta, n);
        dn = through_quantizer(dq, n, step, dalpha);
    }
    kernel.layer_norm_backward(dn, y, gamma, mean, rstd, dx, dgamma, dbeta);
    if (dy.defined()) kernel.accumulate_add(dy, dx);
    if (df.defined()) kernel.scale_samples(dx, keep, df);
}

void gelu_quantize(Arg z, const LsqStep& step, Arg q) {
    const auto& kernel = kernels(z.device());
    const Tensor h = step.defined() ? z.like() : q;
    kernel.gelu(z, h);
    if (step.defined()) codes_of(h, step, q);
}

void gelu_quantize_backward(Arg dq, Arg z, const LsqStep& step, Arg dz, Arg q, Arg dalpha, Arg dbeta,
                            Arg dbias) {
    const auto& kernel = kernels(z.device());
    const Tensor h = step.defined() ? z.like() : q;
    kernel.gelu(z, h);
    if (step.defined()) codes_of(h, step, q);
    kernel.gelu_backward(through_quantizer(dq, h, step, dalpha, dbeta), z, dz);
    kernel.sum_rows(dz, dbias);
}

void attention(Arg z, const AttentionSteps& steps, Arg o, Arg codes, Arg lse) {
    const Sizes sizes(z, steps);
    const auto& kernel = kernels(z.device());
    const Forward forward(z, steps, sizes);
    const Tensor grouped = steps.order.defined() ? o.like() : o;
    kernel.batched_matmul(sizes.to_tokens(), forward.pq, forward.value[2], grouped);
    if (steps.order.defined()) out_of_groups(grouped, steps, o);
    if (codes.defined()) codes_of(o, steps.output, codes);
    if (lse.defined()) kernel.fill(0.0, lse);  // attention_backward takes the softmax anew
}

void attention_backward(Arg dy, Arg z, const AttentionSteps& steps, Arg o, Arg, Arg dz, Arg dbias,
                        Arg dalphas, Arg dscore_bias) {
    const Sizes sizes(z, steps);
    const auto& kernel = kernels(z.device());
    const Forward forward(z, steps, sizes);
    const auto dalpha = [&](int64_t i) { return dalphas.slice(i, i + 1); };  // q, k, v, probability, output
    const Tensor d_out = in_groups(through_quantizer(dy, o, steps.output, dalpha(4)), steps);

    const Tensor ds = sizes.new_scores(z);
    {
        const Tensor dpq = sizes.new_scores(z);
        kernel.batched_matmul(sizes.to_scores(), d_out, forward.value[2], dpq);
        const Tensor dp = through_quantizer(dpq, forward.p, steps.probability, dalpha(3));
        kernel.softmax_backward(dp, forward.p, steps.scale, ds);
    }
    if (dscore_bias.defined()) {  // ds is of the scores before they are scaled
        kernel.sum_rows(ds, dscore_bias);
        kernel.scale(dscore_bias, 1.0 / steps.scale, dscore_bias);
    }
    Tensor d_value[3] = {sizes.new_tokens(z), sizes.new_tokens(z), sizes.new_tokens(z)};
    kernel.batched_matmul(sizes.to_tokens(), ds, forward.value[1], d_value[0]);
    kernel.batched_matmul(sizes.to_tokens(true), ds, forward.value[0], d_value[1]);
    kernel.batched_matmul(sizes.to_tokens(true), forward.pq, d_out, d_value[2]);

    const LsqStep* const quantizers[3] = {&steps.q, &steps.k, &steps.v};
    const int64_t channels = sizes.channels();
    const Tensor dz_grouped = steps.order.defined() ? dz.like() : dz;
    for (int64_t t = 0; t < 3; ++t) {
        const Tensor d = through_quantizer(d_value[t], forward.y[t], *quantizers[t], dalpha(t));
        kernel.sum_rows(d, dbias.slice(t * channels, (t + 1) * channels));
        kernel.put_columns(d, steps.weight_alpha[t], t * channels, dz_grouped);
    }
    if (steps.order.defined()) out_of_groups(dz_grouped, steps, dz);
}

}  // namespace vvtq::engine::composed
