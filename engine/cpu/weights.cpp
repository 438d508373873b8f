// weights: the quantizers of all weights of a model, one after the other.
#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {

void quantize_weights(const std::vector<WeightItem>& items) {
    for (const WeightItem& item : items) {
        lsq_codes(item.w, item.alpha, {}, item.range, item.codes);
        lsq_weight_grad_scale(item.w, item.range, item.g);
        if (item.reg.defined()) bin_regularizer(item.w, item.alpha, item.range, item.reg, item.stats);
    }
}

void quantize_weights_backward(const std::vector<WeightGradientItem>& items, Arg dreg) {
    for (const WeightGradientItem& item : items) {
        const bool regularized = item.stats.defined() && dreg.defined();
        if (item.dy.defined()) {
            Tensor dy = item.dy;
            if (item.dy_times_alpha) {
                dy = item.w.like();
                scale(item.dy, 1.0 / item.alpha.item(), dy);
            }
            lsq_backward(dy, item.w, item.alpha, {}, item.range, item.g, item.dw, item.dalpha, {});
        }
        if (!regularized) {
            if (!item.dy.defined()) {
                fill(0.0, item.dw);
                fill(0.0, item.dalpha);
            }
            continue;
        }
        const Tensor dw = item.dy.defined() ? item.w.like() : item.dw;
        const Tensor dalpha = item.dy.defined() ? item.alpha.like() : item.dalpha;
        bin_regularizer_backward(dreg, item.w, item.alpha, item.range, item.stats, item.g, dw, dalpha);
        if (item.dy.defined()) {
            accumulate_add(dw, item.dw);
            accumulate_add(dalpha, item.dalpha);
        }
    }
}

}  // namespace vvtq::engine::cpu
