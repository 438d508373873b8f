#include "quant/binary.h"

#include "autograd/ops.h"

namespace vvtq::quant {

using engine::Shape;
using nn::Variable;

namespace {

/// How x is seen as (B, R, D), and which scales it gets.
struct View {
    Shape matrices;
    Shape scales;
};

View view_of(const Shape& x, const QuantizerOptions& options) {
    VVTQ_CHECK(x.rank() >= 2 && x.numel() > 0, "x ", x.str(), " has no samples and columns");
    if (options.weight) return {{1, x.rows(), x.cols()}, {1}};
    const int64_t batch = x[0];
    if (options.heads <= 0) return {{batch, x.rows() / batch, x.cols()}, {batch}};
    const bool per_head = x.rank() == 4 && x[1] == options.heads;
    VVTQ_CHECK(per_head || (x.rank() == 3 && x.cols() % options.heads == 0), "x ", x.str(), " with ",
               options.heads, " heads");
    const int64_t width = per_head ? x.cols() : x.cols() / options.heads;  // of a head
    return {{batch, x.numel() / (batch * width), width}, {batch, width}};
}

}  // namespace

Variable Binary::operator()(const Variable& x) {
    const View view = view_of(x.shape(), options_);
    return autograd::reshape(autograd::binary(autograd::reshape(x, view.matrices), view.scales), x.shape());
}

nn::QuantizerDescription Binary::describe() const {
    nn::QuantizerDescription description{"binary", 1, {-1, 1}, {}, {}};
    description.weight = options_.weight;
    return description;
}

}  // namespace vvtq::quant
