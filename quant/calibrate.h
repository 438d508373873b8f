// calibrate: where the steps start (specification section 2).
#pragma once

#include "engine/kernels.h"
#include "nn/model.h"

namespace vvtq::quant {

/// Whether quantizers that have their steps already keep them.
enum class Ready { start_anew, keep };

/// Sets the start values of every weight quantizer: LSQ's at the fixed point of the mean-squared error.
/// Throws Error(Fault::run) naming the layer whose step is not finite.
void calibrate_weights(nn::Module& model, Ready ready = Ready::start_anew);

/// One evaluation pass over `pictures` (B, C, S, S) that sets the start values of every activation quantizer
/// as its input arrives; each layer sees inputs that the layers before it have already quantized. Returns the
/// logits. The model is left in the mode it was in. Throws Error(Fault::run) naming the quantizer whose step
/// is not finite.
engine::Tensor calibrate_activations(nn::Model& model, const engine::Tensor& pictures,
                                     Ready ready = Ready::start_anew);

/// Step and offset of the mean-squared-error fixed point of w. `range` as in the quantizer; without offset o
/// = 0.
struct StepAndOffset {
    double step;
    double offset;
};
/// From a = max |w| / Qp: q = round(clamp(w / a)), a' = (w.q) / (q.q), until |(a' - a) / a'| < 1e-5. In
/// doubles. A step that is not finite comes back as it is: all weights zero, or one of them not finite.
StepAndOffset fit_step(const engine::Tensor& w, engine::CodeRange range);
/// With an offset: starts at o = min w, a = max |w - o| / Qp; q = round(clamp((w - o) / a)), then a' = ((w -
/// o).q) / (q.q) and o' = mean(w - a q), both from the old a and o; the same end. specification section 9.
StepAndOffset fit_step_and_offset(const engine::Tensor& w, engine::CodeRange range);

/// a = 2 mean |x| / sqrt(2^(b-1) - 1), for unsigned codes too.
double activation_start(const engine::Tensor& x, int bits);

}  // namespace vvtq::quant
