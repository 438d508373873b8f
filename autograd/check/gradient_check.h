// check/: is an op's gradient the derivative of its output? For the ops of this house and of others.
//
// gradient_check: backward against central differences in float64, with two negative controls.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "autograd/variable.h"

namespace vvtq::autograd {

/// A function of Variables. It is called many times and must compute the same from the same values.
using CheckedFunction = std::function<Variable(const std::vector<Variable>&)>;

/// The values of every input, for a function that is written without Variables.
using InputValues = std::vector<std::vector<double>>;

struct GradientCheckOptions {
    double tolerance = 1e-7;
    double step = 1.0 / 1024;  // h of the central differences: inputs must lie 2 h or more from every kink
    size_t elements = 40;  // of an input that are moved one by one: its first, its last, random ones between
    int directions = 3;    // random directions in which all elements of an input are moved at once
    uint64_t seed = 0;     // of the upstream gradient, the elements and the directions
    /// For straight-through ops, whose gradient is by design not the derivative of their output: a function
    /// whose true derivative it is. It equals the op at the inputs' values, and its rounding stays as it is
    /// there: given values of all inputs it returns the output's. Unset where the op itself is
    /// differentiated.
    std::function<std::vector<double>(const InputValues&)> frozen = nullptr;
};

/// What was found for one input that requires a gradient. Errors are relative: of elements the largest
/// difference over the largest of the numerical gradient, of directions the largest difference over the l2
/// norm of the gradient.
struct InputCheck {
    size_t input = 0;        // its index
    double elements = 0;     // error of single elements
    double directions = 0;   // error of derivatives along directions
    double wrong_scale = 0;  // negative control: the smaller of both errors for 1.01 times the gradient
    double wrong_share = 0;  // negative control: error along directions where 1 % of the elements (at least
                             // one) are off by a tenth of the gradient's root mean square
    bool passed = false;  // both errors within the tolerance, and both controls beyond it
};

struct GradientCheck {
    bool passed = false;
    double frozen = 0;  // how far the frozen function is from the op at the inputs' values, relative
    std::vector<InputCheck> inputs;
    std::string report;  // all of it in words, one line an input
};

/// Checks the gradient of f at these inputs, for each one that requires a gradient.
///
/// Method: L = sum(u y) with a random upstream gradient u in [-1, 1]. f's backward gives dL/dx; central
/// differences of fourth order, (8 (L(x+h) - L(x-h)) - (L(x+2h) - L(x-2h))) / 12h, give it again for single
/// elements, and for random directions v over the whole input the sum of v dL/dx, in which a wrong element
/// shows wherever it is. A check that would not notice a wrong gradient fails too: so does an input whose
/// gradient is zero everywhere.
///
/// Throws Error(Fault::internal) where no input requires a gradient, one that does is empty or not f64 on the
/// CPU, y is not f64, or no gradient arrives at an input; and what f throws.
GradientCheck check_gradient(const CheckedFunction& f, const std::vector<Variable>& inputs,
                             const GradientCheckOptions& options = {});

}  // namespace vvtq::autograd
