#include "quant/attach.h"

#include <memory>
#include <unordered_set>

#include "quant/binary.h"
#include "quant/head_lsq.h"
#include "quant/lsq.h"
#include "quant/weight_pass.h"

namespace vvtq::quant {

namespace {

constexpr int kFloat = -1;

/// The width asked for, or kFloat.
int checked_bits(int bits, const char* flag) {
    if (bits == kFloat || bits == 32) return kFloat;
    if (bits >= 1 && bits <= 8) return bits;
    engine::input_error(flag, " ", bits, ": give 1 to 8 bits, or 32 (or -1) for float");
}

std::unique_ptr<nn::Quantizer> quantizer_for(const nn::QuantizerSlot& slot, int bits, LsqOptions options,
                                             bool head_wise) {
    const bool weight = slot.values() == nn::Values::weight;
    if (bits == 1) {
        return std::make_unique<Binary>(BinaryOptions{.weight = weight, .heads = slot.heads()});
    }
    options.bits = bits;
    options.weight = weight;
    options.is_signed = weight || slot.values() == nn::Values::activation;
    options.offset = slot.values() == nn::Values::activated;
    if (head_wise && slot.step_heads() > 0) {
        return std::make_unique<HeadLsq>(options, slot.step_heads(), slot.head_columns());
    }
    return std::make_unique<Lsq>(options);
}

}  // namespace

void attach(nn::Module& model, const BitWidths& bits) {
    const int wbits = checked_bits(bits.weights, "`wbits`");
    const int abits = checked_bits(bits.activations, "`abits`");
    LsqOptions options{.fixed = bits.fixed_scale};
    const auto parameters = model.parameters();
    if (!parameters.empty()) {
        const nn::Tensor& first = parameters.front().parameter.value();
        options.dtype = first.dtype();
        options.device = first.device();
    }
    for (const auto& [path, slot] : slots(model)) {
        const int configured = slot->values() == nn::Values::weight ? wbits : abits;
        const int width = slot->bits() == nn::Bits::always_8 ? 8 : configured;
        if (width != kFloat) slot->fill(quantizer_for(*slot, width, options, bits.head_wise));
    }
}

void attach(nn::Model& model, const BitWidths& bits) {
    attach(static_cast<nn::Module&>(model), bits);
    model.set_weight_pass(std::make_unique<WeightPass>(model));
}

std::vector<std::pair<std::string, nn::QuantizerSlot*>> slots(nn::Module& model) {
    std::vector<std::pair<std::string, nn::QuantizerSlot*>> found;
    std::unordered_set<const nn::Module*> seen;
    for (const auto& [path, module] : model.modules()) {
        auto* slot = dynamic_cast<nn::QuantizerSlot*>(module);
        if (slot != nullptr && seen.insert(slot).second) found.emplace_back(path, slot);
    }
    return found;
}

}  // namespace vvtq::quant
