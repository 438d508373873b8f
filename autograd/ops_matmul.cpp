// Attention's products, with the heads read in place through strides.
#include "autograd/ops.h"
#include "autograd/trace.h"

namespace vvtq::autograd {

using engine::BatchedShape;
using engine::kernels;
using engine::MatrixLayout;
using engine::Shape;

namespace {

/// Sizes of attention: q, k, v (B, N, H D), scores (B, H, N, N).
struct AttentionSizes {
    int64_t batch, heads, tokens, width;

    MatrixLayout tokens_layout(bool transposed = false) const {  // matrix (b, h) of (B, N, H D): (N, D)
        return {tokens * heads * width, width, heads * width, transposed};
    }
    MatrixLayout scores_layout(bool transposed = false) const {  // matrix (b, h) of (B, H, N, N): (N, N)
        return {heads * tokens * tokens, tokens * tokens, tokens, transposed};
    }
    /// (N, N) = a (N, D) . b^T, both (B, N, H D).
    BatchedShape to_scores() const {
        return {batch, heads, tokens, tokens, width, tokens_layout(), tokens_layout(true), scores_layout()};
    }
    /// (N, D) = a (N, N) or its transpose . b (N, D).
    BatchedShape to_tokens(bool transposed = false) const {
        return {batch,           heads,          tokens, width, tokens, scores_layout(transposed),
                tokens_layout(), tokens_layout()};
    }
};

}  // namespace

Variable attention_scores(const Variable& q, const Variable& k, int64_t heads) {
    // q, k: (B, N, H D)
    VVTQ_CHECK(q.shape().rank() == 3 && q.shape() == k.shape(), "q ", q.shape().str(), ", k ",
               k.shape().str());
    VVTQ_CHECK(heads > 0 && q.shape()[2] % heads == 0, "q ", q.shape().str(), " with ", heads, " heads");
    const AttentionSizes sizes{q.shape()[0], heads, q.shape()[1], q.shape()[2] / heads};
    const Tensor& value = q.value();
    const Tensor s({sizes.batch, heads, sizes.tokens, sizes.tokens}, value.dtype(), value.device());
    kernels(s.device()).batched_matmul(sizes.to_scores(), value, k.value(), s);
    tell_trace([&] { return OpArguments{{"heads", heads}}; });
    return record("attention_scores", s, {q, k},
                  [q = value, k = k.value(), sizes](const Tensor& ds, Gradients& dx) {
                      const auto& kernel = kernels(ds.device());
                      if (dx.wanted(0)) {
                          const Tensor dq = q.like();
                          kernel.batched_matmul(sizes.to_tokens(), ds, k, dq);
                          dx.set(0, dq);
                      }
                      if (dx.wanted(1)) {
                          const Tensor dk = k.like();
                          kernel.batched_matmul(sizes.to_tokens(true), ds, q, dk);
                          dx.set(1, dk);
                      }
                  });
}

Variable attention_apply(const Variable& p, const Variable& v) {
    // p: (B, H, N, N), v: (B, N, H D)
    const Shape& scores = p.shape();
    const Shape& shape = v.shape();
    VVTQ_CHECK(scores.rank() == 4 && shape.rank() == 3 && scores[0] == shape[0] && scores[2] == shape[1] &&
                   scores[3] == shape[1] && scores[1] > 0 && shape[2] % scores[1] == 0,
               "p ", scores.str(), ", v ", shape.str());
    const AttentionSizes sizes{shape[0], scores[1], shape[1], shape[2] / scores[1]};
    const Tensor y = v.value().like();
    kernels(y.device()).batched_matmul(sizes.to_tokens(), p.value(), v.value(), y);
    return record("attention_apply", y, {p, v},
                  [p = p.value(), v = v.value(), sizes](const Tensor& dy, Gradients& dx) {
                      const auto& kernel = kernels(dy.device());
                      if (dx.wanted(0)) {
                          const Tensor dp = p.like();
                          kernel.batched_matmul(sizes.to_scores(), dy, v, dp);
                          dx.set(0, dp);
                      }
                      if (dx.wanted(1)) {
                          const Tensor dv = v.like();
                          kernel.batched_matmul(sizes.to_tokens(true), p, dy, dv);
                          dx.set(1, dv);
                      }
                  });
}

}  // namespace vvtq::autograd
