#include "tests/op_harness.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/kernels.h"
#include "engine/random.h"
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

NumericGradient numeric_gradient(const OpCase& row, const Values& in, size_t i,
                                 const std::vector<double>& upstream) {
    constexpr size_t kMost = 40;
    constexpr double h = 1.0 / 1024;
    NumericGradient gradient;
    const size_t n = in[i].size();
    engine::Random random(engine::mix_key({n, i}));
    for (size_t e = 0; e < std::min(n, kMost); ++e) {  // of a large input the ends and some between
        gradient.elements.push_back(n <= kMost || e < 4 ? e : e < 8 ? n - 1 - (e - 4) : random.below(n));
    }
    for (const size_t e : gradient.elements) {
        const auto at = [&](double step) {
            Values moved = in;
            moved[i][e] += step;
            return row.frozen ? row.frozen(in, moved) : run_forward(row, moved);
        };
        const std::vector<double> far_up = at(2 * h), up = at(h), down = at(-h), far_down = at(-2 * h);
        double sum = 0;
        for (size_t k = 0; k < upstream.size(); ++k) {
            sum += upstream[k] * (8 * (up[k] - down[k]) - (far_up[k] - far_down[k]));
        }
        gradient.values.push_back(sum / (12 * h));
    }
    return gradient;
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
