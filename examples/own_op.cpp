// A differentiable op of one's own, outside of vvtq: y = x sigmoid(k x), with gradients for x and for k.
#include <cmath>
#include <cstdio>

#include "autograd/check/gradient_check.h"
#include "autograd/ops.h"

using namespace vvtq;
using autograd::Tensor;
using autograd::Variable;

/// y = x sigmoid(k x) of any shape, in f32 or f64; k (1) of the same dtype.
Variable swish(const Variable& x, const Variable& k) {
    const Tensor x_value = x.value(), k_value = k.value();  // backward keeps tensors, never variables
    const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
    std::vector<double> y = x_value.to_vector();
    for (double& v : y) v *= sigmoid(k_value.item() * v);

    const auto backward = [=](const Tensor& dy, autograd::Gradients& gradients) {
        const std::vector<double> upstream = dy.to_vector(), at = x_value.to_vector();
        const double slope = k_value.item();
        std::vector<double> dx(at.size());
        double dk = 0;
        for (size_t i = 0; i < at.size(); ++i) {
            const double s = sigmoid(slope * at[i]);
            dx[i] = upstream[i] * (s + slope * at[i] * s * (1 - s));
            dk += upstream[i] * at[i] * at[i] * s * (1 - s);
        }
        gradients.set(0, Tensor::from(dx, x_value.shape(), x_value.dtype()));
        gradients.set(1, Tensor::from({dk}, {1}, x_value.dtype()));
    };
    return autograd::record("swish", Tensor::from(y, x_value.shape(), x_value.dtype()), {x, k}, backward);
}

int main() {
    const Variable x(Tensor::from({-2.0, -0.5, 0.0, 1.0, 3.0, 0.25}, {2, 3}, engine::DType::f64), true);
    const Variable k(Tensor::full({1}, 1.5, engine::DType::f64), true);

    // Among other ops, with a gradient of 1 from above: y = swish(x) + x.
    autograd::add(swish(x, k), x).backward(Tensor::full({2, 3}, 1.0, engine::DType::f64));
    std::printf("dx:");
    for (const double value : x.grad().to_vector()) std::printf(" %.6f", value);
    std::printf("\ndk: %.6f\n", k.grad().item());

    const auto check = autograd::check_gradient([](const auto& in) { return swish(in[0], in[1]); }, {x, k});
    std::printf("gradient check: %s\n", check.passed ? "passed" : check.report.c_str());
    return check.passed ? 0 : 1;
}
