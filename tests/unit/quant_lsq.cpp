// Lsq: values, codes, start steps, gradient scales and what inspection says of them.
#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/ops.h"
#include "nn/optimizer.h"
#include "quant/lsq.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::DType;
using engine::Fault;
using engine::Tensor;
using nn::Variable;
using tests::contains;
using tests::filled;
using tests::message_of;

std::vector<QuantizerOptions> all_kinds(DType dtype) {
    std::vector<QuantizerOptions> kinds;
    for (int bits = 2; bits <= 8; ++bits) {
        for (const bool is_signed : {true, false}) {
            for (const bool offset : {true, false}) {
                kinds.push_back({.bits = bits, .is_signed = is_signed, .offset = offset, .dtype = dtype});
            }
        }
    }
    return kinds;
}

double mean_abs(const std::vector<double>& x) {
    double sum = 0;
    for (const double value : x) sum += std::fabs(value);
    return sum / static_cast<double>(x.size());
}

}  // namespace

TEST_CASE("a quantizer works alone and starts at twice the mean over the root of Qp") {
    for (const int bits : {2, 3, 4, 8}) {
        for (const bool is_signed : {true, false}) {
            Lsq q({.bits = bits, .is_signed = is_signed});
            CHECK_FALSE(q.ready());
            const Tensor x = filled("first", {3, 17}, 1.0, DType::f32);
            q(Variable(x));
            CHECK(q.ready());
            // the same divisor for unsigned codes
            const double expected = 2.0 * mean_abs(x.to_vector()) / std::sqrt((1 << (bits - 1)) - 1.0);
            CHECK(q.step() == Approx(expected).epsilon(1e-6));  // f32
            CHECK(q.offset() == 0.0);
            q(Variable(filled("second", {3, 17}, 9.0, DType::f32)));
            CHECK(q.step() == Approx(expected).epsilon(1e-6));
        }
    }
}

TEST_CASE("every value is a code times the step plus the offset, and codes stay in range") {
    for (const QuantizerOptions& options : all_kinds(DType::f64)) {
        Lsq q(options);
        q.set_step(0.0625, options.offset ? -0.5 : 0.0);  // a power of two: products are exact
        const Tensor x = filled("values", {40, 50}, 1.2 * q.range().count() * 0.0625 + 0.5);
        const std::vector<double> y = q(Variable(x)).value().to_vector();
        const Inspection seen = q.inspect(x);
        REQUIRE(seen.codes.size() == y.size());
        CHECK(*std::min_element(seen.codes.begin(), seen.codes.end()) == q.range().low);
        CHECK(*std::max_element(seen.codes.begin(), seen.codes.end()) == q.range().high);
        size_t wrong = 0;
        for (size_t i = 0; i < y.size(); ++i) wrong += !(y[i] == seen.codes[i] * q.step() + q.offset());
        CHECK(wrong == 0);
    }
}

TEST_CASE("quantizing twice changes nothing, and nothing that is already quantized is clipped") {
    for (const DType dtype : {DType::f32, DType::f64}) {
        for (const QuantizerOptions& options : all_kinds(dtype)) {
            Lsq q(options);
            q.set_step(0.25, options.offset ? -0.75 : 0.0);
            const Variable y = q(Variable(filled("once", {31, 7}, q.range().count() * 0.3, dtype)));
            CHECK(q(y).value().to_vector() == y.value().to_vector());
            const Inspection seen = q.inspect(y.value());
            CHECK(seen.clipped_share == 0.0);
            CHECK(seen.signal_to_noise_db == std::numeric_limits<double>::infinity());
        }
    }
}

TEST_CASE("scaling x and the step scales y") {
    const Tensor x = filled("equivariant", {19, 5}, 1.0);
    Tensor doubled = x.like();
    engine::kernels(x.device()).scale(x, 4.0, doubled);
    for (const bool is_signed : {true, false}) {
        Lsq small({.bits = 3, .is_signed = is_signed, .dtype = DType::f64});
        Lsq large({.bits = 3, .is_signed = is_signed, .dtype = DType::f64});
        small.set_step(0.13);
        large.set_step(0.52);
        const Tensor y = small(Variable(x)).value();
        Tensor expected = y.like();
        engine::kernels(x.device()).scale(y, 4.0, expected);
        CHECK(large(Variable(doubled)).value().to_vector() == expected.to_vector());
        CHECK(small.inspect(x).codes == large.inspect(doubled).codes);
    }
}

TEST_CASE("the gradient scale follows the module") {
    const Tensor x = filled("scale", {6, 35}, 2.0);
    const double n = 210, sum = mean_abs(x.to_vector()) * n;
    const Lsq weight({.bits = 4, .weight = true, .dtype = DType::f64});
    const Lsq activation({.bits = 4, .dtype = DType::f64});
    const Lsq unsigned_activation({.bits = 4, .is_signed = false, .dtype = DType::f64});
    CHECK(weight.grad_scale(x).item() == Approx(1.0 / std::sqrt(sum * 7)).epsilon(1e-12));
    CHECK(activation.grad_scale(x).item() == Approx(1.0 / (std::sqrt(n) * 7)).epsilon(1e-12));
    CHECK(unsigned_activation.grad_scale(x).item() == Approx(1.0 / (std::sqrt(n) * 15)).epsilon(1e-12));
    CHECK(activation.grad_scale(filled("scale", {5}, 1.0)).item() ==
          Approx(1.0 / (std::sqrt(5.0) * 7)).epsilon(1e-12));
}

TEST_CASE("the gradients that reach x, step and offset are the specification's") {
    Lsq q({.bits = 2, .is_signed = false, .offset = true, .dtype = DType::f64});
    q.set_step(0.5, -0.25);
    // v = -1, 0.4, 1.6, 3 (in), 3.5; q = 0, 0, 2, 3, 3
    Variable x(Tensor::from({-0.75, -0.05, 0.55, 1.25, 1.5}, {5}, DType::f64), true);
    const Tensor dy = Tensor::from({1.0, 10.0, 100.0, 1000.0, 10000.0}, {5}, DType::f64);
    q(x).backward(dy);
    CHECK(x.grad().to_vector() == std::vector<double>{0, 10, 100, 1000, 0});
    const auto parameters = q.parameters("layer");
    REQUIRE(parameters.size() == 2);
    CHECK(parameters[0].name == "layer.alpha");
    CHECK(parameters[1].name == "layer.beta");
    const double g = 1.0 / (std::sqrt(5.0) * 3);
    const double sum = 0.0 * 1 + (0 - 0.4) * 10 + (2 - 1.6) * 100 + 0.0 * 1000 + 3.0 * 10000;
    CHECK(parameters[0].parameter.grad().item() == Approx(g * sum).epsilon(1e-12));
    CHECK(parameters[1].parameter.grad().item() == Approx(10001.0).epsilon(1e-12));
}

TEST_CASE("a step is at least the least one when it is used: set, started, read from a file, or trained") {
    Lsq q({.bits = 4, .dtype = DType::f64});
    q.set_step(-0.3);
    CHECK(q.step() == engine::kLeastStep);
    q.set_step(2e-4);
    CHECK(q.step() == 2e-4);
    Lsq dark({.bits = 4, .dtype = DType::f64});
    const Tensor black = Tensor::zeros({8}, DType::f64);
    CHECK(dark(Variable(black)).value().to_vector() == black.to_vector());
    CHECK(dark.step() == engine::kLeastStep);

    Lsq read({.bits = 4, .dtype = DType::f64});
    read.parameters()[0].parameter.set_value(Tensor::full({1}, 1e-9, DType::f64));
    read.state_loaded();
    CHECK(read.ready());
    CHECK(read.step() == 1e-9);  // a file that is read and written again stays as it is
    read(Variable(filled("least", {8}, 1.0)));
    CHECK(read.step() == engine::kLeastStep);
    read.parameters()[0].parameter.set_value(Tensor::zeros({1}, DType::f64));
    read.state_loaded();
    CHECK_FALSE(read.ready());  // the file was written before the step had a value

    nn::Adamw optimizer(q.parameters(), {});
    Variable x(filled("least", {8}, 1.0), true);
    for (int i = 0; i < 2; ++i) {  // a step that goes far below, and one from where it was raised to
        q.parameters()[0].parameter.clear_grad();
        autograd::sum(q(x)).backward();
        optimizer.step(10.0);
    }
    q(x);
    CHECK(q.step() >= engine::kLeastStep);
}

TEST_CASE("a quantizer describes itself") {
    Lsq q({.bits = 3, .is_signed = false, .offset = true, .dtype = DType::f64});
    CHECK(q.describe().scale.empty());
    q.set_step(0.25, -0.5);
    const nn::QuantizerDescription seen = q.describe();
    CHECK(seen.kind == "lsq");
    CHECK(seen.bits == 3);
    CHECK(seen.range.low == 0);
    CHECK(seen.range.high == 7);
    CHECK(seen.scale == std::vector<double>{0.25});
    CHECK(seen.offset == std::vector<double>{-0.5});
    CHECK(q.state_names() == std::vector<std::string>{"alpha", "beta"});
    CHECK(q.params(8).has_value());
    q.reset();
    CHECK_FALSE(q.params(8).has_value());
    // of any quantizer, from its description
    q.set_step(0.25, -0.5);
    const Tensor x = filled("described", {5, 7}, 1.0);
    const Inspection own = q.inspect(x), any = inspect(q, x);
    CHECK(any.codes == own.codes);
    CHECK(any.clipped_share == own.clipped_share);
    CHECK(any.signal_to_noise_db == Approx(own.signal_to_noise_db));
}

TEST_CASE("fixed quantizers have parameters that get no gradient") {
    Lsq q({.bits = 3, .is_signed = false, .offset = true, .fixed = true, .dtype = DType::f64});
    Variable x(filled("fixed", {4, 6}, 1.0), true);
    autograd::sum(q(x)).backward();
    CHECK(x.grad().defined());
    REQUIRE(q.parameters().size() == 2);
    for (const nn::NamedParameter& p : q.parameters()) {
        CHECK_FALSE(p.parameter.requires_grad());
        CHECK_FALSE(p.parameter.grad().defined());
    }
}

TEST_CASE("a start step that is not finite names the layer") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const double infinite = std::numeric_limits<double>::infinity();
    for (const double bad : {nan, infinite, -infinite}) {
        for (const bool weight : {true, false}) {
            Lsq q({.bits = 4, .weight = weight, .dtype = DType::f64});
            const autograd::Scope scope("blocks.3.mlp.fc1");
            const std::string message = message_of(Fault::run, [&] {
                q(Variable(Tensor::from({0.5, bad, 0.25}, {3}, DType::f64)));
            });
            CHECK(contains(message, "blocks.3.mlp.fc1"));
            CHECK_FALSE(q.ready());
        }
    }
    Lsq zero({.bits = 4, .weight = true, .dtype = DType::f64});
    CHECK(contains(message_of(Fault::run, [&] { zero(Variable(Tensor::zeros({3}, DType::f64))); }),
                   "all zero"));
}

TEST_CASE("wrong uses are programming errors") {
    for (const int bits : {-1, 0, 1, 9, 32}) message_of(Fault::internal, [&] { Lsq({.bits = bits}); });
    Lsq q({.bits = 4});
    message_of(Fault::internal, [&] { q(Variable(filled("f64", {3}, 1.0))); });
    message_of(Fault::internal, [&] { q.inspect(filled("f32", {3}, 1.0, DType::f32)); });
    message_of(Fault::internal, [&] { q.set_step(0.1, 0.5); });
}

TEST_CASE("inspection counts codes, clipped values and noise") {
    Lsq q({.bits = 2, .dtype = DType::f64});
    q.set_step(1.0);
    // v below -2, in range, on the edge 1, and above it
    const Tensor x = Tensor::from({-3.0, -0.4, 0.6, 1.0, 1.5}, {5}, DType::f64);
    const Inspection seen = q.inspect(x);
    CHECK(seen.codes == std::vector<int>{-2, 0, 1, 1, 1});
    CHECK(seen.occupancy == std::vector<int64_t>{1, 0, 1, 3});
    CHECK(seen.clipped_share == Approx(0.4));
    const double signal = 9 + 0.16 + 0.36 + 1 + 2.25, noise = 1 + 0.16 + 0.16 + 0 + 0.25;
    CHECK(seen.signal_to_noise_db == Approx(10 * std::log10(signal / noise)).epsilon(1e-12));
    CHECK(occupancy_chart(seen, q.range(), 3) ==
          "  -2         1  #\n  -1         0\n   0         1  #\n   1         3  ###\n");
}

}  // namespace vvtq::quant
