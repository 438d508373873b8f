// A tensor through a 2-bit quantizer: codes, gradient, a check of that gradient, and how often each code is
// used.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "autograd/check/gradient_check.h"
#include "quant/lsq.h"

using namespace vvtq;

int main() {
    const std::vector<double> values = {-3.1, -1.1, -0.4, -0.1, 0.1, 0.3, 0.6, 2.2};
    const nn::Variable x(nn::Tensor::from(values, {8}, engine::DType::f64), true);
    quant::Lsq quantizer({.bits = 2, .dtype = engine::DType::f64});
    const nn::Variable y = quantizer(x);  // the first tensor sets the step
    y.backward(nn::Tensor::full({8}, 1.0, engine::DType::f64));
    const double alpha = quantizer.step();
    const quant::Inspection seen = quantizer.inspect(x.value());
    std::printf("step %.6f, signal to noise %.2f dB\n\n      x  code       y  dy/dx\n", alpha,
                seen.signal_to_noise_db);
    const std::vector<double> out = y.value().to_vector(), dx = x.grad().to_vector();
    for (size_t i = 0; i < out.size(); ++i)
        std::printf("%7.1f  %4d  %6.3f  %5.0f\n", values[i], seen.codes[i], out[i], dx[i]);
    // The gradient ignores the rounding: it is that of a function whose rounding is frozen.
    autograd::GradientCheckOptions options;
    options.frozen = [&](const autograd::InputValues& at) {
        std::vector<double> frozen = out;
        for (size_t i = 0; i < frozen.size(); ++i) {
            const bool inside = values[i] / alpha >= -2 && values[i] / alpha <= 1;
            frozen[i] += inside ? at[0][i] - values[i] : 0;
        }
        return frozen;
    };
    const autograd::CheckedFunction f = [&](const auto& in) { return quantizer(in[0]); };
    const autograd::GradientCheck check = autograd::check_gradient(f, {x}, options);
    std::printf("\ngradient check: %s\n\n", check.passed ? "passed" : check.report.c_str());
    std::printf("%s", quant::occupancy_chart(seen, quantizer.range(), 20).c_str());
    return check.passed ? 0 : 1;
}
