// The gradient check finds what is wrong: a factor, one element among a thousand, a lost sum, a wrong frozen
// function.
#include "autograd/check/gradient_check.h"

#include <cmath>

#include "tests/catch.h"
#include "tests/golden_inputs.h"

namespace vvtq::autograd {

namespace {

using engine::DType;

Variable input(int64_t n, bool requires_grad = true, DType dtype = DType::f64) {
    return Variable(Tensor::from(tests::fill("check", n, 1.0, 0.25), {n}, dtype), requires_grad);
}

/// y = sin(x), with dx = mend(cos(x) dy).
CheckedFunction sine(const std::function<void(std::vector<double>&)>& mend) {
    return [mend](const std::vector<Variable>& in) {
        const Tensor x = in[0].value();
        std::vector<double> y = x.to_vector();
        for (double& value : y) value = std::sin(value);
        const auto backward = [x, mend](const Tensor& dy, Gradients& dx) {
            std::vector<double> gradient = x.to_vector();
            const std::vector<double> upstream = dy.to_vector();
            for (size_t i = 0; i < gradient.size(); ++i) gradient[i] = std::cos(gradient[i]) * upstream[i];
            mend(gradient);
            dx.set(0, Tensor::from(gradient, x.shape(), DType::f64));
        };
        return record("test.sine", Tensor::from(y, x.shape(), DType::f64), {in[0]}, backward);
    };
}

GradientCheck check_sine(int64_t n, const std::function<void(std::vector<double>&)>& mend) {
    return check_gradient(sine(mend), {input(n)});
}

}  // namespace

TEST_CASE("gradient check: a right gradient passes", "[check]") {
    for (const int64_t n : {1, 7, 1000, 20000}) {
        const GradientCheck check = check_sine(n, [](auto&) {});
        INFO(check.report);
        CHECK(check.passed);
        CHECK(check.inputs.size() == 1);
        CHECK(check.inputs[0].elements <= 1e-10);
        CHECK(check.inputs[0].directions <= 1e-10);
        CHECK(check.inputs[0].wrong_scale > 1e-4);
        CHECK(check.inputs[0].wrong_share > 1e-4);
    }
}

TEST_CASE("gradient check: wrong gradients fail, wherever they are wrong", "[check]") {
    CHECK_FALSE(check_sine(10, [](auto& dx) {
                    for (double& value : dx) value *= 1.0001;
                }).passed);
    // No element that is moved alone is wrong here: directions find it.
    const GradientCheck check = check_sine(20000, [](auto& dx) { dx[7001] += 0.01; });
    CHECK_FALSE(check.passed);
    CHECK(check.inputs[0].elements <= 1e-10);
    CHECK_FALSE(check_sine(20000, [](auto& dx) { std::swap(dx[500], dx[501]); }).passed);
    CHECK_FALSE(check_sine(10, [](auto& dx) { dx[3] = std::nan(""); }).passed);
    CHECK_FALSE(check_sine(10, [](auto& dx) { dx.assign(10, 0.0); }).passed);
}

TEST_CASE("gradient check: a check that cannot fail does not pass", "[check]") {
    const CheckedFunction zero = [](const std::vector<Variable>& in) {
        return record(
            "test.zero", Tensor::zeros({1}, DType::f64), in,
            [n = in[0].shape()](const Tensor&, Gradients& dx) { dx.set(0, Tensor::zeros(n, DType::f64)); });
    };
    CHECK_FALSE(check_gradient(zero, {input(3)}).passed);
}

TEST_CASE("gradient check: straight-through ops are compared with their frozen function", "[check]") {
    const CheckedFunction rounded = [](const std::vector<Variable>& in) {
        std::vector<double> y = in[0].value().to_vector();
        for (double& value : y) value = std::nearbyint(value);
        return record("test.round", Tensor::from(y, in[0].shape(), DType::f64), in,
                      [](const Tensor& dy, Gradients& dx) { dx.set(0, dy); });
    };
    const Variable x(Tensor::from({0.2, 0.7, 1.4, -2.3}, {4}, DType::f64), true);
    CHECK_FALSE(check_gradient(rounded, {x}).passed);  // its derivative is zero
    GradientCheckOptions options;
    options.frozen = [&](const InputValues& at) {
        std::vector<double> y = x.value().to_vector();
        for (size_t i = 0; i < y.size(); ++i) y[i] = at[0][i] + (std::nearbyint(y[i]) - y[i]);
        return y;
    };
    CHECK(check_gradient(rounded, {x}, options).passed);
    options.frozen = [](const InputValues& at) { return at[0]; };  // the same derivative, but not the op
    CHECK_FALSE(check_gradient(rounded, {x}, options).passed);
}

TEST_CASE("gradient check: what cannot be checked is an error", "[check]") {
    const auto message = [](const std::vector<Variable>& inputs) -> std::string {
        try {
            check_gradient(sine([](auto&) {}), inputs);
        } catch (const engine::Error& error) {
            return error.what();
        }
        return "";
    };
    CHECK(message({input(3, false)}).find("no input requires a gradient") != std::string::npos);
    CHECK(message({input(3, true, DType::f32)}).find("in f64 on the CPU") != std::string::npos);
    CHECK(message({input(3), input(2)}).find("no gradient arrived at input 1") != std::string::npos);
}

}  // namespace vvtq::autograd
