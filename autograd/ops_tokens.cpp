// Pictures to tokens, the class token.
#include "autograd/ops.h"
#include "autograd/trace.h"

namespace vvtq::autograd {

using engine::kernels;
using engine::Shape;

Variable patchify(const Variable& x, int64_t patch) {
    // x: (B, C, H, W)
    const Shape& shape = x.shape();
    VVTQ_CHECK(shape.rank() == 4 && patch > 0 && shape[2] % patch == 0 && shape[3] % patch == 0, "x ",
               shape.str(), " in patches of ", patch);
    const int64_t tokens = (shape[2] / patch) * (shape[3] / patch);
    const Tensor& value = x.value();
    const Tensor y({shape[0], tokens, shape[1] * patch * patch}, value.dtype(), value.device());
    kernels(y.device()).patchify(value, patch, y);
    tell_trace([&] { return OpArguments{{"patch", patch}}; });
    return record("patchify", y, {x}, [before = shape, patch](const Tensor& dy, Gradients& dx) {
        const Tensor gradient(before, dy.dtype(), dy.device());
        kernels(dy.device()).unpatchify(dy, patch, gradient);
        dx.set(0, gradient);
    });
}

Variable prepend_token(const Variable& token, const Variable& x) {
    // token: (1, 1, C), x: (B, N, C)
    const Shape& shape = x.shape();
    VVTQ_CHECK(shape.rank() == 3 && token.shape() == Shape({1, 1, shape[2]}), "token ", token.shape().str(),
               ", x ", shape.str());
    const Shape channels({shape[2]});
    const Tensor& value = x.value();
    const Tensor y({shape[0], shape[1] + 1, shape[2]}, value.dtype(), value.device());
    kernels(y.device()).prepend_token(token.value().reshape(channels), value, y);
    return record("prepend_token", y, {token, x},
                  [before = shape, channels](const Tensor& dy, Gradients& dx) {
                      const auto& kernel = kernels(dy.device());
                      if (dx.wanted(0)) {
                          const Tensor first({before[0], before[2]}, dy.dtype(), dy.device());
                          kernel.select_token(dy, 0, first);
                          const Tensor dtoken(channels, engine::master_of(dy.dtype()), dy.device());
                          kernel.sum_rows(first, dtoken);
                          dx.set(0, dtoken.reshape({1, 1, before[2]}));
                      }
                      if (dx.wanted(1)) {
                          const Tensor rest(before, dy.dtype(), dy.device());
                          kernel.drop_first_token(dy, rest);
                          dx.set(1, rest);
                      }
                  });
}

Variable select_token(const Variable& x, int64_t index) {
    // x: (B, N, C)
    const Shape& shape = x.shape();
    VVTQ_CHECK(shape.rank() == 3 && index >= 0 && index < shape[1], "token ", index, " of x ", shape.str());
    const Tensor& value = x.value();
    const Tensor y({shape[0], shape[2]}, value.dtype(), value.device());
    kernels(y.device()).select_token(value, index, y);
    tell_trace([&] { return OpArguments{{"index", index}}; });
    return record("select_token", y, {x}, [before = shape, index](const Tensor& dy, Gradients& dx) {
        const Tensor gradient(before, dy.dtype(), dy.device());
        kernels(dy.device()).scatter_token(dy, index, gradient);
        dx.set(0, gradient);
    });
}

}  // namespace vvtq::autograd
