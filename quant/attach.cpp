#include "quant/attach.h"

#include <fnmatch.h>

#include <map>
#include <memory>
#include <unordered_set>

#include "quant/registry.h"
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

QuantizerOptions options_for(const nn::QuantizerSlot& slot, int bits, QuantizerOptions options,
                             bool head_wise) {
    options.bits = bits;
    options.weight = slot.values() == nn::Values::weight;
    options.is_signed = options.weight || slot.values() == nn::Values::activation;
    options.offset = slot.values() == nn::Values::activated;
    options.heads = slot.heads();
    if (!head_wise) return options;
    options.step_heads = slot.step_heads();
    options.head_columns = slot.head_columns();
    return options;
}

/// The widths that names ask for, by slot.
std::map<const nn::QuantizerSlot*, int> widths_by_name(
    nn::Module& model, const std::vector<std::pair<std::string, int>>& by_name) {
    std::map<const nn::QuantizerSlot*, int> widths;
    const auto named = slots_by_path(model);
    for (const auto& [pattern, bits] : by_name) {
        const int width = checked_bits(bits, "`bits`");
        bool matched = false;
        for (const auto& [path, slot] : named) {
            if (::fnmatch(pattern.c_str(), path.c_str(), FNM_NOESCAPE) != 0) continue;
            widths[slot] = width;
            matched = true;
        }
        if (!matched) {
            engine::input_error("`bits`: no quantizer of this model has a name like '", pattern,
                                "'; `vvtq inspect` tells their names");
        }
    }
    return widths;
}

}  // namespace

void attach(nn::Module& model, const BitWidths& bits) {
    const int wbits = checked_bits(bits.weights, "`wbits`");
    const int abits = checked_bits(bits.activations, "`abits`");
    const auto by_name = widths_by_name(model, bits.by_name);
    QuantizerOptions options{.fixed = bits.fixed_scale};
    const auto parameters = model.parameters();
    if (!parameters.empty()) {
        const nn::Tensor& first = parameters.front().parameter.value();
        options.dtype = first.dtype();
        options.device = first.device();
    }
    for (const auto& [path, slot] : slots(model)) {
        const int configured = slot->values() == nn::Values::weight ? wbits : abits;
        const auto named = by_name.find(slot);
        const int width = named != by_name.end()               ? named->second
                          : slot->bits() == nn::Bits::always_8 ? 8
                                                               : configured;
        if (width == kFloat) continue;
        const bool weight = slot->values() == nn::Values::weight;
        const std::string name = width == 1 ? "binary"
                                 : weight   ? bits.weight_quantizer
                                            : bits.activation_quantizer;
        slot->fill(quantizer_kind(name).make(options_for(*slot, width, options, bits.head_wise)));
    }
}

void attach(nn::Model& model, const BitWidths& bits) {
    attach(static_cast<nn::Module&>(model), bits);
    model.set_weight_pass(std::make_unique<WeightPass>(model));
}

std::vector<std::pair<std::string, nn::QuantizerSlot*>> slots_by_path(nn::Module& model) {
    std::vector<std::pair<std::string, nn::QuantizerSlot*>> found;
    for (const auto& [path, module] : model.modules()) {
        auto* slot = dynamic_cast<nn::QuantizerSlot*>(module);
        if (slot != nullptr) found.emplace_back(path, slot);
    }
    return found;
}

bool has_integer_products(nn::Module& model) {
    for (const auto& [path, slot] : slots(model)) {
        if (slot->idle()) continue;
        if (slot->get() == nullptr || !slot->get()->params(1)) return false;
    }
    return true;
}

std::vector<std::pair<std::string, nn::QuantizerSlot*>> slots(nn::Module& model) {
    std::vector<std::pair<std::string, nn::QuantizerSlot*>> found = slots_by_path(model);
    std::unordered_set<const nn::Module*> seen;
    std::erase_if(found, [&](const auto& named) { return !seen.insert(named.second).second; });
    return found;
}

std::set<std::string> quantizer_state_names(nn::Module& model) {
    std::set<std::string> states, names;
    for (const std::string& kind : quantizer_names()) {
        // the widest one has every state that a quantizer of its kind can have
        for (std::string& state : quantizer_kind(kind).make({.bits = 8, .offset = true})->state_names()) {
            states.insert(std::move(state));
        }
    }
    for (const auto& [path, slot] : slots_by_path(model)) {
        for (const std::string& state : states) names.insert(path + "." + state);
    }
    return names;
}

}  // namespace vvtq::quant
