#include "quant/inspect/stand_in.h"

#include <cmath>

#include "quant/calibrate.h"
#include "quant/lsq.h"

namespace vvtq::quant {

std::unique_ptr<nn::Quantizer> fitted_quantizer(const nn::QuantizerSlot& slot, int bits,
                                                const nn::Tensor& values) {
    QuantizerOptions options;
    options.bits = bits;
    options.weight = slot.values() == nn::Values::weight;
    options.is_signed = options.weight || slot.values() == nn::Values::activation;
    options.offset = slot.values() == nn::Values::activated;
    options.dtype = engine::master_of(values.dtype());
    options.device = values.device();
    auto quantizer = std::make_unique<Lsq>(options);
    const StepAndOffset start = options.offset ? fit_step_and_offset(values, quantizer->range())
                                               : fit_step(values, quantizer->range());
    quantizer->set_step(std::isfinite(start.step) ? start.step : engine::kLeastStep,
                        options.offset && std::isfinite(start.offset) ? start.offset : 0.0);
    return quantizer;
}

}  // namespace vvtq::quant
