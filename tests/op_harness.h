// op_harness: runs a row of the op table, and its numerical gradient.
#pragma once

#include <vector>

#include "tests/op_cases.h"

namespace vvtq::tests {

/// What a row computes: output and the gradient of every differentiable input (empty for constants).
struct OpResult {
    std::vector<double> y;
    Values gradients;
    bool operator==(const OpResult& other) const = default;
};

/// The row's inputs: values that f32 holds exactly, clear of kinks.
Values input_values(const OpCase& row);
/// A random upstream gradient for the row's output, exact in f32.
std::vector<double> upstream_gradient(const OpCase& row);
/// Forward and backward.
OpResult run_op(const OpCase& row, const Values& in, const std::vector<double>& upstream, engine::DType dtype,
                engine::Device device = engine::Device::cpu);
/// The output alone, f64 on the CPU.
std::vector<double> run_forward(const OpCase& row, const Values& in);

/// Elements of input i, and sum(upstream y)'s derivative by each: central differences of fourth order in f64.
struct NumericGradient {
    std::vector<size_t> elements;  // all, or of a large input its ends and a random choice
    std::vector<double> values;
};
NumericGradient numeric_gradient(const OpCase& row, const Values& in, size_t i,
                                 const std::vector<double>& upstream);

/// Fills the device's cached memory with NaN, in blocks of all sizes up to `bytes`, several each.
void poison_pool(size_t bytes, engine::Device device = engine::Device::cpu);

}  // namespace vvtq::tests
