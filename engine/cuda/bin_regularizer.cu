// bin_regularizer: how far weights lie from the middle of their bins (specification section 5): what
// weights.cu computes beside codes, of one weight.
#include "engine/cuda/families.h"
#include "engine/cuda/runtime.h"

namespace vvtq::engine::cuda {

void bin_regularizer(Arg w, Arg alpha, CodeRange range, Arg loss, Arg stats) {
    check_size(loss, 1, DType::f32);
    WeightItem item;
    item.w = w;
    item.alpha = alpha;
    item.range = range;
    item.reg = loss;
    item.stats = stats;
    quantize_weights({item});
}

void bin_regularizer_backward(Arg dy, Arg w, Arg alpha, CodeRange range, Arg stats, Arg g, Arg dw,
                              Arg dalpha) {
    VVTQ_CHECK(stats.defined() && dy.defined(), "nothing to differentiate");
    WeightGradientItem item = {};
    item.w = w;
    item.alpha = alpha;
    item.range = range;
    item.g = g;
    item.stats = stats;
    item.dw = dw;
    item.dalpha = dalpha;
    quantize_weights_backward({item}, dy);
}

}  // namespace vvtq::engine::cuda
