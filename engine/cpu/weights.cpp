// weights: the quantizers of all weights of a model, one after the other.
#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {

void quantize_weights(const std::vector<WeightItem>& items) {
    for (const WeightItem& item : items) {
        lsq_codes(item.w, item.params, item.codes);
        lsq_weight_grad_scale(item.w, item.params, item.params.grad_scale);
        if (item.reg.defined()) bin_regularizer(item.w, item.params, item.reg, item.stats);
    }
}

void quantize_weights_backward(const std::vector<WeightGradientItem>& items, Arg dreg) {
    for (const WeightGradientItem& item : items) {
        const bool regularized = item.stats.defined() && dreg.defined();
        if (item.dy.defined()) lsq_backward(item.dy, item.w, item.params, item.dw, item.dscale, {});
        if (!regularized) {
            if (!item.dy.defined()) {
                fill(0.0, item.dw);
                fill(0.0, item.dscale);
            }
            continue;
        }
        const Tensor dw = item.dy.defined() ? item.w.like() : item.dw;
        const Tensor dscale = item.dy.defined() ? item.dscale.like() : item.dscale;
        bin_regularizer_backward(dreg, item.w, item.params, item.stats, dw, dscale);
        if (item.dy.defined()) {
            accumulate_add(dw, item.dw);
            accumulate_add(dscale, item.dscale);
        }
    }
}

}  // namespace vvtq::engine::cpu
