#include "tests/op_harness.h"

#include <algorithm>
#include <cstring>

#include "engine/kernels.h"
#include "tests/golden_inputs.h"

namespace vvtq::tests {

using autograd::Variable;
using engine::Device;
using engine::DType;
using engine::Shape;
using engine::Tensor;

namespace {

void round_to_f32(std::vector<double>& values) {
    for (double& value : values) {
        value = static_cast<float>(value);
    }
}

std::vector<Variable> make_inputs(const OpCase& row, const Values& in, DType dtype, Device device) {
    std::vector<Variable> variables;
    for (size_t i = 0; i < in.size(); ++i) {
        variables.emplace_back(Tensor::from(in[i], row.inputs[i].shape, dtype, device),
                               row.inputs[i].differentiable);
    }
    return variables;
}

}  // namespace

Values input_values(const OpCase& row) {
    Values in;
    for (size_t i = 0; i < row.inputs.size(); ++i) {
        const Input& input = row.inputs[i];
        const std::string name = row.op + "/" + row.label + "/" + std::to_string(i);
        in.push_back(fill(name, input.shape.numel(), input.scale, input.offset));
        round_to_f32(in.back());
    }
    if (row.place) {
        row.place(in);
        std::for_each(in.begin(), in.end(), round_to_f32);
    }
    return in;
}

std::vector<double> upstream_gradient(const OpCase& row) {
    const size_t n = run_forward(row, input_values(row)).size();
    std::vector<double> upstream = fill(row.op + "/" + row.label + "/dy", static_cast<int64_t>(n), 1.0, 0.1);
    round_to_f32(upstream);
    return upstream;
}

OpResult run_op(const OpCase& row, const Values& in, const std::vector<double>& upstream, DType dtype,
                Device device) {
    const std::vector<Variable> variables = make_inputs(row, in, dtype, device);
    const Variable y = row.forward(variables);
    y.backward(Tensor::from(upstream, y.shape(), dtype, device));
    OpResult result;
    result.y = y.value().to_vector();
    for (const Variable& x : variables) {
        result.gradients.push_back(x.requires_grad() ? x.grad().to_vector() : std::vector<double>{});
    }
    return result;
}

std::vector<double> run_forward(const OpCase& row, const Values& in) {
    const autograd::NoGrad off;
    return row.forward(make_inputs(row, in, DType::f64, Device::cpu)).value().to_vector();
}

autograd::GradientCheck check_gradient(const OpCase& row, double tolerance) {
    const Values in = input_values(row);
    autograd::GradientCheckOptions options;
    options.tolerance = tolerance;
    if (row.frozen) options.frozen = [&](const Values& at) { return row.frozen(in, at); };
    return autograd::check_gradient(row.forward, make_inputs(row, in, DType::f64, Device::cpu), options);
}

void poison_pool(size_t bytes, Device device) {
    // Bytes of 0xFF are NaN in every floating dtype. Classes of CUDA's pool lie a factor of 32/31 or more
    // apart, so that smaller steps meet each of them.
    std::vector<Tensor> blocks;
    const double largest = std::max(1024.0, 1.2 * static_cast<double>(bytes));
    const double step = device == Device::cpu ? 1.06 : 1.03;
    for (double size = 64; size < largest; size *= step) {
        for (int copy = 0; copy < 8; ++copy) {
            const Tensor& block = blocks.emplace_back(Shape{static_cast<int64_t>(size)}, DType::u8, device);
            if (device == Device::cpu) {
                std::memset(block.raw(), 0xFF, block.bytes());
            } else {
                engine::kernels(device).fill(0xFF, block);
            }
        }
    }
}

}  // namespace vvtq::tests
