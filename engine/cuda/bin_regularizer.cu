// bin_regularizer: how far weights lie from the middle of their bins (specification section 5): what
// weights.cu computes beside codes, of one weight.
#include "engine/cuda/families.h"
#include "engine/cuda/runtime.h"

namespace vvtq::engine::cuda {

void bin_regularizer(Arg w, const QuantParams& quantizer, Arg loss, Arg stats) {
    check_size(loss, 1, DType::f32);
    WeightItem item{w, quantizer, {}, loss, stats};
    item.params.grad_scale = {};
    quantize_weights({item});
}

void bin_regularizer_backward(Arg dy, Arg w, const QuantParams& quantizer, Arg stats, Arg dw, Arg dscale) {
    VVTQ_CHECK(stats.defined() && dy.defined(), "nothing to differentiate");
    quantize_weights_backward({{w, quantizer, stats, {}, dw, dscale}}, dy);
}

}  // namespace vvtq::engine::cuda
