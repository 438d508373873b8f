// What models with stages need beside the passes of a block: tokens in another order, scores with a bias,
// learned residual weights, convolutions.
#include "autograd/linear.h"
#include "autograd/trace.h"

namespace vvtq::autograd {

using engine::Convolution;
using engine::DType;
using engine::kernels;
using engine::master_of;
using engine::Shape;

namespace {

const Shape kOne({1});

Tensor value_of(const Variable& x) { return x.defined() ? x.value() : Tensor(); }

Tensor gathered(const Tensor& x, const Tensor& index) {
    const Tensor y = x.like();
    kernels(y.device()).gather_tokens(x, index, y);
    return y;
}

}  // namespace

Variable gather_tokens(const Variable& x, const TokenOrder& order) {
    // x: (B, N, C)
    VVTQ_CHECK(x.shape().rank() == 3 && order.index.shape() == Shape({x.shape()[1]}) &&
                   order.inverse.shape() == order.index.shape(),
               "x ", x.shape().str(), ", order of ", order.index.shape().str());
    tell_trace([&] { return OpArguments{{"index", order.index}}; });
    return record(
        "gather_tokens", Output(gathered(x.value(), order.index), x.gradient_dtype()), {x},
        [inverse = order.inverse](const Tensor& dy, Gradients& dx) { dx.set(0, gathered(dy, inverse)); });
}

Quantized gather_tokens(const Quantized& x, const TokenOrder& order) {
    Quantized y = x;
    y.packed = {};  // of codes in another order
    y.q = gather_tokens(x.q, order);
    if (x.recompute) {
        y.recompute = [recompute = x.recompute, shape = x.q.shape(), index = order.index] {
            return gathered(recompute().reshape(shape), index);
        };
    }
    return y;
}

Quantized reshape(const Quantized& x, const Shape& shape) {
    Quantized y = x;
    y.packed = {};
    y.q = reshape(x.q, shape);
    if (x.recompute) y.recompute = [recompute = x.recompute, shape] { return recompute().reshape(shape); };
    return y;
}

Variable mean_tokens(const Variable& x) {
    // x: (B, N, C)
    const Shape& shape = x.shape();
    VVTQ_CHECK(shape.rank() == 3, "x ", shape.str());
    const Tensor y({shape[0], shape[2]}, x.value().dtype(), x.value().device());
    kernels(y.device()).mean_tokens(x.value(), y);
    return record("mean_tokens", y, {x}, [before = shape](const Tensor& dy, Gradients& dx) {
        const Tensor gradient(before, dy.dtype(), dy.device());
        kernels(dy.device()).spread_token(dy, gradient);
        dx.set(0, gradient);
    });
}

Variable transpose(const Variable& x) {
    // x: (R, C)
    const Shape& shape = x.shape();
    VVTQ_CHECK(shape.rank() == 2, "x ", shape.str());
    const auto turned = [](const Tensor& of) {
        const Tensor y({of.shape()[1], of.shape()[0]}, of.dtype(), of.device());
        kernels(y.device()).transpose(of, y);
        return y;
    };
    return record("transpose", turned(x.value()), {x},
                  [turned](const Tensor& dy, Gradients& dx) { dx.set(0, turned(dy)); });
}

Variable table_bias(const Variable& table, const Tensor& index) {
    // table: (E, H), index: (N, N)
    const Shape& entries = table.shape();
    VVTQ_CHECK(entries.rank() == 2 && index.shape().rank() == 2, "table ", entries.str(), ", index ",
               index.shape().str());
    const Tensor& value = table.value();
    const Tensor y({entries[1], index.shape()[0], index.shape()[1]}, value.dtype(), value.device());
    kernels(y.device()).table_bias(value, index, y);
    tell_trace([&] { return OpArguments{{"index", index}}; });
    return record("table_bias", y, {table}, [like = value, index](const Tensor& dy, Gradients& dx) {
        const Tensor gradient = like.like();
        kernels(dy.device()).table_bias_backward(dy, index, gradient);
        dx.set(0, gradient);
    });
}

Variable biased_softmax(const Variable& x, double s, const Variable& bias, const Tensor& mask) {
    // x: (B, H, N, N), bias: (H, N, N), mask: (W, N, N)
    const Tensor y = x.value().like();
    kernels(y.device()).biased_softmax(x.value(), s, value_of(bias), mask, y);
    tell_trace([&] { return OpArguments{{"s", s}, {"mask", mask}}; });
    return record("biased_softmax", y, {x, bias}, [y, s](const Tensor& dy, Gradients& dx) {
        const auto& kernel = kernels(dy.device());
        const Tensor gradient = y.like();
        kernel.softmax_backward(dy, y, 1.0, gradient);
        if (dx.wanted(1)) {
            const Shape& shape = y.shape();
            const Tensor dbias({shape[1], shape[2], shape[3]}, master_of(dy.dtype()), dy.device());
            kernel.sum_rows(gradient, dbias);
            dx.set(1, dbias);
        }
        if (dx.wanted(0)) {
            const Tensor of_scores = y.like();
            kernel.scale(gradient, s, of_scores);
            dx.set(0, of_scores);
        }
    });
}

Variable weighted_sum(const Variable& x, const Variable& f, const Tensor& keep, const Variable& k1,
                      const Variable& k2) {
    // x, f: (B, ...), keep: (B), k1, k2: (1)
    VVTQ_CHECK(x.shape() == f.shape() && k1.shape() == kOne && k2.shape() == kOne, "x ", x.shape().str(),
               ", f ", f.shape().str());
    const Tensor y = x.value().like();
    kernels(y.device()).weighted_sum(x.value(), f.value(), keep, k1.value(), k2.value(), y);
    return record(
        "weighted_sum", y, {x, f, k1, k2},
        [x = x.value(), f = f.value(), keep, a = k1.value(), b = k2.value()](const Tensor& dy, Gradients& d) {
            const Tensor dx = x.like(), df = x.like(), da = a.like(), db = b.like();
            kernels(dy.device()).weighted_sum_backward(dy, x, f, keep, a, b, dx, df, da, db);
            d.set(0, dx);
            d.set(1, df);
            d.set(2, da);
            d.set(3, db);
        });
}

Quantized unfold(const Quantized& x, const Convolution& shape) {
    const Tensor& value = x.q.value();
    VVTQ_CHECK(value.shape().rank() > 1 && !x.offset.defined(),
               "a picture's surroundings are 0, which an offset has no code for");
    const int64_t batch = value.shape()[0];
    const auto columns = [shape, batch](const Tensor& of) {
        const Tensor u({batch, shape.positions(), shape.channels * 9}, of.dtype(), of.device());
        kernels(u.device()).unfold(of, shape, u);
        return u;
    };
    Quantized y = x;
    tell_trace([&] { return OpArguments{{"shape", shape}}; });
    y.q = record("unfold", columns(value), {x.q},
                 [shape, before = value.shape()](const Tensor& du, Gradients& dx) {
                     const Tensor gradient(before, du.dtype(), du.device());
                     kernels(du.device()).fold(du, shape, gradient);
                     dx.set(0, gradient);
                 });
    if (kernels(value.device()).recompute) {  // nine times the picture
        y.recompute = [codes = Saved(x), columns, before = value.shape()] {
            return columns(codes.get().reshape(before));
        };
    }
    return y;
}

Variable grouped_convolution(const Quantized& x, const Convolution& shape, const Quantized& w,
                             const Variable& bias) {
    // x: (B, height width, C), w: (O, 9), bias: (O)
    const Tensor& value = x.q.value();
    VVTQ_CHECK(value.shape().rank() > 1 && !x.offset.defined(),
               "a picture's surroundings are 0, which an offset has no code for");
    const bool integer = is_integer(value) && is_integer(w.q.value());
    const DType dtype = is_integer(value) ? DType::f32 : value.dtype();
    const Tensor codes = integer ? w.q.value() : w.q.value().to(dtype);
    const int64_t outputs = codes.shape()[0];
    const auto& kernel = kernels(value.device());
    const DType master = master_of(dtype);
    const Tensor scale({1}, master, value.device());
    const Tensor shifted({outputs}, dtype, value.device());
    kernel.linear_scale(x.scale, {}, codes, w.scale, value_of(bias), scale, shifted);
    const Tensor y({value.shape()[0], shape.positions(), outputs}, dtype, value.device());
    kernel.grouped_convolution(integer ? value : value.to(dtype), shape, codes, scale, shifted, y);
    tell_trace([&] { return OpArguments{{"shape", shape}}; });
    return record("grouped_convolution", y, {x.q, w.q, bias},
                  [shape, codes, x_scale = x.scale, w_scale = w.scale, saved = Saved(x), outputs, master,
                   before = value.shape()](const Tensor& dy, Gradients& dx) {
                      const auto& ops = kernels(dy.device());
                      if (dx.wanted(0)) {
                          const Tensor gradient(before, dy.dtype(), dy.device());
                          ops.grouped_convolution_backward_input(dy, shape, codes, w_scale, gradient);
                          dx.set(0, gradient);
                      }
                      if (dx.wanted(1)) {
                          const Tensor dw({outputs, 9}, master, dy.device());
                          ops.grouped_convolution_backward_weight(dy, shape, saved.get(), x_scale, dw);
                          dx.set(1, dw);
                      }
                      if (dx.wanted(2)) {
                          const Tensor dbias({outputs}, master, dy.device());
                          ops.sum_rows(dy, dbias);
                          dx.set(2, dbias);
                      }
                  });
}

}  // namespace vvtq::autograd
