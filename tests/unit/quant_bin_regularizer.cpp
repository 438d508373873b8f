// bin_regularizer: its terms against the formula written out, and its weight over the epochs.
#include <cmath>
#include <map>

#include "quant/attach.h"
#include "quant/bin_regularizer.h"
#include "quant/calibrate.h"
#include "quant/lsq.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::CodeRange;
using engine::DType;
using nn::Variable;
using tests::small_model;

/// specification section 5, one weight at a time.
double term_of(const std::vector<double>& w, double a, CodeRange range) {
    std::map<int, std::vector<double>> bins;
    double distance = 0;
    for (const double value : w) {
        const double u = std::min<double>(range.high, std::max<double>(range.low, value / a)) * a;
        const int code = static_cast<int>(std::nearbyint(u / a));
        distance += (code * a - u) * (code * a - u) / static_cast<double>(w.size());
        bins[code].push_back(u);
    }
    double variances = 0;
    for (const auto& [code, members] : bins) {
        const auto n = static_cast<double>(members.size());
        double mean = 0, squares = 0;
        for (const double u : members) mean += u / n;
        for (const double u : members) squares += (u - mean) * (u - mean);
        if (n > 1) variances += squares / (n - 1);
    }
    return distance + variances;
}

/// The regularizer of a forward pass that was asked for it.
BinRegularizer regularizer_of(nn::Model& model) {
    regularize(model, true);
    model.forward(tests::small_pictures(), nn::random_key(0));
    return bin_regularizer(model);
}

}  // namespace

TEST_CASE("every layer's term is the formula's, in module order, and the total their sum") {
    const auto model = small_model();
    attach(*model, {.weights = 2, .activations = 4});
    calibrate_weights(*model);
    const BinRegularizer found = regularizer_of(*model);
    REQUIRE(found.layers.size() == 2 * 6 + 2);
    CHECK(found.layers.front().first == "patch_embed.proj");
    CHECK(found.layers[1].first == "blocks.0.attn.proj_q");
    CHECK(found.layers.back().first == "head");
    double total = 0;
    size_t seen = 0;
    for (const auto& [path, slot] : slots(*model)) {
        if (slot->values() != nn::Values::weight) continue;
        const Lsq& q = dynamic_cast<Lsq&>(*slot->get());
        const double expected = term_of(slot->weight().value().to_vector(), q.step(), q.range());
        INFO(path);
        REQUIRE(found.layers[seen].first == path);
        CHECK(expected > 0);
        CHECK(found.layers[seen].second.item() == Approx(expected).epsilon(1e-12));
        total += expected;
        ++seen;
    }
    CHECK(found.total.value().item() == Approx(total).epsilon(1e-12));
}

TEST_CASE("the gradient goes to weights and steps, and to no step that is fixed") {
    for (const bool fixed : {false, true}) {
        const auto model = small_model();
        attach(*model, {.weights = 2, .activations = 4, .fixed_scale = fixed});
        calibrate_weights(*model);
        regularizer_of(*model).total.backward();
        size_t weights = 0, steps = 0;
        for (const nn::NamedParameter& p : model->parameters()) {
            if (!p.parameter.grad().defined()) continue;
            weights += p.name.ends_with(".weight");
            steps += p.name.ends_with(".alpha");
        }
        CHECK(weights == 14);
        CHECK(steps == (fixed ? 0 : 14));
    }
}

TEST_CASE("weights in the middle of their bins cost nothing") {
    const auto model = small_model();
    attach(*model, {.weights = 4});
    for (const auto& [path, slot] : slots(*model)) {
        if (slot->values() != nn::Values::weight) continue;
        dynamic_cast<Lsq&>(*slot->get()).set_step(0.125);
        Variable w = slot->weight();
        w.set_value((*slot)(w).value());
    }
    CHECK(regularizer_of(*model).total.value().item() == 0.0);
}

TEST_CASE("without LSQ weights there is no regularizer") {
    const auto model = small_model();
    CHECK(bin_regularizer(*model).layers.empty());
    CHECK(bin_regularizer(*model).total.value().item() == 0.0);
    CHECK(bin_regularizer(*model).total.value().dtype() == DType::f64);
    CHECK_FALSE(bin_regularizer(*model).total.requires_grad());
    attach(*model, {.weights = 1, .activations = 1});
    CHECK(regularizer_of(*model).layers.size() == 2);  // the two of 8 bits
}

TEST_CASE("a forward pass that was not asked for the regularizer has none") {
    const auto model = small_model();
    attach(*model, {.weights = 2, .activations = 4});
    const auto ask = [&] { bin_regularizer(*model); };
    tests::message_of(engine::Fault::internal, ask);
    CHECK(regularizer_of(*model).layers.size() == 14);
    regularize(*model, false);
    model->forward(tests::small_pictures(), nn::random_key(0));
    tests::message_of(engine::Fault::internal, ask);
}

TEST_CASE("the regularizer's weight rises from nothing at a quarter to 0.01 at the end") {
    for (const double epochs : {4.0, 30.0, 150.0}) {
        CHECK(bin_regularizer_weight(0, epochs) == 0.0);
        CHECK(bin_regularizer_weight(0.2499 * epochs, epochs) == 0.0);
        CHECK(bin_regularizer_weight(0.25 * epochs, epochs) == Approx(0.0).margin(1e-15));
        CHECK(bin_regularizer_weight(0.625 * epochs, epochs) == Approx(0.005).epsilon(1e-12));
        CHECK(bin_regularizer_weight(epochs, epochs) == Approx(0.01).epsilon(1e-12));
    }
    CHECK(bin_regularizer_weight(38, 150) ==
          Approx(4.873799534788059e-07).epsilon(1e-9));  // the published code
    tests::message_of(engine::Fault::internal, [] { bin_regularizer_weight(0, 0); });
}

}  // namespace vvtq::quant
