// Quantizers, losses and schedules against figures of the published code (ops.json), in f64.
#include <cmath>

#include "autograd/ops.h"
#include "quant/bin_regularizer.h"
#include "quant/calibrate.h"
#include "quant/lsq.h"
#include "tests/catch.h"
#include "tests/golden_inputs.h"
#include "tests/quant_params.h"

using namespace vvtq;
using namespace vvtq::tests;
using autograd::Variable;
using engine::CodeRange;
using engine::DType;
using engine::Shape;
using engine::Tensor;
using nlohmann::json;

namespace {

constexpr double kTolerance = 1e-10;
constexpr int kFewestBits = 2;  // lists over bit widths start here

json read_ops() { return read_golden(golden_file("ops.json")); }

/// Calls f(bits, figures) for every bit width of the file.
template <typename F>
void for_each_bits(F&& f) {
    const json ops = read_ops();
    int found = 0;
    for (const auto& [key, figures] : ops.items()) {
        if (key.rfind("bits", 0) == 0) {
            INFO(key);
            ++found;
            f(std::stoi(key.substr(4)), figures);
        }
    }
    CHECK(found >= 1);
}

Tensor named(const std::string& name, const Shape& shape, double scale, double offset = 0.0) {
    static const std::string tag = read_ops().value("tag", "");
    return Tensor::from(fill(tag + name, shape.numel(), scale, offset), shape, DType::f64);
}

double at_bits(const json& list, int bits) { return list.at(static_cast<size_t>(bits - kFewestBits)); }

void check_equal(const Tensor& value, const json& expected) {
    CHECK(value.shape() == shape_of(expected));
    CHECK(relative_error(value.to_vector(), numbers(expected)) <= kTolerance);
}

void check_equal(double value, double expected) { CHECK(relative_error({value}, {expected}) <= kTolerance); }

Tensor absolute(const Tensor& x) {
    std::vector<double> values = x.to_vector();
    for (double& value : values) {
        value = std::abs(value);
    }
    return Tensor::from(values, x.shape(), x.dtype());
}

/// Activation quantizer `name` of the file: start value, output, gradients.
void check_activation(const json& figures, int bits, bool is_signed, bool offset) {
    const Shape shape = shape_of(figures["y"]);
    quant::QuantizerOptions options;
    options.bits = bits;
    options.is_signed = is_signed;
    options.offset = offset;
    options.dtype = DType::f64;
    quant::Lsq quantizer(options);
    const Variable x(named("lsq_act", shape, 1.0, 0.3), true);
    quantizer(Variable(x.value()));  // sets the step
    check_equal(quantizer.step(), at_bits(figures["alpha_init"], bits));
    if (offset) {
        quantizer.set_step(quantizer.step(), -0.11);
    }
    const Variable y = quantizer(x);
    y.backward(named("lsq_gact", shape, 1.0));
    check_equal(y.value(), figures["y"]);
    check_equal(x.grad(), figures["gx"]);
    for (const nn::NamedParameter& p : quantizer.parameters()) {
        INFO(p.name);
        check_equal(p.parameter.grad().item(),
                    at_bits(figures[p.name == "alpha" ? "galpha" : "gbeta"], bits));
    }
    CHECK(quantizer.parameters().size() == (offset ? 2 : 1));
}

}  // namespace

TEST_CASE("golden ops: start steps of weights", "[golden]") {
    for_each_bits([](int, const json& figures) {
        const Tensor w = named("lsq_w", shape_of(figures["linear"]["gw"]), 0.7);
        for (int bits = kFewestBits; bits <= 8; ++bits) {
            INFO(bits << " bits");
            check_equal(quant::fit_step(w, CodeRange::signed_bits(bits)).step,
                        at_bits(figures["alpha_mse"], bits));
            check_equal(quant::fit_step(absolute(w), CodeRange::unsigned_bits(bits)).step,
                        at_bits(figures["alpha_mse_unsigned"], bits));
            const auto fit = quant::fit_step_and_offset(absolute(w), CodeRange::unsigned_bits(bits));
            check_equal(fit.step, at_bits(figures["alpha_beta_offset"][0], bits));
            check_equal(fit.offset, at_bits(figures["alpha_beta_offset"][1], bits));
        }
    });
}

TEST_CASE("golden ops: linear layer with quantized weight", "[golden]") {
    for_each_bits([](int bits, const json& figures) {
        const json& linear = figures["linear"];
        const CodeRange range = CodeRange::signed_bits(bits);
        const Variable x(named("lsq_x", shape_of(linear["gx"]), 1.3), true);
        const Variable w(named("lsq_w", shape_of(linear["gw"]), 0.7), true);
        const Variable bias(named("lsq_b", shape_of(linear["gb"]), 0.05), true);
        const Variable alpha(Tensor::full({1}, at_bits(figures["alpha_mse"], bits), DType::f64), true);
        const Tensor g({1}, DType::f64);
        const autograd::QuantParams params = quant_params(alpha, {}, range, g);
        engine::kernels(engine::Device::cpu).lsq_weight_grad_scale(w.value(), params.values(), g);
        const Variable y = autograd::linear(x, autograd::lsq(w, params), bias);
        y.backward(named("lsq_gy", y.shape(), 1.0));
        check_equal(y.value(), linear["y"]);
        check_equal(x.grad(), linear["gx"]);
        check_equal(w.grad(), linear["gw"]);
        check_equal(bias.grad(), linear["gb"]);
        check_equal(alpha.grad().item(), at_bits(linear["galpha"], bits));
    });
}

TEST_CASE("golden ops: activation quantizers", "[golden]") {
    for_each_bits([](int bits, const json& figures) {
        check_activation(figures["act_signed"], bits, true, false);
        check_activation(figures["act_unsigned"], bits, false, false);
        check_activation(figures["act_unsigned_offset"], bits, false, true);
    });
}

TEST_CASE("golden ops: one bit", "[golden]") {
    const json figures = read_ops()["binary"];
    const Variable x(named("bin_x", shape_of(figures["gx"]), 1.6), true);
    const Shape shape = shape_of(figures["gw"]);
    const Variable w(named("lsq_w", shape, 0.7), true);
    const Variable bias(named("lsq_b", {shape[0]}, 0.05));
    const Variable weight =
        autograd::reshape(autograd::binary(autograd::reshape(w, {1, shape[0], shape[1]}), {1}), shape);
    const Variable y = autograd::linear(autograd::binary(x, {x.shape()[0]}), weight, bias);
    y.backward(named("bin_gy", y.shape(), 1.0));
    check_equal(y.value(), figures["y"]);
    check_equal(x.grad(), figures["gx"]);
    check_equal(w.grad(), figures["gw"]);
}

TEST_CASE("golden ops: soft-label cross-entropy", "[golden]") {
    const json labels = read_ops()["soft_labels"];
    const json& figures = labels["soft_cross_entropy"];
    const Shape shape = shape_of(figures["grad"]);
    const Variable z(named("sce_logits", shape, 3.0), true);
    const Variable p = autograd::softmax(Variable(named("soft_logits", shape, 4.0)));
    const json& packed =
        labels["marginal_smoothing_k10"]["packed"];  // per row indices, then values of the largest
    for (int64_t row = 0; row < shape[0]; ++row) {
        const std::vector<double> of_row = p.value().slice(row, row + 1).to_vector();
        const json& indices = packed.at(static_cast<size_t>(row)).at(0);
        std::vector<double> largest;
        for (const double index : numbers(indices)) {
            largest.push_back(of_row.at(static_cast<size_t>(index)));
        }
        CHECK(relative_error(largest, numbers(packed.at(static_cast<size_t>(row)).at(1))) <= kTolerance);
    }
    const Variable loss = autograd::soft_cross_entropy(z, p.value());
    loss.backward();
    check_equal(loss.value().item(), figures["loss"]);
    check_equal(z.grad(), figures["grad"]);
}

TEST_CASE("golden ops: weight of the bin regularizer over epochs", "[golden]") {
    const json schedule = read_ops()["reg_weight_schedule"];
    const double epochs = schedule["epochs"];
    for (const auto& [epoch, expected] : schedule["at"].items()) {
        INFO("epoch " << epoch);
        check_equal(quant::bin_regularizer_weight(std::stod(epoch), epochs), expected.get<double>());
    }
}
