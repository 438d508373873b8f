// attach: which layer of a model gets which quantizer (specification section 3).
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "nn/model.h"
#include "nn/quantizer.h"

namespace vvtq::quant {

struct BitWidths {
    int weights = -1;          // 2..8 and 1; -1 or 32: float
    int activations = -1;      // likewise
    bool fixed_scale = false;  // steps and offsets keep their start values
    bool head_wise = false;    // one step for each head in attention, where the model allows it
    /// Widths of the slots whose path (of several one) matches a pattern, in which * stands for any text and
    /// ? for any character; the last match counts, and goes before all of the above.
    std::vector<std::pair<std::string, int>> by_name = {};
    std::string weight_quantizer = "lsq", activation_quantizer = "lsq";  // quant/registry.h; 1 bit: "binary"
};

/// Fills every quantizer slot below `model` that the bit widths ask for; call it once. First and last layers
/// get 8 bits in every configuration, unless `by_name` says otherwise. Steps take their dtype from the
/// model's parameters. Throws Error(Fault::input) naming `wbits`, `abits` or `bits` for other widths, and a
/// pattern that matches no slot.
void attach(nn::Module& model, const BitWidths& bits);
/// The same, and the pass that quantizes all weights of the model at once.
void attach(nn::Model& model, const BitWidths& bits);

/// The slots below `model` with their paths, in module order, each once. A weight's slot has its layer's
/// path: "blocks.0.attn.proj_q", "patch_embed.proj".
std::vector<std::pair<std::string, nn::QuantizerSlot*>> slots(nn::Module& model);

/// The same with each of a slot's paths: a block that SReT uses twice has two.
std::vector<std::pair<std::string, nn::QuantizerSlot*>> slots_by_path(nn::Module& model);

/// Whether every slot that the model uses has a quantizer of integer codes with one step, so that its
/// products can be integer (nn::Products::integers).
bool has_integer_products(nn::Module& model);

/// The full names under which state files may hold the quantizers of `model`, whether or not it has them: of
/// each slot, under each of its paths, the state names of every registered quantizer.
std::set<std::string> quantizer_state_names(nn::Module& model);

}  // namespace vvtq::quant
