#include "quant/bin_regularizer.h"

#include <cmath>
#include <numbers>

#include "quant/weight_pass.h"

namespace vvtq::quant {

void regularize(nn::Model& model, bool on) {
    if (WeightPass* pass = weight_pass_of(model)) pass->regularize(on);
}

BinRegularizer bin_regularizer(const nn::Model& model) {
    const WeightPass* pass = weight_pass_of(model);
    if (pass == nullptr || pass->has_no_weights()) {
        const nn::Tensor& first = model.parameters().front().parameter.value();
        return {nn::Variable(nn::Tensor::zeros(engine::Shape{1}, first.dtype(), first.device())), {}};
    }
    VVTQ_CHECK(pass->regularizer().defined(), "the forward pass was not asked for the bin regularizer");
    BinRegularizer found{pass->regularizer(), {}};
    for (size_t i = 0; i < pass->layers().size(); ++i)
        found.layers.emplace_back(pass->layers()[i], pass->terms()[i]);
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
