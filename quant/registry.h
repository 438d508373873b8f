// registry: quantizers by the names under which `attach` finds them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "nn/quantizer.h"

namespace vvtq::quant {

/// What a quantizer is told about its place. specification sections 1 and 3.
struct QuantizerOptions {
    int bits = 4;                              // 1..8
    bool is_signed = true;                     // codes -2^(b-1) .. 2^(b-1) - 1; otherwise 0 .. 2^b - 1
    bool offset = false;                       // learned offset
    bool weight = false;                       // of a layer's weight; otherwise of an activation
    bool fixed = false;                        // step and offset are not trained
    engine::DType dtype = engine::DType::f32;  // of parameters; x has this dtype, or bf16 beside f32
    engine::Device device = engine::Device::cpu;
    int64_t heads = 0;          // of an activation that belongs to attention heads, see nn::QuantizerSlot
    int64_t step_heads = 0;     // above 1: a step for each of so many heads
    bool head_columns = false;  // a weight's heads are its columns
};

struct QuantizerKind {
    std::string name;
    std::function<std::unique_ptr<nn::Quantizer>(const QuantizerOptions&)> make;
};

/// "lsq" and "binary" are known from the start. Throws Error(Fault::internal) where the name is taken. A
/// quantizer of your own registers itself by one line: `const bool known = quant::register_quantizer({"mine",
/// make_mine});`
bool register_quantizer(QuantizerKind kind);
/// Throws Error(Fault::input) listing the known names.
const QuantizerKind& quantizer_kind(const std::string& name);
std::vector<std::string> quantizer_names();

}  // namespace vvtq::quant
