#include "quant/head_lsq.h"

#include <cmath>

#include "autograd/ops.h"

namespace vvtq::quant {

using engine::Shape;
using engine::Tensor;
using nn::Variable;

HeadLsq::HeadLsq(const LsqOptions& options, int64_t heads, bool columns)
    : options_(options), range_(Lsq(options).range()), heads_(heads), columns_(columns) {
    VVTQ_CHECK(heads > 0 && !options.offset, heads, " heads, offset ", options.offset);
    Variable& alpha = add_parameter("alpha", Tensor::zeros({heads}, options.dtype, options.device));
    if (options.fixed) alpha = Variable(alpha.value(), false);
    alpha_ = &alpha;
}

int64_t HeadLsq::inner(const Shape& x) const {
    const bool scores = !options_.weight && x.rank() == 4 && x[1] == heads_;
    const bool rows = options_.weight && !columns_;
    const int64_t size = scores || rows ? x.numel() / (scores ? x[0] : 1) : x.cols();
    VVTQ_CHECK(x.rank() >= 2 && size > 0 && size % heads_ == 0 && (!rows || x[0] % heads_ == 0), "x ",
               x.str(), " with ", heads_, " heads");
    return size / heads_;
}

Variable HeadLsq::operator()(const Variable& x) {
    start_from(x.value());
    const auto& kernel = engine::kernels(x.value().device());
    std::vector<Tensor> steps;
    for (int64_t h = 0; h < heads_; ++h) steps.push_back(alpha_->value().slice(h, h + 1));
    kernel.raise_steps(steps);
    const Tensor sum_of_all({1}, options_.dtype, x.value().device()), g = sum_of_all.like();
    kernel.lsq_weight_grad_scale(x.value().to(options_.dtype), range_, sum_of_all);
    kernel.scale(sum_of_all, std::sqrt(static_cast<double>(heads_)), g);
    return autograd::lsq_heads(x, *alpha_, inner(x.shape()), range_, g);
}

void HeadLsq::start_from(const Tensor& x) {
    if (ready_) return;
    const int64_t width = inner(x.shape());
    const Tensor rows = x.reshape({x.numel() / (heads_ * width), heads_ * width});
    const Tensor part({rows.shape()[0], width}, x.dtype(), x.device());
    for (int64_t h = 0; h < heads_; ++h) {
        engine::kernels(x.device()).take_columns(rows, h * width, {}, {}, {}, part);
        Lsq one(options_);
        one.start_from(part);
        engine::kernels(x.device()).fill(one.step(), alpha_->value().slice(h, h + 1));
    }
    ready_ = true;
}

}  // namespace vvtq::quant
