#include "quant/calibrate.h"

#include <algorithm>
#include <cmath>

#include "nn/evaluation_mode.h"
#include "quant/attach.h"

namespace vvtq::quant {

using engine::CodeRange;
using engine::Tensor;

namespace {

constexpr double kSettled = 1e-5;  // relative change of the step, taken against the new value
// Without an offset every turn lowers the error, so that the codes settle; with one, both values are moved at
// once and may circle. Fits take 1 to 100 turns.
constexpr int kMostTurns = 10000;

StepAndOffset fit(const Tensor& w, CodeRange range, bool with_offset) {
    const std::vector<double> values = w.to_vector();
    VVTQ_CHECK(!values.empty(), "no values to fit a step to");
    StepAndOffset fitted{0.0, with_offset ? *std::min_element(values.begin(), values.end()) : 0.0};
    for (const double value : values) {
        const double distance = std::fabs(value - fitted.offset) / range.high;
        if (!(distance <= fitted.step)) fitted.step = distance;
        if (!std::isfinite(fitted.step)) return fitted;
    }

    const Tensor sums(engine::Shape{3}, engine::DType::f64, w.device());
    for (int turn = 0; turn < kMostTurns; ++turn) {
        const double before = fitted.step;
        engine::kernels(w.device()).lsq_fit_sums(w, fitted.step, fitted.offset, range, sums);
        const std::vector<double> sum = sums.to_vector();  // (w - o).q, q.q, sum (w - a q)
        fitted.step = sum[0] / sum[1];
        if (with_offset) fitted.offset = sum[2] / static_cast<double>(values.size());
        if (!std::isfinite(fitted.step)) break;
        if (std::fabs((fitted.step - before) / fitted.step) < kSettled) break;
    }
    return fitted;
}

}  // namespace

StepAndOffset fit_step(const Tensor& w, CodeRange range) { return fit(w, range, false); }

StepAndOffset fit_step_and_offset(const Tensor& w, CodeRange range) { return fit(w, range, true); }

double activation_start(const Tensor& x, int bits) {
    const Tensor total({1}, engine::DType::f64, x.device());
    engine::kernels(x.device()).sum_abs(x, total);
    const double mean = total.item() / static_cast<double>(x.numel());
    return 2.0 * mean / std::sqrt(CodeRange::signed_bits(bits).high);
}

void calibrate_weights(nn::Module& model, Ready ready) {
    for (const auto& [path, slot] : slots(model)) {
        if (slot->get() == nullptr || slot->values() != nn::Values::weight) continue;
        if (ready == Ready::keep && slot->get()->ready()) continue;
        const autograd::Scope scope(path);
        slot->get()->reset();
        slot->get()->calibrate(slot->weight().value());
    }
}

Tensor calibrate_activations(nn::Model& model, const Tensor& pictures, Ready ready) {
    for (const auto& [path, slot] : slots(model)) {
        if (ready == Ready::start_anew && slot->get() != nullptr && slot->values() != nn::Values::weight)
            slot->get()->reset();
    }
    const nn::EvaluationMode evaluation(model);
    const autograd::NoGrad no_grad;
    return model.forward(pictures).value();  // a quantizer that gets no finite step says so by name
}

}  // namespace vvtq::quant
