// op_harness: runs and checks a row of the op table.
#pragma once

#include <vector>

#include "autograd/check/gradient_check.h"
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

/// The row's gradient check in f64, against its frozen function where it has one.
autograd::GradientCheck check_gradient(const OpCase& row, double tolerance);

/// Fills the device's cached memory with NaN, in blocks of all sizes up to `bytes`, several each.
void poison_pool(size_t bytes, engine::Device device = engine::Device::cpu);

}  // namespace vvtq::tests
