// A quantizer that only this file knows: registered by one line, attached by name, trained, saved, inspected.
#include <cmath>

#include "autograd/ops.h"
#include "nn/losses.h"
#include "nn/optimizer.h"
#include "quant/attach.h"
#include "quant/calibrate.h"
#include "quant/inspect.h"
#include "quant/registry.h"
#include "tests/catch.h"
#include "tests/unit/quant_support.h"

using namespace vvtq;
using engine::Tensor;
using nn::Variable;

namespace {

/// LSQ's codes with a step that is rounded to a power of two; the gradient reaches the step itself.
class PowerOfTwo : public nn::Quantizer {
  public:
    explicit PowerOfTwo(const quant::QuantizerOptions& options)
        : options_(options),
          range_(options.is_signed ? engine::CodeRange::signed_bits(options.bits)
                                   : engine::CodeRange::unsigned_bits(options.bits)),
          step_(add_parameter("step", Tensor::zeros({1}, options.dtype, options.device))) {}

    Variable operator()(const Variable& x) override {
        if (!ready_) calibrate(x.value());
        const Tensor rounded = Tensor::full({1}, power(), options_.dtype, options_.device);
        const Tensor g = Tensor::full({1}, 0.01, options_.dtype, options_.device);
        const Variable straight =
            autograd::record("test.round_step", rounded, {step_},
                             [](const Tensor& dy, autograd::Gradients& dx) { dx.set(0, dy); });
        return autograd::lsq(x, {straight, {}, engine::range_tensor(range_, options_.device), g});
    }
    nn::QuantizerDescription describe() const override {
        return {
            "power of two", options_.bits, range_, ready_ ? std::vector{power()} : std::vector<double>{}, {}};
    }
    bool ready() const override { return ready_; }
    void reset() override { ready_ = false; }
    void calibrate(const Tensor& x) override {
        engine::kernels(options_.device).fill(quant::activation_start(x, options_.bits), step_.value());
        ready_ = true;
    }
    std::vector<std::string> state_names() const override { return {"step"}; }
    void state_loaded() override { ready_ = true; }
    double power() const { return std::exp2(std::round(std::log2(std::max(1e-4, step_.value().item())))); }

  private:
    quant::QuantizerOptions options_;
    engine::CodeRange range_;
    Variable& step_;
    bool ready_ = false;
};

const bool known = quant::register_quantizer(
    {"power of two", [](const quant::QuantizerOptions& o) { return std::make_unique<PowerOfTwo>(o); }});

}  // namespace

TEST_CASE("a quantizer of a test file is attached by name, trained, and inspected") {
    REQUIRE(known);
    CHECK_THROWS_AS(quant::register_quantizer({"power of two", nullptr}), engine::Error);
    const auto model = tests::small_model();
    quant::attach(*model, {.weights = 3,
                           .activations = 3,
                           .weight_quantizer = "power of two",
                           .activation_quantizer = "power of two"});
    quant::calibrate_weights(*model);
    quant::calibrate_activations(*model, tests::small_pictures());
    nn::Adamw optimizer(model->parameters(), {});
    const Tensor targets = Tensor::full({2, 5}, 0.2, engine::DType::f64);
    std::vector<double> losses;
    for (int i = 0; i < 5; ++i) {
        optimizer.clear_grad();
        const Variable loss =
            nn::soft_cross_entropy(model->forward(tests::small_pictures(), nn::random_key(0)), targets);
        loss.backward();
        optimizer.step(1e-3);
        losses.push_back(loss.value().item());
    }
    CHECK(losses.back() < losses.front());
    int found = 0;
    const std::set<std::string> names = quant::quantizer_state_names(*model);
    for (const nn::NamedParameter& p : model->parameters()) {
        if (!p.name.ends_with(".step")) continue;
        CHECK(names.count(p.name) == 1);
        ++found;
    }
    CHECK(found > 20);
    for (const auto& [path, slot] : quant::slots(*model)) {
        INFO(path);
        REQUIRE(slot->get() != nullptr);
        if (slot->values() != nn::Values::weight) continue;
        const nn::QuantizerDescription description = slot->get()->describe();
        CHECK(description.kind == "power of two");
        CHECK(std::log2(description.scale[0]) == std::round(std::log2(description.scale[0])));
        const quant::Inspection seen = quant::inspect(*slot->get(), slot->weight().value());
        CHECK(static_cast<int64_t>(seen.codes.size()) == slot->weight().value().numel());
        CHECK(seen.signal_to_noise_db > 0);
    }
}
