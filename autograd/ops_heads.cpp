// Quantizers with one step for each attention head.
#include "autograd/ops.h"

namespace vvtq::autograd {

using engine::kernels;
using engine::Shape;

namespace {

/// Head after head through buffers of one head's size: f(h, part of each of `from`, part of `to`).
template <typename F>
void for_each_head(int64_t heads, int64_t inner, const std::vector<Tensor>& from, const Tensor& to, F&& f) {
    const Shape rows = {to.numel() / (heads * inner), heads * inner};
    const Tensor y = to.reshape(rows), out({rows[0], inner}, to.dtype(), to.device());
    const auto& kernel = kernels(to.device());
    std::vector<Tensor> parts;
    for (const Tensor& x : from) parts.emplace_back(out.shape(), x.dtype(), x.device());
    for (int64_t h = 0; h < heads; ++h) {
        for (size_t i = 0; i < from.size(); ++i) {
            kernel.take_columns(from[i].reshape(rows), h * inner, {}, {}, {}, parts[i]);
        }
        f(h, parts, out);
        kernel.put_columns(out, {}, h * inner, y);
    }
}

}  // namespace

Variable lsq_heads(const Variable& x, const Variable& alpha, int64_t inner, engine::CodeRange range,
                   const Tensor& g) {
    // x: (..., H, inner values in a row), alpha: (H), g: (1)
    const int64_t heads = alpha.shape().numel();
    VVTQ_CHECK(heads > 0 && inner > 0 && x.shape().numel() % (heads * inner) == 0, "x ", x.shape().str(),
               " in runs of ", inner, " for ", heads, " heads");
    const Tensor y = x.value().like();
    for_each_head(heads, inner, {x.value()}, y,
                  [&](int64_t h, const std::vector<Tensor>& part, const Tensor& out) {
                      kernels(out.device()).lsq(part[0], alpha.value().slice(h, h + 1), {}, range, out);
                  });
    return record(
        "lsq_heads", y, {x, alpha},
        [x = x.value(), alpha = alpha.value(), heads, inner, range, g](const Tensor& dy, Gradients& dx) {
            const Tensor gradient = x.like(), dalpha = alpha.like();
            for_each_head(heads, inner, {dy, x}, gradient,
                          [&](int64_t h, const std::vector<Tensor>& part, const Tensor& out) {
                              kernels(out.device())
                                  .lsq_backward(part[0], part[1], alpha.slice(h, h + 1), {}, range, g, out,
                                                dalpha.slice(h, h + 1), {});
                          });
            dx.set(0, gradient);
            dx.set(1, dalpha);
        });
}

}  // namespace vvtq::autograd
