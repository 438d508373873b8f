// tests/: everything that is tested, in one program. Unit tests in unit/; golden_*: figures of another
// program.
//
// op_cases: the op table. One row per op and shape; op_table_test.cpp draws all its checks from the row
// alone.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "autograd/ops.h"

namespace vvtq::tests {

/// Values of all inputs of an op, one vector each.
using Values = std::vector<std::vector<double>>;

/// An input filled with offset + scale (2u - 1).
struct Input {
    engine::Shape shape;
    double scale = 1.0;
    double offset = 0.0;
    bool differentiable = true;
};

struct OpCase {
    std::string op;                    // the name that `record` is given
    std::string label;                 // what this row adds
    std::vector<std::string> kernels;  // fields of engine::Kernels that forward and backward run
    std::vector<Input> inputs;
    std::function<autograd::Variable(const std::vector<autograd::Variable>&)> forward;
    /// Moves input values away from kinks; unset where there are none.
    std::function<void(Values&)> place = nullptr;
    /// For straight-through ops: the op's output as a function of `at` with its rounding frozen as it is at
    /// `base`, and with alpha's distance from its base multiplied by the gradient scale. Its true derivative
    /// is what the op's backward must give. Unset where the op itself is differentiated.
    std::function<std::vector<double>(const Values& base, const Values& at)> frozen = nullptr;
};

/// Which inputs of an op are activations, by its name; the others are parameters, their gradient scales and
/// factors of samples, and of master dtype (engine/kernels.h).
const std::map<std::string, std::set<size_t>>& activations();

/// All rows.
const std::vector<OpCase>& op_cases();

// What op_cases() takes from other files.
/// The quantizers (op_cases_quant.cpp).
std::vector<OpCase> quantizer_op_cases();
/// Codes, and linear layers that multiply them (op_cases_codes.cpp).
std::vector<OpCase> code_op_cases();
/// The fused passes of a block (op_cases_block.cpp).
std::vector<OpCase> block_op_cases();
/// What models with stages need beside (op_cases_stages.cpp).
std::vector<OpCase> stage_op_cases();
/// Quantizers with one step for each head (op_cases_heads.cpp).
std::vector<OpCase> head_op_cases();

}  // namespace vvtq::tests
