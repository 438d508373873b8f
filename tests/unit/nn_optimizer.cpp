// AdamW against its formula in plain doubles, its groups, clipping and state.
#include <cmath>

#include "autograd/ops.h"
#include "nn/optimizer.h"
#include "tests/catch.h"

namespace vvtq::nn {

namespace {

using engine::DType;

/// Gives `p` the gradient `g` (same shape).
void give_gradient(const Variable& p, const std::vector<double>& g) {
    autograd::scale(p, 1.0).backward(Tensor::from(g, p.shape(), p.value().dtype()));
}

Variable parameter(const std::vector<double>& values, const engine::Shape& shape, DType dtype = DType::f64) {
    return Variable(Tensor::from(values, shape, dtype), true);
}

/// One element of AdamW (Loshchilov & Hutter 2019, algorithm 2 with the learning rate in the decay).
struct Reference {
    double p, m = 0, v = 0;
    int t = 0;
    void step(double g, double lr, double decay) {
        ++t;
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        p -= lr * decay * p;
        p -= lr * (m / (1 - std::pow(0.9, t))) / (std::sqrt(v / (1 - std::pow(0.999, t))) + 1e-8);
    }
};

}  // namespace

TEST_CASE("AdamW follows its formula; biases, steps and one-dimensional weights do not decay") {
    std::vector<NamedParameter> parameters = {{"fc.weight", parameter({1.0, -2.0}, {1, 2})},
                                              {"fc.bias", parameter({0.5}, {1})},
                                              {"fc.alpha", parameter({0.25}, {1})},
                                              {"pos_embed", parameter({0.75}, {1, 1, 1})},
                                              {"odd.bias", parameter({3.0}, {1, 1})}};
    Adamw optimizer(parameters, {.weight_decay = 0.1});
    std::vector<Reference> reference = {{1.0}, {-2.0}, {0.5}, {0.25}, {0.75}, {3.0}};
    const std::vector<double> decay = {0.1, 0.1, 0, 0, 0.1, 0};
    for (int step = 0; step < 4; ++step) {
        const double lr = 0.01 * (step + 1);
        std::vector<double> g;
        for (size_t i = 0; i < reference.size(); ++i) {
            g.push_back(std::sin(1.0 + 2.0 * static_cast<double>(i) + step));
            reference[i].step(g.back(), lr, decay[i]);
        }
        optimizer.clear_grad();
        give_gradient(parameters[0].parameter, {g[0], g[1]});
        for (size_t i = 1; i < parameters.size(); ++i) give_gradient(parameters[i].parameter, {g[i + 1]});
        optimizer.step(lr);
    }
    std::vector<double> got;
    for (const NamedParameter& p : parameters) {
        for (const double v : p.parameter.value().to_vector()) got.push_back(v);
    }
    REQUIRE(got.size() == reference.size());
    for (size_t i = 0; i < got.size(); ++i) {
        INFO(i);
        CHECK(got[i] == Approx(reference[i].p).epsilon(1e-13));
    }
    CHECK(optimizer.steps_done() == 4);
}

TEST_CASE("a parameter without a gradient is left alone, decay included") {
    const Variable with = parameter({1, 1}, {1, 2}), without = parameter({1, 1}, {1, 2});
    Adamw optimizer({{"a.weight", with}, {"b.weight", without}}, {});
    give_gradient(with, {1, 1});
    optimizer.step(0.1);
    CHECK(with.value().to_vector() != std::vector<double>{1, 1});
    CHECK(without.value().to_vector() == std::vector<double>{1, 1});
}

TEST_CASE("a shared parameter is updated once, under its first name; constants are not updated") {
    const Variable shared = parameter({2.0}, {1});
    const Variable constant(Tensor::full({1}, 4.0, DType::f64));
    Adamw optimizer({{"a.alpha", shared}, {"b.alpha", shared}, {"c.alpha", constant}}, {});
    CHECK(optimizer.state().size() == 2);
    CHECK(optimizer.state()[0].first == "a.alpha.exp_avg");
    give_gradient(shared, {1.0});
    optimizer.step(0.5);
    CHECK(shared.value().item() == Approx(1.5).epsilon(1e-7));
}

TEST_CASE("clipping scales the gradients to the largest norm") {
    const Variable a = parameter({0, 0}, {2}), b = parameter({0}, {1});
    Adamw optimizer({{"a.alpha", a}, {"b.alpha", b}}, {.clip_grad = 0.5});
    give_gradient(a, {3, 0});
    give_gradient(b, {4});
    optimizer.step(0.1);
    const auto state = optimizer.state();  // the first moment is 0.1 g after one step
    CHECK(state[0].second.to_vector()[0] == Approx(0.1 * 0.3).epsilon(1e-13));
    CHECK(state[2].second.to_vector()[0] == Approx(0.1 * 0.4).epsilon(1e-13));
}

TEST_CASE("gradients below the limit are not clipped") {
    const Variable a = parameter({0}, {1});
    Adamw optimizer({{"a.alpha", a}}, {.clip_grad = 10.0});
    give_gradient(a, {3});
    optimizer.step(0.1);
    CHECK(optimizer.state()[0].second.item() == Approx(0.3).epsilon(1e-14));
}

TEST_CASE("an update works by the schedule it was given before, and counts there") {
    const Variable a = parameter({1.0}, {1}), b = parameter({1.0}, {1});
    Adamw one({{"a.alpha", a}}, {}), other({{"b.alpha", b}}, {});
    for (int step = 0; step < 3; ++step) {
        one.clear_grad();
        other.clear_grad();
        give_gradient(a, {0.3 * step + 0.1});
        give_gradient(b, {0.3 * step + 0.1});
        one.step(0.1 * (step + 1));
        other.schedule(0.1 * (step + 1));
        CHECK(other.steps_done() == step + 1);
        other.update();
    }
    CHECK(a.value().item() == b.value().item());
}

TEST_CASE("an optimizer changes nothing while found_inf is set") {
    const Variable a = parameter({1.0, 2.0}, {2});
    Adamw optimizer({{"a.weight", a}}, {.clip_grad = 0.5});
    CHECK(optimizer.found_inf().item() == 0);
    engine::kernels(a.value().device())
        .find_not_finite(Tensor::full({1}, std::nan(""), DType::f64), optimizer.found_inf());
    give_gradient(a, {3, 4});
    optimizer.step(0.1);
    CHECK(optimizer.found_inf().item() == 1);
    CHECK(a.value().to_vector() == std::vector<double>{1, 2});
    CHECK(optimizer.state()[0].second.to_vector() == std::vector<double>{0, 0});
    *optimizer.found_inf().data<int32_t>() = 0;
    optimizer.step(0.1);
    CHECK(optimizer.found_inf().item() == 0);
    CHECK(a.value().to_vector() != std::vector<double>{1, 2});
}

TEST_CASE("an update that makes a step not finite halts what follows") {
    const Variable a = parameter({1.0}, {1}), w = parameter({1.0, 1.0}, {1, 2});
    Adamw optimizer({{"a.alpha", a}, {"w.weight", w}}, {});
    give_gradient(a, {1});
    give_gradient(w, {1, 1});
    optimizer.step(HUGE_VAL);
    CHECK(optimizer.found_inf().item() == 2);
    CHECK_FALSE(std::isfinite(a.value().item()));
    const std::vector<double> stopped = w.value().to_vector();
    optimizer.step(0.1);
    CHECK(w.value().to_vector() == stopped);
}

TEST_CASE("a gradient that is not finite changes nothing, neither then nor later") {
    const Variable a = parameter({1.0}, {1}), w = parameter({1.0, 1.0}, {1, 2});
    Adamw optimizer({{"a.alpha", a}, {"w.weight", w}}, {});
    give_gradient(a, {1});
    give_gradient(w, {1, HUGE_VAL});
    optimizer.step(0.1);
    CHECK(optimizer.found_inf().item() == 4);
    give_gradient(w, {1, 1});
    optimizer.step(0.1);
    CHECK(a.value().item() == 1.0);
    CHECK(w.value().to_vector() == std::vector<double>{1, 1});
    for (const auto& [name, moment] : optimizer.state()) CHECK(moment.to_vector()[0] == 0);
}

TEST_CASE("a run that goes on from saved moments ends in the same bits") {
    const auto gradient = [](int step) { return std::vector<double>{std::cos(step), 0.1 * step}; };
    const Variable straight = parameter({1, 2}, {1, 2}, DType::f32);
    Adamw whole({{"w.weight", straight}}, {});
    const Variable stopped = parameter({1, 2}, {1, 2}, DType::f32);
    Adamw before({{"w.weight", stopped}}, {});
    for (int step = 0; step < 6; ++step) {
        whole.clear_grad();
        give_gradient(straight, gradient(step));
        whole.step(0.01);
    }
    for (int step = 0; step < 3; ++step) {
        before.clear_grad();
        give_gradient(stopped, gradient(step));
        before.step(0.01);
    }
    const Variable resumed(stopped.value().clone(), true);
    Adamw after({{"w.weight", resumed}}, {});
    after.load_state(before.state(), before.steps_done());
    for (int step = 3; step < 6; ++step) {
        after.clear_grad();
        give_gradient(resumed, gradient(step));
        after.step(0.01);
    }
    CHECK(resumed.value().to_vector() == straight.value().to_vector());
    CHECK(after.steps_done() == 6);
}

TEST_CASE("a state that does not fit is refused with the names of what is wrong") {
    Adamw optimizer({{"a.weight", parameter({1, 2}, {1, 2})}, {"b.alpha", parameter({1}, {1})}}, {});
    auto state = optimizer.state();
    state[0].second = Tensor::zeros({2, 2}, DType::f64);
    state.erase(state.begin() + 3);
    try {
        optimizer.load_state(state, 1);
        FAIL("accepted");
    } catch (const engine::Error& error) {
        const std::string message = error.what();
        INFO(message);
        CHECK(error.fault() == engine::Fault::input);
        CHECK(message.find("a.weight.exp_avg (2, 2)") != std::string::npos);
        CHECK(message.find("b.alpha.exp_avg_sq (missing)") != std::string::npos);
        CHECK(message.find("b.alpha.exp_avg (") == std::string::npos);
    }
    CHECK(optimizer.steps_done() == 0);
}

}  // namespace vvtq::nn
