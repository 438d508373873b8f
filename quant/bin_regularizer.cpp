#include "quant/bin_regularizer.h"

#include <cmath>
#include <numbers>

#include "autograd/ops.h"
#include "quant/attach.h"
#include "quant/lsq.h"

namespace vvtq::quant {

BinRegularizer bin_regularizer(nn::Module& model) {
    BinRegularizer found;
    for (const auto& [path, slot] : slots(model)) {
        auto* quantizer = dynamic_cast<Lsq*>(slot->get());
        if (quantizer == nullptr || slot->values() != nn::Values::weight) continue;
        const nn::Variable& w = slot->weight();
        const nn::Variable term = autograd::bin_regularizer(w, quantizer->alpha(), quantizer->range(),
                                                            quantizer->grad_scale(w.value()));
        found.layers.emplace_back(path, term);
        found.total = found.total.defined() ? autograd::add(found.total, term) : term;
    }
    if (!found.total.defined()) {
        const auto parameters = model.parameters();
        const auto dtype =
            parameters.empty() ? engine::DType::f32 : parameters.front().parameter.value().dtype();
        found.total = nn::Variable(nn::Tensor::zeros(engine::Shape{1}, dtype));
    }
    return found;
}

double bin_regularizer_weight(double epoch, double epochs) {
    constexpr double kStart = 0.25;  // share of the epochs without the term
    constexpr double kEnd = 0.01;    // lambda of the last epoch
    VVTQ_CHECK(epochs > 0, epochs, " epochs");
    const double begin = kStart * epochs;
    if (epoch < begin) return 0.0;
    const double progress = (epoch - begin) / (epochs - begin);
    return kEnd - 0.5 * kEnd * (1.0 + std::cos(std::numbers::pi * progress));
}

}  // namespace vvtq::quant
