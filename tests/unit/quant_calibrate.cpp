// calibrate: start steps of weights as the best steps nearby, of activations layer after layer.
#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/attach.h"
#include "quant/calibrate.h"
#include "quant/lsq.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::CodeRange;
using engine::DType;
using engine::Fault;
using engine::Tensor;
using nn::Variable;
using tests::contains;
using tests::filled;
using tests::message_of;
using tests::small_model;
using tests::small_pictures;

double squared_error(const std::vector<double>& x, double a, double o, CodeRange range) {
    double error = 0;
    for (const double value : x) {
        const double v = std::min<double>(range.high, std::max<double>(range.low, (value - o) / a));
        const double distance = value - o - a * std::nearbyint(v);
        error += distance * distance;
    }
    return error;
}

Lsq& quantizer_at(nn::Module& model, const std::string& path) {
    for (const auto& [name, slot] : slots(model)) {
        if (name == path) return dynamic_cast<Lsq&>(*slot->get());
    }
    FAIL("no slot " << path);
    throw engine::Error(Fault::internal, path);
}

Variable parameter_at(const nn::Module& model, const std::string& name) {
    for (const nn::NamedParameter& p : model.parameters()) {
        if (p.name == name) return p.parameter;
    }
    FAIL("no parameter " << name);
    return {};
}

}  // namespace

TEST_CASE("a fitted step is a fixed point no worse than where the fit started") {
    const Tensor w = filled("fit", {30, 20}, 0.7);
    const std::vector<double> values = w.to_vector();
    double most = 0;
    for (const double value : values) most = std::max(most, std::fabs(value));
    for (int bits = 2; bits <= 8; ++bits) {
        const CodeRange range = CodeRange::signed_bits(bits);
        const StepAndOffset fitted = fit_step(w, range);
        CHECK(fitted.offset == 0.0);
        const double error = squared_error(values, fitted.step, 0.0, range);
        CHECK(error <= squared_error(values, most / range.high, 0.0, range));
        if (bits < 5) CHECK(error < 0.9 * squared_error(values, most / range.high, 0.0, range));
        const Tensor sums(engine::Shape{3}, DType::f64);
        engine::kernels(w.device()).lsq_fit_sums(w, fitted.step, 0.0, range, sums);
        const std::vector<double> sum = sums.to_vector();
        CHECK(sum[0] / sum[1] == Approx(fitted.step).epsilon(1e-5));
    }
}

TEST_CASE("values that lie on a grid get that grid") {
    for (const DType dtype : {DType::f32, DType::f64}) {
        const Tensor grid = Tensor::from({-0.75, -0.25, 0.0, 0.5, 0.25, 0.0}, {6}, dtype);
        CHECK(fit_step(grid, CodeRange::signed_bits(3)).step == Approx(0.25).epsilon(1e-12));
        const Tensor shifted = Tensor::from({1.0, 1.25, 1.5, 1.75, 1.25}, {5}, dtype);
        const StepAndOffset fitted = fit_step_and_offset(shifted, CodeRange::unsigned_bits(2));
        CHECK(fitted.step == Approx(0.25).epsilon(1e-12));
        CHECK(fitted.offset == Approx(1.0).epsilon(1e-12));
    }
}

TEST_CASE("an offset lowers the error of values away from zero") {
    const Tensor x = filled("away", {400}, 0.7, DType::f64, 3.0);
    const CodeRange range = CodeRange::unsigned_bits(3);
    const StepAndOffset with = fit_step_and_offset(x, range);
    const StepAndOffset without = fit_step(x, range);
    const double error = squared_error(x.to_vector(), with.step, with.offset, range);
    CHECK(error < 0.2 * squared_error(x.to_vector(), without.step, 0.0, range));
}

TEST_CASE("fits of hopeless values end and are not finite") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const double infinite = std::numeric_limits<double>::infinity();
    const CodeRange range = CodeRange::signed_bits(4);
    for (const std::vector<double>& bad :
         {std::vector<double>{0, 0, 0}, {nan, 1, 2}, {1, nan, 2}, {1, infinite, 2}, {1, -infinite, 2}}) {
        const Tensor w = Tensor::from(bad, {3}, DType::f64);
        CHECK_FALSE(std::isfinite(fit_step(w, range).step));
        if (bad[0] != 0) CHECK_FALSE(std::isfinite(fit_step_and_offset(w, range).step));
    }
}

TEST_CASE("every weight step is the fit of its weight") {
    const auto model = small_model();
    attach(*model, {.weights = 3, .activations = 3});
    calibrate_weights(*model);
    for (const std::string layer : {"patch_embed.proj", "blocks.1.attn.proj_k", "blocks.0.mlp.fc2", "head"}) {
        const Lsq& q = quantizer_at(*model, layer);
        CHECK(q.ready());
        CHECK(q.step() == fit_step(parameter_at(*model, layer + ".weight").value(), q.range()).step);
        CHECK(parameter_at(*model, layer + ".alpha").value().item() == q.step());
    }
}

TEST_CASE("a weight that gives no step is named") {
    const auto model = small_model();
    attach(*model, {.weights = 3, .activations = 3});
    Variable weight = parameter_at(*model, "blocks.1.mlp.fc1.weight");
    weight.set_value(Tensor::zeros(weight.shape(), DType::f64));
    CHECK(contains(message_of(Fault::run, [&] { calibrate_weights(*model); }), "blocks.1.mlp.fc1"));
}

TEST_CASE("calibration sets every activation step from quantized inputs and keeps the mode") {
    const auto model = small_model();
    attach(*model, {.weights = 4, .activations = 2});
    calibrate_weights(*model);
    const Tensor pictures = small_pictures();
    for (const bool mode : {true, false}) {
        model->train(mode);
        const Tensor logits = calibrate_activations(*model, pictures);
        CHECK(model->training() == mode);
        for (const auto& [path, module] : model->modules()) CHECK(module->training() == mode);
        CHECK(logits.shape() == engine::Shape{2, 5});
        // the logits are those of the calibrated model, which computes with codes
        model->train(false);
        const std::vector<double> calibrated = model->forward(pictures).value().to_vector();
        CHECK(tests::relative_error(calibrated, logits.to_vector()) <= 1e-14);  // measured: 1.6e-16
    }
    for (const auto& [path, slot] : slots(*model)) CHECK(dynamic_cast<Lsq&>(*slot->get()).ready());

    // the first quantizer sees the pictures themselves
    double mean = 0;
    for (const double value : pictures.to_vector()) mean += std::fabs(value) / 384.0;
    CHECK(quantizer_at(*model, "patch_embed.quant").step() ==
          Approx(2 * mean / std::sqrt(127.0)).epsilon(1e-12));

    // other weights before it, another step
    const double before = quantizer_at(*model, "blocks.1.mlp.quant1").step();
    quantizer_at(*model, "patch_embed.proj").set_step(0.3);
    calibrate_activations(*model, pictures);
    CHECK(quantizer_at(*model, "blocks.1.mlp.quant1").step() != before);
}

TEST_CASE("calibration names the quantizer that gets no finite input and restores the mode") {
    const auto model = small_model();
    attach(*model, {.weights = 4, .activations = 4});
    calibrate_weights(*model);
    Variable bias = parameter_at(*model, "blocks.1.attn.proj_v.bias");
    bias.set_value(Tensor::full(bias.shape(), std::numeric_limits<double>::quiet_NaN(), DType::f64));
    model->train(true);
    const std::string message =
        message_of(Fault::run, [&] { calibrate_activations(*model, small_pictures()); });
    CHECK(contains(message, "blocks.1.attn.quant_v"));
    CHECK(model->training());
}

}  // namespace vvtq::quant
