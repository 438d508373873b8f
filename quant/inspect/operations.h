// operations: the matrix products of a forward pass, and what they cost at the widths of their operands.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "nn/model.h"

namespace vvtq::quant {

inline constexpr int kFloatBits = 32;  // of an operand that is not quantized, in costs

/// One product: a layer's with its weight, or one of attention's two.
struct Product {
    std::string layer;      // the path that computes it
    double operations = 0;  // multiplications with addition, of one picture
    std::string left;       // the paths of its operands' quantizers; empty where one is not quantized
    std::string right;
};

/// What one picture needs: the products in their order, and the values that each activation slot sees, by the
/// slot's path. Slots that are never called are left out.
struct PictureCost {
    struct Values {
        engine::Shape shape;  // of the first call, without the batch
        int64_t count = 0;    // of all calls
    };
    std::vector<Product> products;
    std::map<std::string, Values> values;
};

/// Runs one evaluation pass over `picture` (1, C, S, S).
PictureCost picture_cost(nn::Model& model, const engine::Tensor& picture);

/// sum over products of operations x bits of the left operand x bits of the right one. `bits` by path; a path
/// that is not there has kFloatBits.
double bit_operations(const std::vector<Product>& products, const std::map<std::string, int>& bits);

}  // namespace vvtq::quant
